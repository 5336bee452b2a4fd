"""Prototypes that do nothing, or nothing of their own.

C classes · K prototypes per class · D feature channels
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.engine.health import DEAD


class Pair(NamedTuple):
    """Two prototypes, each (class, number), and their cosine."""

    one: tuple[int, int]
    other: tuple[int, int]
    cosine: float


def alike(prototype: Tensor, ready: Tensor, *, at_least: float) -> list[Pair]:
    """Pairs of prototypes of any classes with so high a cosine, the most alike first.

    Args:
        prototype: (C, K, D).
        ready: (C,) bool, which classes have any.
        at_least: cosine.
    """
    per_class = prototype.shape[1]
    cosine = _cosines(prototype, ready)
    first, second = torch.nonzero(cosine >= at_least, as_tuple=True)
    once = first < second  # nor with itself
    first, second = first[once], second[once]
    values = cosine[first, second]
    order = values.argsort(descending=True, stable=True)
    rows = zip(first[order].tolist(), second[order].tolist(), values[order].tolist(), strict=True)
    return [Pair(divmod(i, per_class), divmod(j, per_class), value) for i, j, value in rows]


def closest_classes(prototype: Tensor, ready: Tensor, *, most: int) -> list[Pair]:
    """The classes that come nearest to each other, by their two nearest prototypes; the nearest first.

    Args:
        prototype, ready: see `alike`.
        most: pairs of classes.
    """
    classes, per_class, _ = prototype.shape
    cosine = _cosines(prototype, ready).view(classes, per_class, classes, per_class).transpose(1, 2)  # (C, C, K, K)
    best, where = cosine.flatten(2).max(dim=2)  # (C, C)
    first, second = torch.triu_indices(classes, classes, offset=1)
    order = best[first, second].argsort(descending=True, stable=True)[:most]
    found = []
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        k, other = divmod(int(where[i, j]), per_class)
        found.append(Pair((i, k), (j, other), float(best[i, j])))
    return [pair for pair in found if pair.cosine > _NONE]


_NONE = -2.0  # below every cosine


def _cosines(prototype: Tensor, ready: Tensor) -> Tensor:
    """(C * K, C * K) float64; _NONE where one of the two is none yet."""
    unit = F.normalize(prototype.cpu().double(), dim=-1).flatten(0, 1)
    there = ready.cpu().repeat_interleave(prototype.shape[1])
    return (unit @ unit.T).masked_fill(~(there[:, None] & there), _NONE)


def too_similar(temperature: float) -> float:
    """The cosine from which on no pixel's logits for two prototypes differ by more than 1.

    For unit vectors |z.p - z.q| <= |p - q|, and |p - q|^2 = 2 - 2 p.q, so that the bound is p.q >= 1 - temperature^2 / 2.
    """
    return 1 - temperature**2 / 2


def dead(labeled: Tensor, unlabeled: Tensor, ready: Tensor) -> list[tuple[int, int]]:
    """Prototypes that hardly any pixel of their class follows, among labels and predictions alike.

    Args:
        labeled, unlabeled: (C, K) pixels that follow each prototype.
        ready: (C,) bool, which classes have any.

    Returns:
        (class, number) of each; none of a class without a pixel.
    """
    per_class = labeled.shape[1]
    total = labeled.sum(1, keepdim=True), unlabeled.sum(1, keepdim=True)
    # An even share is 1 / K; what has no pixel at all says nothing about its prototypes.
    few = [(part * per_class < DEAD * whole) | (whole == 0) for part, whole in zip((labeled, unlabeled), total, strict=True)]
    somebody = ready[:, None] & (total[0] + total[1] > 0)
    return [(int(c), int(k)) for c, k in torch.nonzero(few[0] & few[1] & somebody)]
