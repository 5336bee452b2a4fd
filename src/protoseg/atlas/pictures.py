"""Pictures of the atlas: a region around a pixel, and a colour for each prototype.

H W image · C classes · K prototypes per class
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.io import UInt8Array
from protoseg.data.masks import Color

REGION = 132
"""Pixels of the longer side of a region's picture."""
LONGEST = 640
"""Pixels of the longer side of a whole image's picture."""
_SMALLEST, _PART = 48, 4  # a region is a quarter of its image, and no smaller than this
_VEIL = 48  # added to half of what lies outside a region: neither white nor black any more
_QUALITY = 78


class Box(NamedTuple):
    """A part of an image."""

    top: int
    left: int
    height: int
    width: int


def box_around(y: int, x: int, size: tuple[int, int]) -> Box:
    """The square around a pixel of an image (H, W), moved inside where it would stick out."""
    side = max(_SMALLEST, max(size) // _PART)
    height, width = min(side, size[0]), min(side, size[1])
    top, left = min(max(y - height // 2, 0), size[0] - height), min(max(x - width // 2, 0), size[1] - width)
    return Box(top, left, height, width)


def middle(size: tuple[int, int], most: int) -> Box:
    """The middle of an image (H, W), `most` pixels wide and high at the most."""
    height, width = min(most, size[0]), min(most, size[1])
    return Box((size[0] - height) // 2, (size[1] - width) // 2, height, width)


def shown_size(height: int, width: int, longest: int, *, enlarge: bool = False) -> tuple[int, int]:
    """(rows, columns) of a picture with so long a side."""
    factor = longest / max(height, width)
    factor = factor if enlarge else min(1.0, factor)
    return max(1, round(height * factor)), max(1, round(width * factor))


def resized(rgb: UInt8Array, rows: int, columns: int) -> UInt8Array:
    """(H, W, 3) to (rows, columns, 3)."""
    return np.asarray(Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BICUBIC))


def outlined(rgb: UInt8Array, region: NDArray[np.bool_]) -> UInt8Array:
    """Draw a white line inside the border of a region and a black one outside; the frame of the picture is no border.

    What lies outside is veiled: a line alone does not say on which side of it the region is.
    """
    shown = np.where(region[..., None], rgb, rgb // 2 + _VEIL)
    shown[_grown(region) & ~region] = 0
    shown[region & _grown(~region)] = 255
    return shown


def _grown(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A region and its neighbours above, below, left and right."""
    grown = region.copy()
    grown[1:] |= region[:-1]
    grown[:-1] |= region[1:]
    grown[:, 1:] |= region[:, :-1]
    grown[:, :-1] |= region[:, 1:]
    return grown


def shades(colors: Sequence[Color], per_class: int) -> NDArray[np.uint8]:
    """A colour for each prototype: that of its class, from dark to light.

    Args:
        colors: of the classes.
        per_class: K.

    Returns:
        (C, K, 3); the class's own colour where it has one prototype.
    """
    table = np.zeros((len(colors), per_class, 3), dtype=np.uint8)
    for c, color in enumerate(colors):
        hue, own, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
        for k in range(per_class):
            lightness = own if per_class == 1 else 0.26 + 0.56 * k / (per_class - 1)
            table[c, k] = [round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation)]
    return table


def jpeg(rgb: UInt8Array) -> bytes:
    return _encoded(Image.fromarray(rgb), "JPEG", quality=_QUALITY)


def png(rgb: UInt8Array) -> bytes:
    """Without loss, and soon rather than small."""
    return _encoded(Image.fromarray(rgb), "PNG", compress_level=1)


def flat_png(rgb: UInt8Array, alpha: NDArray[np.bool_] | None = None) -> bytes:
    """A picture of a few colours; transparent where `alpha` (H, W) is False."""
    if alpha is None:
        return _encoded(Image.fromarray(rgb), "PNG", optimize=True)
    return _encoded(Image.fromarray(np.dstack([rgb * alpha[..., None], alpha * np.uint8(255)])), "PNG", optimize=True)


def _encoded(picture: Image.Image, format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return buffer.getvalue()
