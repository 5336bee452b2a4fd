"""What is shown of one image: what both predictors say of every pixel, and which of them a picture shows.

H W image · h w picture · C classes · K prototypes per class
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protoseg.atlas.follow import NOBODY, Seen, grid_answers, lattice
from protoseg.atlas.maps import disagreement
from protoseg.atlas.pictures import Box, resized, shown_size
from protoseg.data.images import ImageArray, kind_of, to_rgb
from protoseg.data.io import UInt8Array
from protoseg.engine.inference import Inference
from protoseg.engine.pictures import gray
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.trained import TrainedModel
from protoseg.types import IGNORE_INDEX, SegOutput

LONGEST = 1280
"""Pixels of the longer side of the picture of a whole image."""
SIDE, MARGIN = 1536, 128
"""Pixels a side that the network sees at once, and how many of them at each inner border are seen, but not kept."""
_MOST_NUMBERS = 1 << 28  # C probabilities of each pixel seen at once: 1 GiB
_NO_PROTOTYPE = 0xFFFF
_Index: TypeAlias = tuple[slice, slice] | tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class Shown:
    """What a model says of an image.

    Attributes:
        label, confidence: (H, W) uint8 class ids of the mask, and their probability from 0 to 255.
        followed, certainty: (H, W) uint16 the prototype c * K + k that a pixel follows, the largest number for none; uint8 the
            probability of its class by the prototypes alone, from 0 to 255.
        truth: (H, W) uint8 class ids, IGNORE_INDEX where nothing is known.
        per_class: K; 0 without prototypes.
        parts: pieces in which the network has seen the image.
    """

    label: UInt8Array
    confidence: UInt8Array
    followed: NDArray[np.uint16]
    certainty: UInt8Array
    truth: UInt8Array
    per_class: int
    parts: int

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.label, self.confidence, self.followed, self.certainty, self.truth))

    def picture(self, longest: int = LONGEST) -> dict[str, UInt8Array]:
        """`MAPS` of the whole image, (h, w) each: of the pixel in the middle of what a pixel of the picture covers."""
        height, width = self.label.shape
        rows, columns = shown_size(height, width, longest)
        grid = lattice(0, 0, height, width, rows=rows, columns=columns).view(rows, columns, 2).numpy()
        return self._maps(np.ix_(grid[:, 0, 0], grid[0, :, 1]))

    def part(self, box: Box) -> dict[str, UInt8Array]:
        """`MAPS` of every pixel in a box."""
        return self._maps(_slices(box))

    def _maps(self, of: _Index) -> dict[str, UInt8Array]:
        label, truth, followed = self.label[of], self.truth[of], self.followed[of]
        prototype, differ = np.full(label.shape, IGNORE_INDEX, np.uint8), np.zeros(label.shape, np.uint8)
        if self.per_class:
            prototype = np.where(followed == _NO_PROTOTYPE, IGNORE_INDEX, followed // self.per_class).astype(np.uint8)
            said = (torch.from_numpy(part.astype(np.int64)) for part in (label, prototype, truth))
            differ = disagreement(*said).numpy().astype(np.uint8)
        planes = (label, self.confidence[of], truth, prototype, self.certainty[of], differ)
        bytes_of = ((followed >> 8).astype(np.uint8), (followed & 255).astype(np.uint8))
        return dict(zip(MAPS, (*planes, *bytes_of), strict=True))


MAPS = ("label", "confidence", "truth", "prototype", "certainty", "disagreement", "followed_high", "followed_low")
"""Class ids (IGNORE_INDEX: nothing known) of mask, truth and nearest prototype; probabilities of mask and prototypes in 255ths;
numbers of `atlas.views.DISAGREEMENT`; the prototype c * K + k that a pixel follows, in two bytes, both 255 for none."""


@torch.no_grad()
def look(
    model: TrainedModel,
    head: PrototypeHead | None,
    image: ImageArray,
    truth: UInt8Array | None = None,
    *,
    side: int = SIDE,
    margin: int = MARGIN,
    between: Callable[[int, int], None] = lambda done, of: None,
) -> Shown:
    """Look at an image with both predictors of a model.

    An image that is larger than `side` is seen in overlapping pieces. Else the mask is what `protoseg predict` writes.

    Args:
        model: its network in eval mode.
        head: its prototypes, where it has some.
        image: (H, W, I) of the model's kind.
        truth: (H, W) class ids, IGNORE_INDEX where nothing is known.
        side, margin: of the pieces.
        between: called before each piece with the number of those that are done and of all; what it raises ends the work.
    """
    size = height, width = image.shape[:2]
    device = next(model.network.parameters()).device
    label, confidence, certainty = (np.zeros(size, np.uint8) for _ in range(3))
    followed = np.full(size, _NO_PROTOTYPE, np.uint16)
    pieces = list(cut(height, width, side=min(side, math.isqrt(_MOST_NUMBERS // len(model.classes))), margin=margin))
    for done, (seen, kept) in enumerate(pieces):
        between(done, len(pieces))
        tensor = model.normalization(image[_slices(seen)], device)
        out: SegOutput = model.network(tensor)
        probability = _probability(model.network, model.inference, tensor, out)  # (C, seen height, seen width)
        own = kept._replace(top=kept.top - seen.top, left=kept.left - seen.left)
        best, answer = (part[_slices(own)].cpu().numpy() for part in probability.max(dim=0))
        there = _slices(kept)
        label[there], confidence[there] = answer, gray(best)
        if head is not None:
            features = Seen(out.logits.argmax(dim=1)[0], out.features, out.covers, out.align_corners)
            y, x = (torch.arange(at, at + length, device=device) for at, length in (own[::2], own[1::2]))
            said = grid_answers(features, head, y, x)
            followed[there] = said.followed.masked_fill(said.followed == NOBODY, _NO_PROTOTYPE).cpu().numpy()
            certainty[there] = gray(said.probability.cpu().numpy())
    known = np.full(size, IGNORE_INDEX, np.uint8) if truth is None else truth
    return Shown(label, confidence, followed, certainty, known, head.per_class if head else 0, len(pieces))


def cut(height: int, width: int, *, side: int, margin: int) -> Iterator[tuple[Box, Box]]:
    """The pieces in which an image is seen, and of each the part that is kept: these parts cover it without overlap.

    Args:
        height, width: of the image.
        side: of a piece, at the most.
        margin: by how much a piece is larger than what is kept of it, where the image goes on.

    Raises:
        ValueError: nothing of a piece would be kept.
    """
    if side <= 2 * margin:
        raise ValueError(f"of pieces of {side} pixels a margin of {margin} on either side leaves nothing")
    for top, bottom in _spans(height, side, margin):
        for left, right in _spans(width, side, margin):
            kept = Box(top, left, bottom - top, right - left)
            if height <= side:
                top_seen, bottom_seen = 0, height
            else:
                top_seen, bottom_seen = max(0, top - margin), min(height, bottom + margin)
            if width <= side:
                left_seen, right_seen = 0, width
            else:
                left_seen, right_seen = max(0, left - margin), min(width, right + margin)
            yield Box(top_seen, left_seen, bottom_seen - top_seen, right_seen - left_seen), kept


def _spans(size: int, side: int, margin: int) -> Iterator[tuple[int, int]]:
    """Equal parts of a side; the whole side where it fits."""
    number = 1 if size <= side else math.ceil(size / (side - 2 * margin))
    return ((i * size // number, (i + 1) * size // number) for i in range(number))


def colored(image: ImageArray, bands: Sequence[int] | None = None) -> UInt8Array:
    """An image for the eye: (H, W, I) to (H, W, 3).

    Args:
        image: of any kind.
        bands: which three channels become red, green and blue; the first three when left out.

    Raises:
        ValueError: it has no such channel.
    """
    is_photograph = kind_of(image).is_photograph
    if bands is None:
        return np.asarray(image, np.uint8) if is_photograph else to_rgb(image)
    if len(bands) != 3 or not all(0 <= band < image.shape[2] for band in bands):
        raise ValueError(f"there are channels 0 to {image.shape[2] - 1}; choose three of them")
    # As floats what is no photograph is spread from dark to bright, whichever bands are chosen.
    chosen = image[..., list(bands)]
    return to_rgb(chosen if is_photograph else chosen.astype(np.float32))


def smaller(rgb: UInt8Array, *, longest: int = LONGEST) -> UInt8Array:
    """(H, W, 3) with so many pixels on its longer side; smaller images stay as they are."""
    return resized(rgb, *shown_size(rgb.shape[0], rgb.shape[1], longest))


def cropped(rgb: UInt8Array, box: Box) -> UInt8Array:
    """(height, width, 3) of a box."""
    return np.ascontiguousarray(rgb[_slices(box)])


def _probability(network: nn.Module, inference: Inference, image: Tensor, out: SegOutput) -> Tensor:
    """(C, H, W) as the model was told to see an image; what one look at the whole has said where that is all."""
    whole = inference.window is None or max(image.shape[-2:]) <= inference.window
    if whole and inference.scales == (1.0,) and not inference.flip:
        return out.logits.float().softmax(dim=1)[0]
    return inference(network, image)


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


def shares(label: UInt8Array, number: int) -> NDArray[np.float64]:
    """The share of each class among all pixels of a mask."""
    return np.bincount(label.ravel(), minlength=number)[:number] / label.size
