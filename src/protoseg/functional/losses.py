"""Losses over pixels, of which any number may be ignored. Ignored everywhere gives exactly zero, never NaN.

B images · C classes · H W size · N pixels
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.types import IGNORE_INDEX

SegmentationLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, C, H, W), mask (B, H, W)) -> scalar"""


def masked_mean(values: Tensor, weight: Tensor, denominator: Tensor | None = None) -> Tensor:
    """Sum of `values * weight` over the sum of `weight`, or over `denominator`; zero where nothing counts.

    Args:
        values: any shape.
        weight: same shape, bool or float >= 0.
        denominator: scalar count to divide by instead of `weight.sum()`.

    Returns:
        Scalar.
    """
    weight = weight.to(values.dtype)
    total = weight.sum() if denominator is None else denominator.to(values.dtype)
    return (values * weight).sum() / torch.where(total > 0, total, 1.0)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not ignored; 0 when all are.

    Args:
        logits: (B, C, H, W) or (N, C).
        label: (B, H, W) or (N,) int64 in [0, C) or IGNORE_INDEX.

    Returns:
        Scalar.
    """
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE_INDEX, reduction="none")
    return masked_mean(loss, label != IGNORE_INDEX)


def ohem_cross_entropy(logits: Tensor, label: Tensor, *, threshold: float = 0.7, min_kept: int = 100_000) -> Tensor:
    """Online hard example mining: mean cross-entropy over the pixels the network finds hard (Shrivastava et al., 2016).

    A pixel is kept when the probability of its true class is at most `max(threshold, p_k)`, where p_k is the `min_kept`-th
    smallest such probability. With fewer than `min_kept` labelled pixels all of them are kept.

    Args:
        logits: (B, C, H, W).
        label: (B, H, W) int64 in [0, C) or IGNORE_INDEX.
        threshold: probability above which a pixel is easy.
        min_kept: keep at least this many pixels of the batch.

    Returns:
        Scalar; 0 when every pixel is ignored.
    """
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE_INDEX, reduction="none").flatten()
    valid = (label != IGNORE_INDEX).flatten()
    if min_kept >= loss.numel():
        return masked_mean(loss, valid)
    with torch.no_grad():
        probability = torch.where(valid, (-loss).exp(), 2.0)  # of the true class; 2 sorts ignored pixels last
        # A selection, not a sort; and no `if` on a count, which would make the host wait for the GPU.
        hardest = probability.kthvalue(max(min_kept, 1)).values
        cut = torch.where(valid.sum() < min_kept, 1.0, hardest.clamp(min=threshold))
        keep = valid & (probability <= cut)
    return masked_mean(loss, keep)
