"""What is shown of one image: what the model says of every pixel, and what both predictors say of those that its picture has.

H W image · h w picture · C classes · K prototypes per class
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protoseg.atlas.follow import NOBODY, Seen, answers, lattice
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
"""Pixels of the longer side of what the page shows."""
SIDE, MARGIN = 1536, 128
"""Pixels a side that the network sees at once, and how many of them at each inner border are seen, but not kept."""
_MOST_NUMBERS = 1 << 28  # C probabilities of each pixel seen at once: 1 GiB
_NO_PROTOTYPE = 0xFFFF


@dataclass(frozen=True)
class Shown:
    """What a model says of an image.

    Attributes:
        label, confidence: (H, W) uint8 class ids of the mask, and their probability from 0 to 255.
        maps: (h, w) uint8 each, by name, in the order of `MAPS`; nearest to the middle of what a pixel of the picture covers.
        parts: pieces in which the network has seen the image.
    """

    label: UInt8Array
    confidence: UInt8Array
    maps: dict[str, UInt8Array]
    parts: int

    @property
    def nbytes(self) -> int:
        return self.label.nbytes + self.confidence.nbytes + sum(plane.nbytes for plane in self.maps.values())


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
    longest: int = LONGEST,
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
        longest: pixels of the longer side of the picture.
        side, margin: of the pieces.
        between: called before each piece with the number of those that are done and of all; what it raises ends the work.
    """
    height, width = image.shape[:2]
    device = next(model.network.parameters()).device
    rows, columns = shown_size(height, width, longest)
    grid = lattice(0, 0, height, width, rows=rows, columns=columns).view(rows, columns, 2)
    ys, xs = grid[:, 0, 0].contiguous(), grid[0, :, 1].contiguous()
    label, confidence = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    prototype = torch.full((rows, columns), IGNORE_INDEX)
    followed, certainty = torch.full((rows, columns), NOBODY), torch.zeros(rows, columns)
    pieces = list(cut(height, width, side=min(side, math.isqrt(_MOST_NUMBERS // len(model.classes))), margin=margin))
    for done, (seen, kept) in enumerate(pieces):
        between(done, len(pieces))
        tensor = model.normalization(image[_slices(seen)], device)
        out: SegOutput = model.network(tensor)
        probability = _probability(model.network, model.inference, tensor, out)  # (C, seen height, seen width)
        inside = _slices(kept._replace(top=kept.top - seen.top, left=kept.left - seen.left))
        best, answer = (part[inside].cpu().numpy() for part in probability.max(dim=0))
        label[_slices(kept)], confidence[_slices(kept)] = answer, gray(best)
        if head is not None:
            of_rows, of_columns = _within(ys, kept.top, kept.height), _within(xs, kept.left, kept.width)
            points = torch.cartesian_prod(ys[of_rows] - seen.top, xs[of_columns] - seen.left).to(device)
            if len(points):
                features = Seen(out.logits.argmax(dim=1)[0], out.features, out.covers, out.align_corners)
                said = answers(features, head, points)
                for plane, values in ((prototype, said.prototype), (followed, said.followed), (certainty, said.probability)):
                    part = plane[of_rows, of_columns]
                    part.copy_(values.view(part.shape))
    read = (grid[..., 0].numpy(), grid[..., 1].numpy())
    known = np.full((rows, columns), IGNORE_INDEX, np.uint8) if truth is None else truth[read]
    differ = np.zeros((rows, columns), np.uint8)
    if head is not None:
        parts = (label[read].astype(np.int64), prototype.numpy(), known.astype(np.int64))
        differ = disagreement(*(torch.from_numpy(part) for part in parts)).numpy().astype(np.uint8)
    number = followed.masked_fill(followed == NOBODY, _NO_PROTOTYPE).numpy().astype(np.uint16)
    planes = (
        *(label[read], confidence[read], known, prototype.numpy().astype(np.uint8), gray(certainty.numpy()), differ),
        *((number >> 8).astype(np.uint8), (number & 255).astype(np.uint8)),
    )
    return Shown(label, confidence, dict(zip(MAPS, planes, strict=True)), len(pieces))


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


def picture(image: ImageArray, bands: Sequence[int] | None = None, *, longest: int = LONGEST) -> UInt8Array:
    """An image for the eye: (H, W, I) to (h, w, 3).

    Args:
        image: of any kind.
        bands: which three channels become red, green and blue; the first three when left out.
        longest: pixels of the longer side; smaller images stay as they are.

    Raises:
        ValueError: it has no such channel.
    """
    rows, columns = shown_size(image.shape[0], image.shape[1], longest)
    if bands is not None:
        if len(bands) != 3 or not all(0 <= band < image.shape[2] for band in bands):
            raise ValueError(f"there are channels 0 to {image.shape[2] - 1}; choose three of them")
        # As floats what is no photograph is spread from dark to bright, whichever bands are chosen.
        chosen = image[..., list(bands)]
        image = chosen if kind_of(image).is_photograph else chosen.astype(np.float32)
    return resized(to_rgb(image), rows, columns)


def _probability(network: nn.Module, inference: Inference, image: Tensor, out: SegOutput) -> Tensor:
    """(C, H, W) as the model was told to see an image; what one look at the whole has said where that is all."""
    whole = inference.window is None or max(image.shape[-2:]) <= inference.window
    if whole and inference.scales == (1.0,) and not inference.flip:
        return out.logits.float().softmax(dim=1)[0]
    return inference(network, image)


def _within(positions: Tensor, start: int, length: int) -> slice:
    """Which of ascending positions lie in a span."""
    first, last = torch.searchsorted(positions, torch.tensor([start, start + length])).tolist()
    return slice(first, last)


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


def shares(label: UInt8Array, number: int) -> NDArray[np.float64]:
    """The share of each class among all pixels of a mask."""
    return np.bincount(label.ravel(), minlength=number)[:number] / label.size
