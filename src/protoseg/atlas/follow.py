"""What a model says at some pixels of an image, and which prototype each of them follows.

N pixels · D feature channels · C classes · K prototypes per class · H W image
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.data.images import ImageArray
from protoseg.engine.evaluate import Normalization
from protoseg.functional.points import read_features, read_pixels
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.types import IGNORE_INDEX, SegOutput

NOBODY = -1
"""Instead of a prototype: the pixel has no label, or its class no prototypes yet."""
_AT_ONCE = 16_384  # pixels: D channels and C * K cosines of each would fill the memory


class Seen(NamedTuple):
    """An image after one pass through the network."""

    linear: Tensor  # (H, W) int64: the linear classifier's answer
    features: Tensor  # (1, D, h, w)
    covers: tuple[int, int]
    align_corners: bool


class Answers(NamedTuple):
    """At N pixels."""

    linear: Tensor  # (N,) int64 class ids
    prototype: Tensor  # (N,) int64: the class of the nearest of all prototypes
    followed: Tensor  # (N,) int64 c * K + k, or NOBODY
    cosine: Tensor  # (N,) float32: to the prototype that is followed
    probability: Tensor  # (N,) float32: of the prototypes' answer, by their own softmax


@torch.no_grad()
def see(network: nn.Module, image: ImageArray, normalization: Normalization, device: torch.device) -> Seen:
    """Pass one image (H, W, I) through a network in eval mode."""
    out: SegOutput = network(normalization(image, device))
    return Seen(out.logits.argmax(dim=1)[0], out.features, out.covers, out.align_corners)


def read(seen: Seen, points: Tensor) -> Tensor:
    """Features (N, D) at pixels (N, 2)."""
    return read_features(seen.features, points[None], seen.covers, align_corners=seen.align_corners)[0]


def answers(seen: Seen, head: PrototypeHead, points: Tensor, own: Tensor | None = None) -> Answers:
    """What both predictors say at some pixels, and which prototype each pixel follows.

    Args:
        seen: the image.
        head: the prototypes.
        points: (N, 2) int64 pixel positions (y, x).
        own: (N,) int64 class of each pixel, whose prototypes it may follow, or IGNORE_INDEX; when left out, what the
            prototypes themselves say.
    """
    parts = []
    for start in range(0, len(points), _AT_ONCE):
        there = points[start : start + _AT_ONCE]
        features = read(seen, there)
        logits, nearest = head.compare(features)
        probability, prototype = logits.softmax(dim=1).max(dim=1)
        followed, cosine = follow(head, features, prototype if own is None else own[start : start + _AT_ONCE], nearest)
        parts.append(Answers(read_pixels(seen.linear[None], there[None])[0], prototype, followed, cosine, probability))
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


def follow(head: PrototypeHead, features: Tensor, own: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor]:
    """The prototype of its own class that each pixel is nearest to: the one that training would move towards it.

    Args:
        head: the prototypes.
        features: (N, D).
        own: (N,) int64 class of each pixel, or IGNORE_INDEX.
        nearest: (N, C) of `PrototypeHead.compare`.

    Returns:
        (N,) int64 c * K + k, or NOBODY; (N,) float32 cosine to it.
    """
    known = own != IGNORE_INDEX
    own = torch.where(known, own, 0)
    chosen = nearest.gather(1, own[:, None])[:, 0]
    cosine = F.cosine_similarity(features, head.prototype[own, chosen], dim=1)
    return torch.where(known & head.ready[own], own * head.per_class + chosen, NOBODY), cosine


def lattice(
    top: int, left: int, height: int, width: int, *, rows: int, columns: int, device: torch.device | None = None
) -> Tensor:
    """The middle pixel of each cell of a grid over a part of an image; every pixel where there are as many cells.

    Returns:
        (rows * columns, 2) int64 (y, x), row by row.
    """
    y = top + (2 * torch.arange(rows, device=device) + 1) * height // (2 * rows)
    x = left + (2 * torch.arange(columns, device=device) + 1) * width // (2 * columns)
    return torch.cartesian_prod(y, x)
