"""Counting pixels of classes and prototypes, against slow loops."""

from __future__ import annotations

import pytest
import torch

from protoseg.functional.counts import class_counts, prototype_counts
from protoseg.types import IGNORE_INDEX


@pytest.mark.parametrize("num_classes", [2, 5, 150])
@pytest.mark.parametrize("some", [True, False])
def test_classes(num_classes: int, some: bool) -> None:
    torch.manual_seed(num_classes)
    label = torch.randint(0, num_classes, (2, 7, 9))
    label[torch.rand(2, 7, 9) < 0.3] = IGNORE_INDEX
    label[label == 1] = 0  # an absent class
    keep = torch.rand(2, 7, 9) < 0.5
    expected = [0] * num_classes
    for value, kept in zip(label.flatten().tolist(), keep.flatten().tolist(), strict=True):
        if value != IGNORE_INDEX and (kept or not some):
            expected[value] += 1
    assert class_counts(label, num_classes, keep=keep if some else None).tolist() == expected


def test_nothing_known() -> None:
    assert class_counts(torch.full((1, 3, 3), IGNORE_INDEX), 4).tolist() == [0, 0, 0, 0]


def test_prototypes_of_the_own_class() -> None:
    torch.manual_seed(0)
    label = torch.randint(0, 3, (40,))
    label[:6] = IGNORE_INDEX
    nearest, keep = torch.randint(0, 4, (40, 3)), torch.rand(40) < 0.7
    expected = [[0] * 4 for _ in range(3)]
    for n in range(40):
        if keep[n] and label[n] != IGNORE_INDEX:
            expected[int(label[n])][int(nearest[n, label[n]])] += 1
    assert prototype_counts(label, nearest, 4, keep=keep).tolist() == expected
