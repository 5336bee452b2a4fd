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
_NUMBERS = 1 << 23  # of rows that are read at a time: 32 MiB, three or four times


class Seen(NamedTuple):
    """An image after one pass through the network."""

    linear: Tensor  # (H, W) int64: the linear classifier's answer
    features: Tensor  # (1, D, h, w)
    covers: tuple[int, int]
    align_corners: bool


class Answers(NamedTuple):
    """At N pixels; at R rows and S columns of them by `grid_answers`."""

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


@torch.no_grad()
def grid_answers(seen: Seen, head: PrototypeHead, y: Tensor, x: Tensor) -> Answers:
    """`answers` at every pixel where a row meets a column, as (R, S) tensors, without reading D channels at each of them.

    What is read at a pixel is a weighted sum of features. So its product with a prototype is the same sum of their products,
    which costs C * K numbers at a pixel and not D; and its length follows from the lengths of the two features beside it in its
    row, and from their product.

    Args:
        seen: the image.
        head: the prototypes.
        y, x: (R,) and (S,) int64 rows and columns.
    """
    features = seen.features[0].float()  # (D, h, w)
    channels, height, width = features.shape
    unit = F.normalize(head.prototype, dim=-1).flatten(0, 1)  # (C * K, D)
    top, bottom, down = _beside(y, seen.covers[0], height, align_corners=seen.align_corners)
    left, right, along = _beside(x, seen.covers[1], width, align_corners=seen.align_corners)
    parts, at_once = [], max(1, _NUMBERS // max(channels * width, len(unit) * len(x)))
    for start in range(0, len(y), at_once):
        rows = slice(start, start + at_once)
        read = torch.lerp(features[:, top[rows]], features[:, bottom[rows]], down[rows, None])  # (D, r, w)
        square, product = read.square().sum(dim=0), (read * read.roll(-1, dims=2)).sum(dim=0)  # (r, w)
        length = (1 - along) ** 2 * square[:, left] + 2 * along * (1 - along) * product[:, left] + along**2 * square[:, right]
        cosine = (read.flatten(1).T @ unit.T).view(-1, width, len(unit))
        cosine = torch.lerp(cosine[:, left], cosine[:, right], along[:, None])  # (r, S, C * K), times the length
        cosine /= length.clamp_min(1e-24).sqrt()[..., None]  # that of `compare`
        cosine = cosine.view(-1, head.num_classes, head.per_class)
        logits, nearest = head.judge(cosine)
        probability, prototype = logits.softmax(dim=1).max(dim=1)
        chosen = nearest.gather(1, prototype[:, None])[:, 0]
        followed = torch.where(head.ready[prototype], prototype * head.per_class + chosen, NOBODY)
        to_it = cosine.flatten(1).gather(1, (prototype * head.per_class + chosen)[:, None])[:, 0]
        said = (seen.linear[y[rows]][:, x], prototype, followed, to_it, probability)
        parts.append([part.view(-1, len(x)) for part in said])
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _beside(position: Tensor, covers: int, size: int, *, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two of `size` cells pixels lie on a side of `covers` pixels: both, and the weight of the second."""
    place = position * (size - 1) / max(covers - 1, 1) if align_corners else (position + 0.5) * size / covers - 0.5
    place = place.clamp(0, size - 1)
    first = place.long()
    return first, (first + 1).clamp(max=size - 1), (place - first).float()


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
