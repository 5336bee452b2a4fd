"""Losses against loops written from their equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protoseg.functional.losses import class_weights, cross_entropy, global_mean, global_means, masked_mean, ohem_cross_entropy
from protoseg.nn.balanced_loss import BalancedCrossEntropy
from protoseg.types import IGNORE_INDEX


def pixels(logits: Tensor, label: Tensor) -> list[tuple[float, int]]:
    """(cross-entropy, label) of each pixel of (B, C, H, W) logits, one at a time; 0 where ignored."""
    result = []
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist():
        scores, c = logits[b, :, y, x].double().tolist(), int(label[b, y, x])
        top = max(scores)
        log_sum = top + math.log(sum(math.exp(s - top) for s in scores))
        result.append((log_sum - scores[c] if c != IGNORE_INDEX else 0.0, c))
    return result


def slow_ohem(logits: Tensor, label: Tensor, threshold: float, min_kept: int) -> float:
    """Section 2.1 of the method: a full sort of the true class's probabilities."""
    losses = [loss for loss, c in pixels(logits, label) if c != IGNORE_INDEX]
    if not losses:
        return 0.0
    ordered = sorted(math.exp(-loss) for loss in losses)
    cut = 1.0 if len(losses) < min_kept else max(threshold, ordered[min_kept - 1])
    kept = [loss for loss in losses if math.exp(-loss) <= cut + 1e-7]
    return sum(kept) / len(kept) if kept else 0.0


def make(*, ignored: float = 0.3, ease: float = 0.0, size: tuple[int, int] = (5, 6)) -> tuple[Tensor, Tensor]:
    """Random logits (2, 3, H, W) and labels; `ease` raises the score of the true class."""
    gen = torch.Generator().manual_seed(1)
    label = torch.randint(0, 3, (2, *size), generator=gen)
    logits = 2 * torch.randn(2, 3, *size, generator=gen)
    logits += ease * torch.nn.functional.one_hot(label, 3).permute(0, 3, 1, 2)
    label[torch.rand(label.shape, generator=gen) < ignored] = IGNORE_INDEX
    return logits.requires_grad_(), label


@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.95])
def test_cross_entropy_is_the_mean_over_labelled_pixels(ignored: float) -> None:
    logits, label = make(ignored=ignored)
    known = [loss for loss, c in pixels(logits, label) if c != IGNORE_INDEX]
    assert cross_entropy(logits, label).item() == pytest.approx(sum(known) / len(known), rel=1e-5)


def test_cross_entropy_takes_rows() -> None:
    logits, label = make()
    rows, row_label = logits.permute(0, 2, 3, 1).reshape(-1, 3), label.flatten()
    torch.testing.assert_close(cross_entropy(rows, row_label), cross_entropy(logits, label))


@pytest.mark.parametrize("min_kept", [1, 7, 20, 59, 60, 61, 1000])
@pytest.mark.parametrize("ignored", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("ease", [0.0, 4.0])  # 4: most pixels are above the threshold, so that min_kept decides
def test_ohem_equals_a_full_sort(min_kept: int, ignored: float, ease: float) -> None:
    logits, label = make(ignored=ignored, ease=ease)
    fast = ohem_cross_entropy(logits, label, threshold=0.7, min_kept=min_kept)
    assert fast.item() == pytest.approx(slow_ohem(logits, label, 0.7, min_kept), rel=1e-5)


def test_ohem_with_fewer_labelled_pixels_than_min_kept_keeps_all() -> None:
    logits, label = make(ease=6.0, ignored=0.5)
    assert 5 < int((label != IGNORE_INDEX).sum()) < 50
    torch.testing.assert_close(ohem_cross_entropy(logits, label, min_kept=50), cross_entropy(logits, label))
    assert ohem_cross_entropy(logits, label, min_kept=5) > cross_entropy(logits, label)


def test_ohem_gives_easy_pixels_no_gradient() -> None:
    logits, label = make(ease=3.0)
    ohem_cross_entropy(logits, label, threshold=0.7, min_kept=3).backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    probability = logits.softmax(dim=1).gather(1, label.clamp(max=2)[:, None])[:, 0]
    assert torch.equal(moved, (label != IGNORE_INDEX) & (probability <= 0.7))
    assert 3 < int(moved.sum()) < int((label != IGNORE_INDEX).sum())


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy, lambda x, y: ohem_cross_entropy(x, y, min_kept=4)])
def test_all_ignored_is_zero_with_a_finite_gradient(loss) -> None:
    logits, label = make()
    value = loss(logits, torch.full_like(label, IGNORE_INDEX))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("min_kept", [1, 2])
def test_one_pixel(min_kept: int) -> None:
    logits, label = torch.tensor([[[[2.0]], [[1.0]]]]), torch.tensor([[[0]]])
    expected = math.log(1 + math.exp(-1))  # p = 0.73 is above the threshold, but there is nothing harder
    assert cross_entropy(logits, label).item() == pytest.approx(expected)
    assert ohem_cross_entropy(logits, label, min_kept=min_kept).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_extreme_logits_stay_finite(loss) -> None:
    logits = torch.tensor([[[[1e4, -1e4]], [[-1e4, 1e4]]]], requires_grad=True)
    value = loss(logits, torch.tensor([[[1, 1]]]))
    value.backward()
    assert value.item() == pytest.approx(1e4)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [cross_entropy, lambda x, y: ohem_cross_entropy(x, y, min_kept=4)])
def test_half_precision_logits_are_summed_in_float32(loss) -> None:
    logits, label = make()
    half = logits.detach().bfloat16()
    value = loss(half, label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), label))


@pytest.mark.parametrize("weight", [[1.0, 0.0, 1.0, 1.0], [2.0, 1.0, 0.0, 0.5], [0.25, 0.25, 0.0, 0.0]])
def test_masked_mean_divides_by_the_sum_of_weights(weight: list[float]) -> None:
    values = [1.0, -2.0, 5.0, 7.0]
    expected = sum(v * w for v, w in zip(values, weight, strict=True)) / sum(weight)
    assert masked_mean(torch.tensor(values), torch.tensor(weight)).item() == pytest.approx(expected)


@pytest.mark.parametrize("weights", [[1.0, 0.0, 0.5, 2.0, 0.0, 1.5, 3.0, 0.0, 1.0], [True, False] * 4 + [True], [0.0] * 9])
def test_means_of_parts_are_those_of_each_alone(weights: list[float]) -> None:
    values, weighing = torch.arange(1.0, 10.0), torch.tensor(weights)
    sizes, denominators = [4, 0, 2, 3], [None, None, torch.tensor(7), torch.tensor(0)]
    parts = zip(values.split(sizes), weighing.split(sizes), denominators, strict=True)
    expected = [global_mean(*part) for part in parts]
    torch.testing.assert_close(global_means(values, weighing, sizes, denominators), tuple(expected))


def test_masked_mean_by_a_given_count() -> None:
    values, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True])
    assert masked_mean(values, weight).item() == 2.5
    assert masked_mean(values, weight, torch.tensor(10)).item() == 0.5
    assert masked_mean(values, torch.zeros(3), torch.tensor(0)).item() == 0.0


def test_weighted_cross_entropy_is_a_weighted_mean() -> None:
    gen = torch.Generator().manual_seed(7)
    logits, label = torch.randn(2, 3, 4, 5, generator=gen), torch.randint(0, 3, (2, 4, 5), generator=gen)
    label[0, 0] = IGNORE_INDEX
    weight, total, count = [0.5, 2.0, 7.0], 0.0, 0.0
    for b, y, x in (label != IGNORE_INDEX).nonzero().tolist():
        scores, c = logits[b, :, y, x].tolist(), int(label[b, y, x])
        total += weight[c] * (math.log(sum(math.exp(v) for v in scores)) - scores[c])
        count += weight[c]
    assert cross_entropy(logits, label, torch.tensor(weight)).item() == pytest.approx(total / count, rel=1e-5)
    nothing = torch.full_like(label, IGNORE_INDEX)
    assert cross_entropy(logits, nothing, torch.tensor(weight)).item() == 0.0
    assert BalancedCrossEntropy(weight)(logits, label) == cross_entropy(logits, label, torch.tensor(weight))


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_class_weights(balance: float) -> None:
    """share ** -balance, 1 on average over pixels; at 1 every class counts alike."""
    pixels = [900, 90, 10, 0]
    weights = class_weights(pixels, balance=balance)
    assert sum(n * w for n, w in zip(pixels, weights, strict=True)) / 1000 == pytest.approx(1.0)
    assert weights[2] / weights[0] == pytest.approx((900 / 10) ** balance)
    assert weights[3] == 1.0
    if balance == 1:
        assert [n * w for n, w in zip(pixels[:3], weights[:3], strict=True)] == pytest.approx([1000 / 3] * 3)


def test_class_weights_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no class"):
        class_weights([0, 0], balance=0.5)
    with pytest.raises(ValueError, match="balance"):
        class_weights([1, 2], balance=1.5)
