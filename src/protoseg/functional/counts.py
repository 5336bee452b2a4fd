"""How many pixels belong to what, without a wait for the device.

N pixels · C classes · K prototypes per class
"""

from __future__ import annotations

import torch
from torch import Tensor

from protoseg.types import IGNORE_INDEX


@torch.no_grad()
def class_counts(label: Tensor, num_classes: int, *, keep: Tensor | None = None) -> Tensor:
    """Count the pixels of each class.

    `torch.bincount` would make the host wait: the length of its result depends on the data.

    Args:
        label: int64 of any shape; IGNORE_INDEX counts nothing.
        num_classes: C.
        keep: bool of the same shape, which pixels count; all when left out.

    Returns:
        (C,) int64.
    """
    counted = label != IGNORE_INDEX if keep is None else (label != IGNORE_INDEX) & keep
    return histogram(torch.where(counted, label, num_classes), num_classes)


@torch.no_grad()
def class_totals(label: Tensor, value: Tensor, num_classes: int, *, keep: Tensor) -> Tensor:
    """Add up a number over the pixels of each class.

    Args:
        label: int64 of any shape; IGNORE_INDEX counts nothing.
        value: of the same shape.
        num_classes: C.
        keep: bool of the same shape, which pixels count.

    Returns:
        (C,) float64.
    """
    slot = torch.where((label != IGNORE_INDEX) & keep, label, num_classes).flatten()
    total = torch.zeros(num_classes + 1, dtype=torch.float64, device=slot.device)
    return total.index_add_(0, slot, value.flatten().double())[:-1]


@torch.no_grad()
def prototype_counts(label: Tensor, nearest: Tensor, per_class: int, *, keep: Tensor) -> Tensor:
    """Count the pixels that chose each prototype among those of their own class.

    Args:
        label: (N,) int64, IGNORE_INDEX counts nothing.
        nearest: (N, C) int64 in [0, K): the nearest prototype of each class.
        per_class: K.
        keep: (N,) bool, which pixels count.

    Returns:
        (C, K) int64.
    """
    num_classes = nearest.shape[1]
    slot = prototype_slot(label, nearest, per_class, keep=(label != IGNORE_INDEX) & keep)
    return histogram(slot, num_classes * per_class).view(num_classes, per_class)


def prototype_slot(label: Tensor, nearest: Tensor, per_class: int, *, keep: Tensor) -> Tensor:
    """Which prototype each pixel chose among those of its own class.

    Args:
        label, nearest, per_class: as for `prototype_counts`.
        keep: (N,) bool, which pixels count; none that is ignored.

    Returns:
        (N,) int64: c * K + k, or C * K for what does not count. Selecting rows instead would stall the GPU.
    """
    own = label * keep  # some class where it does not count
    slot = torch.add(nearest.gather(1, own[:, None])[:, 0], own, alpha=per_class)
    return torch.where(keep, slot, nearest.shape[1] * per_class)


@torch.no_grad()
def histogram(slot: Tensor, slots: int) -> Tensor:
    """How often each value occurs: (slots,) int64 of values in [0, slots], the last of which is for what does not count."""
    slot = slot.flatten()
    return torch.zeros(slots + 1, dtype=torch.int64, device=slot.device).index_add_(0, slot, torch.ones_like(slot))[:-1]
