"""Geometry, in the workers: one random scale, crop and flip for each image, shared by all its views.

The window is cut out first and only that is resized: the same result as resizing the image and cropping it, up to rounding,
at a fraction of the cost.

I channels · H W image · S side of the crop
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from protoseg.types import IGNORE_INDEX


class CropView(NamedTuple):
    image: Tensor  # (I, S, S) uint8 or float
    mask: Tensor  # (S, S) uint8, IGNORE_INDEX on padding; empty for an unlabelled image
    valid: Tensor  # (S, S) bool, False on padding


def crop_view(
    image: Tensor,
    mask: Tensor | None,
    *,
    size: int,
    fill: Tensor,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    label_padding: bool = False,
    around: tuple[int, int] | None = None,
) -> CropView:
    """Scale by a random factor, crop at a random place, flip by chance; pad at the bottom and right where the image ends.

    The factor is below and above 1 with equal chance, uniform in each part, as in the paper.

    Args:
        image: (I, H, W) uint8 or float.
        mask: (H, W) uint8, or None.
        size: S, side of the crop in pixels.
        fill: (I,) of the image's type, colour of padding.
        generator: of all random choices.
        scale: range of the factor.
        flip: mirror left-right with probability 0.5.
        label_padding: call padding class 0 and valid, as the code base of the published numbers does.
        around: (row, column) of a pixel that the crop has to contain; any place when left out.

    Returns:
        CropView.
    """
    factor, top, left, coin = _draw(generator, scale)
    height, width = image.shape[-2:]
    window_h, window_w = min(height, round(size / factor)), min(width, round(size / factor))
    row, column = (None, None) if around is None else around
    y, x = _place(top, height, window_h, row), _place(left, width, window_w, column)
    # Sides cut short by the image's end stay in proportion; whole ones are exactly the crop.
    out_h = size if window_h == round(size / factor) else min(size, max(1, round(window_h * factor)))
    out_w = size if window_w == round(size / factor) else min(size, max(1, round(window_w * factor)))

    view = fill[:, None, None].repeat(1, size, size)
    view[:, :out_h, :out_w] = _resize(image[:, y : y + window_h, x : x + window_w], (out_h, out_w), nearest=False)
    valid = torch.full((size, size), label_padding)
    valid[:out_h, :out_w] = True
    label = torch.empty(0, dtype=torch.uint8)
    if mask is not None:
        label = torch.full((size, size), 0 if label_padding else IGNORE_INDEX, dtype=torch.uint8)
        label[:out_h, :out_w] = _resize(mask[None, y : y + window_h, x : x + window_w], (out_h, out_w), nearest=True)[0]
    if flip and coin < 0.5:
        view, valid, label = view.flip(-1), valid.flip(-1), label.flip(-1) if mask is not None else label
    return CropView(view, label, valid)


def _place(draw: float, side: int, window: int, pixel: int | None) -> int:
    """Where a window starts along a side: anywhere, or anywhere around a pixel."""
    first, last = 0, side - window
    if pixel is not None:
        first, last = max(0, pixel - window + 1), min(last, pixel)
    return first + int(draw * (last - first + 1))


def _draw(generator: torch.Generator, scale: tuple[float, float]) -> tuple[float, float, float, float]:
    low, high = scale
    side, place, top, left, coin = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    if low < 1 < high:
        low, high = (low, 1.0) if side < 0.5 else (1.0, high)
    return low + place * (high - low), top, left, coin


def _resize(image: Tensor, size: tuple[int, int], *, nearest: bool) -> Tensor:
    if image.shape[-2:] == size:
        return image
    mode = V.InterpolationMode.NEAREST_EXACT if nearest else V.InterpolationMode.BILINEAR
    return V.resize(image, list(size), interpolation=mode, antialias=not nearest)  # type: ignore[no-any-return]
