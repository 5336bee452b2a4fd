"""Losses over pixels, of which any number may be ignored. Ignored everywhere gives exactly zero, never NaN.

B images · C classes · H W size · N pixels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.processes import mean_over_processes
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
    return (values * weight).sum() / _divisor(total)


def _divisor(total: Tensor) -> Tensor:
    """1 in place of 0."""
    return total + (total == 0)


def global_mean(values: Tensor, weight: Tensor, denominator: Tensor | None = None) -> Tensor:
    """`masked_mean` over the batch of all processes, whichever of them has how many of the pixels that count.

    The sum of this process over the mean of all processes' denominators: DDP averages gradients, so that together they have
    the gradient of the mean over the global batch, and the mean of their losses is that loss. Every process has to call it.

    Args:
        values, weight, denominator: of this process, as for `masked_mean`.

    Returns:
        Scalar.
    """
    total = weight.to(values.dtype).sum() if denominator is None else denominator.to(values.dtype)
    return masked_mean(values, weight, mean_over_processes(total))


def global_means(
    values: Tensor, weight: Tensor, sizes: Sequence[int], denominators: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """`global_mean` of each of several parts of a batch, in one message to the other processes.

    Args:
        values, weight: (N,) of this process, one part after the other.
        sizes: pixels of each part.
        denominators: of each part, as for `masked_mean`.

    Returns:
        A scalar for each part.
    """
    totals = [
        own.sum(dtype=values.dtype) if given is None else given.to(values.dtype)
        for own, given in zip(torch.split(weight, list(sizes)), denominators, strict=True)
    ]
    divisors = _divisor(mean_over_processes(torch.stack(totals))).unbind()
    weighed = torch.split(values * weight, list(sizes))
    return tuple(part.sum() / divisor for part, divisor in zip(weighed, divisors, strict=True))


def cross_entropy(logits: Tensor, label: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels, of all processes, that are not ignored; 0 when all are.

    Args:
        logits: (B, C, H, W) or (N, C).
        label: (B, H, W) or (N,) int64 in [0, C) or IGNORE_INDEX.
        class_weight: (C,) how much a pixel of each class counts in the mean; all alike when left out.

    Returns:
        Scalar.
    """
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE_INDEX, reduction="none")
    known = label != IGNORE_INDEX
    return global_mean(loss, known if class_weight is None else known * class_weight[torch.where(known, label, 0)])


def class_weights(share: Sequence[float], *, balance: float) -> list[float]:
    """Weights that let rare classes count more: w_c ~ share_c ** -balance, with a mean of 1 over pixels.

    Args:
        share: of each class among the labelled pixels; a class without any has weight 1.
        balance: 0 for none, 0.5 for the square root of the inverse share, 1 for classes that count alike.

    Raises:
        ValueError: `balance` is outside [0, 1], or no class has a pixel.
    """
    if not 0 <= balance <= 1:
        raise ValueError(f"balance is in [0, 1], got {balance}")
    if not sum(share) > 0:
        raise ValueError("no class has a labelled pixel")
    whole = sum(share)
    raw = [(value / whole) ** -balance if value > 0 else 0.0 for value in share]
    mean = sum(value / whole * weight for value, weight in zip(share, raw, strict=True))
    return [weight / mean if weight > 0 else 1.0 for weight in raw]


def ohem_cross_entropy(logits: Tensor, label: Tensor, *, threshold: float = 0.7, min_kept: int = 100_000) -> Tensor:
    """Online hard example mining: mean cross-entropy over the pixels the network finds hard (Shrivastava et al., 2016).

    A pixel is kept when the probability of its true class is at most `max(threshold, p_k)`, where p_k is the `min_kept`-th
    smallest such probability. With fewer than `min_kept` labelled pixels all of them are kept. Each process selects among its
    own pixels.

    Args:
        logits: (B, C, H, W).
        label: (B, H, W) int64 in [0, C) or IGNORE_INDEX.
        threshold: probability above which a pixel is easy.
        min_kept: keep at least this many pixels of this process's batch.

    Returns:
        Scalar; 0 when every pixel is ignored.
    """
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE_INDEX, reduction="none").flatten()
    valid = (label != IGNORE_INDEX).flatten()
    if min_kept >= loss.numel():
        return global_mean(loss, valid)
    with torch.no_grad():
        probability = torch.where(valid, (-loss).exp(), 2.0)  # of the true class; 2 sorts ignored pixels last
        # A selection, not a sort; and no `if` on a count, which would make the host wait for the GPU.
        hardest = probability.kthvalue(max(min_kept, 1)).values
        cut = torch.where(valid.sum() < min_kept, 1.0, hardest.clamp(min=threshold))
        keep = valid & (probability <= cut)
    return global_mean(loss, keep)
