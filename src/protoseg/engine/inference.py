"""How a network sees one image: whole or through a sliding window, at one size or several, mirrored or not.

Images and logits come in rows, from above, each asked for when it is needed: of an image of any height no more is in memory
than the windows of one row touch.

I channels · C classes · H W image · B windows at a time · h w window
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.types import SegOutput
from protoseg.words import shortened

Rows = Callable[[int, int], Tensor]
"""(top, bottom) -> (1, I or C, bottom - top, W). Whoever asks goes downwards: no top is above that of the time before."""
Size = tuple[int, int]

_STRIP = 1 << 18  # pixels whose probabilities are made at a time
_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 22}  # pixels that a network sees at a time in several windows
_MOST_WINDOWS = 64
_LARGEST_SCALE, _MOST_SCALES = 8, 32  # protocols of papers end at 2 and at a dozen: no file may demand any amount of memory


@dataclass(frozen=True)
class Inference:
    """The class probabilities of one image.

    Windows overlap, and their logits are averaged: the protocol of arXiv 2210.04388 on Cityscapes, with windows of 769 pixels
    513 apart. Over sizes and mirror images probabilities are averaged, because logits of different sizes differ in scale.

    Attributes:
        window: side of square windows in pixels; None for the whole image at once.
        stride: pixels between windows; two thirds of the window, rounded up, when left out.
        scales: by which the image is resized before the network sees it, at most 8; 1.0 is its own size.
        flip: also mirrored left-right.
        batch: windows that the network sees at a time; as many as make a million pixels on a CPU, four on a GPU, when left out.

    Raises:
        ValueError: a number is out of range or no whole one, or windows would leave pixels between them.
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "stride", "batch"):
            if type(number := getattr(self, name)) not in (int, type(None)):
                raise ValueError(f"{name} is {shortened(number)}; give a whole number")
        if self.window is None and self.stride is not None:
            raise ValueError(f"a stride of {self.stride} is for a sliding window; give a window too")
        if self.window is not None and self.window < 1:
            raise ValueError(f"the window is {self.window} pixels wide; it must be above 0")
        if self.window is not None and self.stride is not None and not 1 <= self.stride <= self.window:
            raise ValueError(f"a stride of {self.stride} does not fit a window of {self.window}; give 1 to {self.window}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"{self.batch} windows at a time are none; give 1 or more")
        if not 0 < len(self.scales) <= _MOST_SCALES or not all(0 < scale <= _LARGEST_SCALE for scale in self.scales):  # nor NaN
            raise ValueError(
                f"scales are {shortened(list(self.scales))}; give 1 to {_MOST_SCALES} numbers above 0, at most "
                f"{_LARGEST_SCALE}, 1.0 for the image's own size"
            )

    def __str__(self) -> str:
        """In words: `windows of 769 px, 513 apart; at 0.75, 1 times the size; mirrored too`."""
        seen = "whole images"
        if self.window is not None:
            seen = f"windows of {self.window} px, {self._stride} apart"
        sizes = (
            "at their own size" if self.scales == (1.0,) else f"at {', '.join(f'{s:g}' for s in self.scales)} times the size"
        )
        return f"{seen}; {sizes}; {'mirrored too' if self.flip else 'not mirrored'}"

    @property
    def _stride(self) -> int:
        return self.stride or math.ceil(2 * (self.window or 1) / 3)

    def __call__(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predict one image.

        Args:
            network: in eval mode.
            image: (1, I, H, W), normalised.

        Returns:
            (C, H, W) float32 probabilities.
        """
        size = (image.shape[-2], image.shape[-1])
        return torch.cat(list(self.strips(network, lambda top, bottom: image[..., top:bottom, :], size)), dim=1)

    @torch.no_grad()
    def strips(self, network: nn.Module, image: Rows, size: Size) -> Iterator[Tensor]:
        """Predict one image from above, a few rows at a time.

        Args:
            network: in eval mode.
            image: normalised rows.
            size: H and W.

        Yields:
            (C, rows, W) float32 probabilities, all rows together H.
        """
        views = list(product(self.scales, (False, True) if self.flip else (False,)))
        logits: Iterable[Rows] = (self._logits(network, image, size, scale, mirrored) for scale, mirrored in views)
        cuts = {0, size[0]}
        if self.window is not None or len(views) == 1:  # else one view after the other: all their logits might fill the memory
            logits = list(logits)
            cuts.update(range(0, size[0], max(1, _STRIP // size[1])))
        if self.window is not None:  # a strip over such an edge would hold the rows of windows above and below it
            cuts.update(starts(size[0], self.window, self._stride))
        for top, bottom in pairwise(sorted(cuts)):
            total: Tensor | None = None
            for of_view in logits:
                probability = of_view(top, bottom).softmax(dim=1)[0]
                total = probability if total is None else total.add_(probability)
            assert total is not None
            yield total.div_(len(views))

    def _logits(self, network: nn.Module, image: Rows, size: Size, scale: float, mirrored: bool) -> Rows:
        """Of one view."""
        height, width = (max(1, round(side * scale)) for side in size) if scale != 1 else size
        seen = _resized(image, size, (height, width))
        if mirrored:
            seen = _mirrored(seen)
        if self.window is None or (height <= self.window and width <= self.window):
            logits: Rows = _Whole(network, seen, height)
        else:
            logits = _Windows(network, seen, (height, width), window=self.window, stride=self._stride, batch=self.batch)
        return _resized(_mirrored(logits) if mirrored else logits, (height, width), size)


class _Whole:
    """Logits of the image in one piece."""

    def __init__(self, network: nn.Module, image: Rows, height: int) -> None:
        self.network, self.image, self.height = network, image, height
        self.logits: Tensor | None = None  # (1, C, H, W)

    def __call__(self, top: int, bottom: int) -> Tensor:
        if self.logits is None:
            self.logits = _answer(self.network, self.image(0, self.height))
        return self.logits[..., top:bottom, :]


class _Windows:
    """Mean logits of overlapping windows. Between the edges of windows lie blocks of rows, which are held from the first window
    that touches them until nobody asks for them any more."""

    def __init__(self, network: nn.Module, image: Rows, size: Size, *, window: int, stride: int, batch: int | None) -> None:
        self.network, self.image, self.batch = network, image, batch
        self.height, self.width = (min(window, side) for side in size)
        tops, self.lefts = (starts(side, window, stride) for side in size)
        self.tops = iter(tops)
        self.next: int | None = next(self.tops)
        self.edges = sorted({*tops, *(top + self.height for top in tops)})
        self.blocks: dict[int, Tensor] = {}  # first row -> (1, C, rows, W), the sum over windows
        self.times: dict[int, int] = {}  # how many rows of windows it is the sum of
        self.columns = torch.zeros(size[1])  # how many windows of a row see each column
        for left in self.lefts:
            self.columns[left : left + self.width] += 1

    def __call__(self, top: int, bottom: int) -> Tensor:
        for first, end in pairwise(self.edges):
            if end <= top:
                self.blocks.pop(first, None)
        while self.next is not None and self.next < bottom:
            self._see(self.next)
            self.next = next(self.tops, None)
        parts = []
        for first, end in self._between(top, bottom):
            block = self.blocks[first]
            rows = block[..., max(top - first, 0) : min(bottom, end) - first, :]
            parts.append(rows / (self.times[first] * self.columns))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _see(self, top: int) -> None:
        """Add a row of windows."""
        image = self.image(top, top + self.height)
        num = self.batch or num_windows(self.height * self.width, image.device)
        blocks = list(self._between(top, top + self.height))
        for first, _ in blocks:
            self.times[first] = self.times.get(first, 0) + 1
        for i in range(0, len(self.lefts), num):
            lefts = self.lefts[i : i + num]
            windows = torch.cat([image[..., left : left + self.width] for left in lefts])
            answers = _answer(self.network, windows)  # (B, C, h, w)
            self.columns = self.columns.to(answers.device)
            for first, end in blocks:
                if first not in self.blocks:
                    self.blocks[first] = answers.new_zeros(1, answers.shape[1], end - first, len(self.columns))
                for left, logits in zip(lefts, answers, strict=True):
                    self.blocks[first][0, ..., left : left + self.width] += logits[:, first - top : end - top]

    def _between(self, top: int, bottom: int) -> Iterator[tuple[int, int]]:
        """First row and end of each block that has rows there."""
        return ((first, end) for first, end in pairwise(self.edges) if first < bottom and end > top)


def _answer(network: nn.Module, image: Tensor) -> Tensor:
    """(B, I, h, w) -> (B, C, h, w) float32. Convolutions of pixels whose channels lie together take two thirds of the time."""
    out: SegOutput = network(image.contiguous(memory_format=torch.channels_last))
    return out.logits.float()


def num_windows(pixels: int, device: torch.device) -> int:
    """How many windows of so many pixels a network sees at a time."""
    return max(1, min(_MOST_WINDOWS, _AT_ONCE.get(device.type, _AT_ONCE["cpu"]) // pixels))


def starts(size: int, window: int, stride: int) -> list[int]:
    """The first pixel of each window along a side; the last window is moved back to end at the border.

    One window, which is then as small as the side, where the side is not longer than the window.
    """
    last = size - window
    return [0] if last <= 0 else [*range(0, last, stride), last]


def _mirrored(rows: Rows) -> Rows:
    return lambda top, bottom: rows(top, bottom).flip(-1)


def _resized(rows: Rows, size: Size, new: Size) -> Rows:
    """Bilinear, like `F.interpolate`, but of the rows alone that are asked for."""
    if new == size:
        return rows

    def resized(top: int, bottom: int) -> Tensor:
        if (top, bottom) == (0, new[0]):
            return F.interpolate(rows(0, size[0]), size=new, mode="bilinear", align_corners=False)
        place = ((torch.arange(top, bottom, dtype=torch.float64) + 0.5) * (size[0] / new[0]) - 0.5).clamp(min=0)
        above = place.long().clamp(max=size[0] - 1)
        below = (above + 1).clamp(max=size[0] - 1)
        first, end = int(above[0]), int(below[-1]) + 1
        held = rows(first, end)
        held = F.interpolate(held, size=(end - first, new[1]), mode="bilinear", align_corners=False)  # only their width
        share = (place - above).to(held)[:, None]
        above, below = above.to(held.device) - first, below.to(held.device) - first
        return torch.lerp(held[..., above, :], held[..., below, :], share)

    return resized
