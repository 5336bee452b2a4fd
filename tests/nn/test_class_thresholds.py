"""A threshold for each class, against slow loops."""

from __future__ import annotations

import pytest
import torch

from protoseg.functional.pseudo_label import selected
from protoseg.nn.class_thresholds import ClassThresholds
from protoseg.types import IGNORE_INDEX, PseudoLabel


def some_labels(classes: int = 4) -> PseudoLabel:
    torch.manual_seed(classes)
    label = torch.randint(0, classes, (2, 6, 5))
    label[label == 2] = 0  # an absent class
    label[0, 0] = IGNORE_INDEX
    return PseudoLabel(label, torch.rand(2, 6, 5), torch.rand(2, 6, 5) < 0.8)


@pytest.mark.parametrize("classes", [2, 4, 150])
def test_running_confidence_of_each_class(classes: int) -> None:
    pseudo, thresholds = some_labels(classes), ClassThresholds(classes, momentum=0.9)
    assert torch.equal(thresholds(), torch.ones(classes))
    expected = [1.0] * classes
    for _ in range(2):
        thresholds.update(thresholds.count(pseudo))
        for c in range(classes):
            sure = [
                float(pseudo.confidence[place])
                for place in zip(*(pseudo.label == c).nonzero(as_tuple=True), strict=True)
                if pseudo.valid[place]
            ]
            if sure:
                expected[c] = 0.9 * expected[c] + 0.1 * sum(sure) / len(sure)
    torch.testing.assert_close(thresholds.confidence, torch.tensor(expected))
    torch.testing.assert_close(thresholds(), torch.tensor(expected) / max(expected))
    assert thresholds().max() == 1


def test_pixels_are_measured_by_their_own_class() -> None:
    pseudo, lowest = some_labels(), torch.tensor([0.9, 0.2, 0.5, 0.6])
    found = selected(pseudo, lowest)
    for b in range(2):
        for y in range(6):
            for x in range(5):
                label = int(pseudo.label[b, y, x])
                sure = label != IGNORE_INDEX and bool(pseudo.confidence[b, y, x] >= lowest[label])
                assert bool(found[b, y, x]) == (sure and bool(pseudo.valid[b, y, x]))
    assert torch.equal(selected(pseudo, torch.full((4,), 0.5)), selected(pseudo, 0.5))


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        ClassThresholds(0)
    with pytest.raises(ValueError, match="momentum"):
        ClassThresholds(3, momentum=1.0)
