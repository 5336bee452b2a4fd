"""Masks that are drawn: polygons and other regions of an annotation file, painted into an index mask.

N points · H W image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protoseg.data.io import UInt8Array

BoolArray = NDArray[np.bool_]


class Region(Protocol):
    """A part of an image."""

    def fill(self, size: tuple[int, int]) -> BoolArray:
        """(H, W) bool, True inside.

        Raises:
            ValueError: it does not describe a part of an image of that size.
        """
        ...


@dataclass(frozen=True)
class Shape:
    """A region and the mask value that it stands for."""

    value: int
    region: Region


@dataclass(frozen=True)
class ShapesMask:
    """A mask painted from shapes, in their order: where two overlap, the later one counts.

    Attributes:
        path: of the annotation file.
        image: of the annotated image, as the file names it.
        size: (H, W).
        shapes: in the order of painting.
        background: value of pixels that no shape covers.
    """

    path: Path
    image: str
    size: tuple[int, int]
    shapes: tuple[Shape, ...]
    background: int = 0

    def read(self) -> UInt8Array:
        mask = np.full(self.size, self.background, dtype=np.uint8)
        for number, shape in enumerate(self.shapes, start=1):
            try:
                mask[shape.region.fill(self.size)] = shape.value
            except ValueError as error:
                raise ValueError(f"{self}, shape {number}: {error}") from error
        return mask

    def renumbered(self, new: Mapping[int, int]) -> ShapesMask:
        """The same mask with other values; those that the table lacks stay."""
        shapes = tuple(Shape(new.get(shape.value, shape.value), shape.region) for shape in self.shapes)
        return replace(self, shapes=shapes, background=new.get(self.background, self.background))

    def __str__(self) -> str:
        return f"{self.path} ({self.image})"


@dataclass(frozen=True)
class Polygon:
    """Closed rings of (x, y) in pixels, where (0, 0) is the corner of the first pixel. A ring inside another is a hole."""

    rings: tuple[tuple[tuple[float, float], ...], ...]

    def fill(self, size: tuple[int, int]) -> BoolArray:
        inside = np.zeros(size, dtype=np.bool_)
        for ring in self.rings:
            inside ^= fill_polygon(ring, size)
        return inside


@dataclass(frozen=True)
class Ellipse:
    """An axis-parallel ellipse."""

    center: tuple[float, float]  # (x, y)
    radii: tuple[float, float]

    def fill(self, size: tuple[int, int]) -> BoolArray:
        if min(self.radii) <= 0:
            return np.zeros(size, dtype=np.bool_)
        y, x = np.ogrid[: size[0], : size[1]]
        inside: BoolArray = ((x + 0.5 - self.center[0]) / self.radii[0]) ** 2 + (
            (y + 0.5 - self.center[1]) / self.radii[1]
        ) ** 2 <= 1
        return inside


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    return Polygon((((left, top), (right, top), (right, bottom), (left, bottom)),))


def fill_polygon(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> BoolArray:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Args:
        points: N corners (x, y) in pixels; the last is joined to the first.
        size: (H, W).

    Returns:
        (H, W) bool.

    Raises:
        ValueError: fewer than three corners, or one that is no number.
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon needs at least three corners (x, y), got {len(points)}")
    if not np.isfinite(corners).all():
        raise ValueError("a corner of the polygon is not a number")
    # Only the polygon's own box is filled: a large image with many small shapes would take minutes.
    left, top = _first_pixel(corners.min(axis=0), size)
    right, bottom = _first_pixel(corners.max(axis=0), size)
    (x0, y0), (x1, y1) = corners.T[:, :, None], np.roll(corners, -1, axis=0).T[:, :, None]  # (N, 1) each
    middle = np.arange(top, bottom) + 0.5
    edge, row = np.nonzero((y0 <= middle) != (y1 <= middle))  # every crossing of an edge and the middle line of a row
    x0, y0, x1, y1 = (values[edge, 0] for values in (x0, y0, x1, y1))
    x = x0 + (middle[row] - y0) * (x1 - x0) / (y1 - y0)
    first = np.clip(np.ceil(x - 0.5), left, right).astype(np.int64)  # the first pixel whose centre is to the right
    flips = np.zeros((bottom - top, right - left + 1), dtype=np.int64)
    np.add.at(flips, (row, first - left), 1)
    inside: BoolArray = np.zeros(size, dtype=np.bool_)
    inside[top:bottom, left:right] = np.cumsum(flips, axis=1)[:, :-1] % 2 == 1
    return inside


def _first_pixel(corner: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int]:
    """(column, row) of the first pixel whose centre is to the right of and below a point, within the image."""
    column, row = np.clip(np.ceil(corner - 0.5), 0, size[::-1]).astype(np.int64).tolist()
    return column, row
