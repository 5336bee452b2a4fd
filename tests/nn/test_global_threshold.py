"""One threshold for all classes, against a slow loop."""

from __future__ import annotations

import pytest
import torch

from protoseg.nn.global_threshold import GlobalThreshold
from protoseg.types import IGNORE_INDEX, PseudoLabel


def some_labels(classes: int, seed: int = 0) -> PseudoLabel:
    gen = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (2, 6, 5), generator=gen)
    label[label == 2] = 0  # an absent class
    label[0, 0] = IGNORE_INDEX
    return PseudoLabel(label, torch.rand(2, 6, 5, generator=gen), torch.rand(2, 6, 5, generator=gen) < 0.8)


@pytest.mark.parametrize("classes", [2, 4, 150])
def test_running_mean_of_each_classs_highest_confidence(classes: int) -> None:
    threshold, expected = GlobalThreshold(classes, momentum=0.9), 0.85
    assert threshold().item() == pytest.approx(0.85)
    for seed in range(3):
        pseudo = some_labels(classes, seed)
        highest: dict[int, float] = {}
        for place in pseudo.valid.nonzero().tolist():
            label = int(pseudo.label[tuple(place)])
            if label != IGNORE_INDEX:
                highest[label] = max(highest.get(label, 0.0), float(pseudo.confidence[tuple(place)]))
        assert threshold.highest(pseudo).tolist() == pytest.approx([highest.get(c, 0.0) for c in range(classes)])
        threshold.update(threshold.highest(pseudo))
        expected = 0.9 * expected + 0.1 * sum(highest.values()) / len(highest)
        assert threshold().item() == pytest.approx(expected, rel=1e-5)


def test_padding_alone_changes_nothing() -> None:
    threshold, pseudo = GlobalThreshold(4), some_labels(4)
    threshold.update(threshold.highest(pseudo._replace(valid=torch.zeros_like(pseudo.valid))))
    assert threshold().item() == pytest.approx(0.85)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        GlobalThreshold(0)
    with pytest.raises(ValueError, match="start is a probability"):
        GlobalThreshold(3, start=1.5)
    with pytest.raises(ValueError, match="momentum"):
        GlobalThreshold(3, momentum=1.0)
