"""ShareAlignment: counts against a slow loop, the update against its equation, and what it is for."""

from __future__ import annotations

import math

import pytest
import torch

from protoseg.nn.share_alignment import ShareAlignment
from protoseg.types import IGNORE_INDEX


def test_count_is_a_loop_over_pixels() -> None:
    gen = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (2, 5, 7), generator=gen)
    label[0, :2] = IGNORE_INDEX
    valid = torch.rand(label.shape, generator=gen) < 0.6
    alignment = ShareAlignment([1] * 5)
    for mask in (None, valid):
        expected = [0.0] * 5
        for place in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist():
            value, counts = int(label[tuple(place)]), mask is None or bool(mask[tuple(place)])
            if value != IGNORE_INDEX and counts:
                expected[value] += 1
        assert alignment.count(label, mask).tolist() == expected


def test_forward_adds_the_bias_of_each_class() -> None:
    alignment = ShareAlignment([1] * 3)
    alignment.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
    logits = torch.randn(2, 3, 4, 5)
    aligned = alignment(logits)
    for c, bias in enumerate([1.0, -2.0, 0.5]):
        torch.testing.assert_close(aligned[:, c], logits[:, c] + bias)


def test_update_follows_its_equation() -> None:
    alignment = ShareAlignment([45, 15], momentum=0.9, rate=0.1)
    share, bias = None, [0.0, 0.0]
    for pseudo in [8.0, 2.0], [9.0, 1.0], [10.0, 0.0]:
        alignment.update(torch.tensor(pseudo, dtype=torch.float64))
        now = [value / sum(pseudo) for value in pseudo]
        share = now if share is None else [0.9 * a + 0.1 * b for a, b in zip(share, now, strict=True)]
        for c, wanted in enumerate((0.75, 0.25)):
            bias[c] += 0.1 * math.log((wanted + 1e-4) / (share[c] + 1e-4))
    assert alignment.bias.tolist() == pytest.approx(bias, rel=1e-5)
    assert alignment.share.tolist() == pytest.approx(share, rel=1e-5)


def test_nothing_to_count_changes_nothing_and_stays_finite() -> None:
    alignment = ShareAlignment([1, 1, 0])
    alignment.update(torch.zeros(3, dtype=torch.float64))
    assert alignment.bias.isfinite().all()
    assert alignment.share.tolist() == [0, 0, 0]


def test_bias_stays_within_its_limit() -> None:
    alignment = ShareAlignment([1, 999], rate=10.0, limit=4.0)
    alignment.update(torch.tensor([999.0, 1.0], dtype=torch.float64))
    assert alignment.bias.tolist() == pytest.approx([-math.log(4), math.log(4)])


def test_a_timid_class_gets_the_share_it_has_on_the_labels() -> None:
    """A network that is right on average and never names the rare class: after some hundred steps its labels do."""
    gen, alignment = torch.Generator().manual_seed(0), ShareAlignment([900, 100])
    shares = []
    for _ in range(800):
        logits = torch.randn(1, 2, 16, 16, generator=gen)
        logits[:, 0] += 4  # the rare class wins in 0.2 % of the pixels
        label = alignment(logits).argmax(dim=1)
        shares.append((label == 1).float().mean().item())
        alignment.update(alignment.count(label))
    assert sum(shares[:20]) / 20 < 0.02
    assert sum(shares[-200:]) / 200 == pytest.approx(0.1, abs=0.02)
    assert max(sum(shares[i : i + 100]) / 100 for i in range(700)) < 0.2  # it overshoots a little


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"rate": 0.0}, {"limit": 0.5}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ShareAlignment([1, 1], **options)


def test_without_a_label_there_are_no_shares() -> None:
    with pytest.raises(ValueError, match="no pixel is labelled"):
        ShareAlignment([0, 0])
