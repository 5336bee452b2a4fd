"""Intersection over union from one confusion matrix over all images.

C classes
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from protoseg.types import IGNORE_INDEX


class IoU(NamedTuple):
    """Attributes: mean over the classes that occur (in truth or prediction); per class, NaN where absent from both."""

    mean: float
    per_class: tuple[float, ...]


class ConfusionMatrix(Metric):
    """Counts (true class, predicted class) over all pixels that are labelled, summed over processes.

    Args:
        num_classes: C.
    """

    full_state_update = False
    confusion: Tensor  # (C, C) int64, rows are the truth

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count one batch.

        Args:
            prediction: class ids, any shape.
            mask: class ids or IGNORE_INDEX, same shape.
        """
        self.confusion += count_pairs(prediction, mask, self.num_classes)

    def compute(self) -> IoU:
        return iou(self.confusion)


def count_pairs(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Pixels of each (true class, predicted class).

    Args:
        prediction: class ids, any shape.
        mask: class ids or IGNORE_INDEX, same shape.
        num_classes: C.

    Returns:
        (C, C) int64, rows are the truth.
    """
    valid = mask != IGNORE_INDEX
    pair = mask[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(pair, minlength=num_classes**2).view(num_classes, num_classes)


def iou(confusion: Tensor) -> IoU:
    """IoU = diagonal / (row + column - diagonal), for each class over the whole data set.

    Args:
        confusion: (C, C) counts, rows are the truth.

    Returns:
        IoU in [0, 1]; NaN for a class that is neither in the truth nor predicted, which the mean leaves out.
    """
    confusion = confusion.cpu().double()
    hit = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit
    per_class = hit / union  # 0 / 0 is NaN: absent is not the same as missed
    present = union > 0
    mean = per_class[present].mean() if present.any() else torch.tensor(torch.nan)
    return IoU(float(mean), tuple(per_class.tolist()))
