"""How a network sees one image: whole or through a sliding window, at one size or several, mirrored or not.

I channels · C classes · H W image
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.types import SegOutput


@dataclass(frozen=True)
class Inference:
    """The class probabilities of one image.

    Windows overlap, and their logits are averaged: the protocol of arXiv 2210.04388 on Cityscapes, with windows of 769 pixels
    513 apart. Over sizes and mirror images probabilities are averaged, because logits of different sizes differ in scale.

    Attributes:
        window: side of square windows in pixels; None for the whole image at once.
        stride: pixels between windows; two thirds of the window, rounded up, when left out.
        scales: by which the image is resized before the network sees it; 1.0 is its own size.
        flip: also mirrored left-right.

    Raises:
        ValueError: a number is out of range, or windows would leave pixels between them.
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window is None and self.stride is not None:
            raise ValueError(f"a stride of {self.stride} is for a sliding window; give a window too")
        if self.window is not None and self.window < 1:
            raise ValueError(f"the window is {self.window} pixels wide; it must be above 0")
        if self.window is not None and self.stride is not None and not 1 <= self.stride <= self.window:
            raise ValueError(f"a stride of {self.stride} does not fit a window of {self.window}; give 1 to {self.window}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales are {list(self.scales)}; give numbers above 0, 1.0 for the image's own size")

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

    @torch.no_grad()
    def __call__(self, network: nn.Module, image: Tensor) -> Tensor:
        """Predict one image.

        Args:
            network: in eval mode.
            image: (1, I, H, W), normalised.

        Returns:
            (C, H, W) float32 probabilities.
        """
        size = image.shape[-2:]
        views = list(product(self.scales, (False, True) if self.flip else (False,)))
        total: Tensor | None = None
        for scale, mirrored in views:
            seen = image if scale == 1 else _resize(image, [max(1, round(side * scale)) for side in size])
            logits = self._logits(network, seen.flip(-1) if mirrored else seen)  # (1, C, H * scale, W * scale)
            logits = logits.flip(-1) if mirrored else logits
            probability = (logits if scale == 1 else _resize(logits, size)).softmax(dim=1)[0]
            total = probability if total is None else total + probability
        assert total is not None
        return total / len(views)

    def _logits(self, network: nn.Module, image: Tensor) -> Tensor:
        """(1, C, H, W) of one view."""
        height, width = image.shape[-2:]
        if self.window is None or (height <= self.window and width <= self.window):
            out: SegOutput = network(image)
            return out.logits.float()
        stride = self._stride
        total, count = None, image.new_zeros(height, width)
        for top, left in product(starts(height, self.window, stride), starts(width, self.window, stride)):
            part = (..., slice(top, top + self.window), slice(left, left + self.window))
            out = network(image[part])
            if total is None:
                total = image.new_zeros(1, out.logits.shape[1], height, width, dtype=torch.float32)
            total[part] += out.logits.float()
            count[part] += 1
        assert total is not None
        return total / count


def starts(size: int, window: int, stride: int) -> list[int]:
    """The first pixel of each window along a side; the last window is moved back to end at the border.

    One window, which is then as small as the side, where the side is not longer than the window.
    """
    last = size - window
    return [0] if last <= 0 else [*range(0, last, stride), last]


def _resize(x: Tensor, size: list[int] | torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
