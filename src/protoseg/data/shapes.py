"""Masks that are drawn: polygons and other regions of an annotation file, painted into an index mask.

N points · H W image
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from protoseg.data.images import header_size, read_image
from protoseg.data.io import UInt8Array

BoolArray = NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)


class Patch(NamedTuple):
    """A part of an image, cut out: only that much is made and painted, because images are large and shapes small."""

    top: int
    left: int
    inside: BoolArray

    def of(self, whole: NDArray[Number]) -> NDArray[Number]:
        """The part of an array of the image's size that it stands for, as a view."""
        height, width = self.inside.shape
        return whole[self.top : self.top + height, self.left : self.left + width]

    def paint(self, mask: UInt8Array, value: int) -> None:
        """Set the pixels inside."""
        self.of(mask)[self.inside] = value

    def on(self, size: tuple[int, int]) -> BoolArray:
        """(H, W) bool, the whole image."""
        whole = np.zeros(size, dtype=np.uint8)
        self.paint(whole, 1)
        return whole.astype(np.bool_)


class Region(ABC):
    """A part of an image."""

    @abstractmethod
    def patch(self, size: tuple[int, int]) -> Patch:
        """What it covers of an image (H, W).

        Raises:
            ValueError: it does not describe a part of an image of that size.
        """

    def fill(self, size: tuple[int, int]) -> BoolArray:
        """(H, W) bool, True inside."""
        return self.patch(size).on(size)


@dataclass(frozen=True)
class Shape:
    """A region and the mask value that it stands for.

    Attributes:
        value: of the mask.
        region: what it covers.
        level: in a mask painted by area, shapes of a lower level lie below those of a higher one, whatever their areas.
    """

    value: int
    region: Region
    level: int = 0


@dataclass(frozen=True)
class ShapesMask:
    """A mask painted from shapes. Where two overlap, the later one counts, or, by area, the one that covers fewer pixels.

    Attributes:
        path: of the annotation file.
        image: of the annotated image, as the file names it.
        size: (H, W).
        shapes: in the order of painting, or, by area, in any.
        background: value of pixels that no shape covers.
        file: the image. A mask is made in the declared size, so that is compared first with what the image file says.
    """

    path: Path
    image: str
    size: tuple[int, int]
    shapes: tuple[Shape, ...]
    background: int = 0
    file: Path | None = None
    by_area: bool = False

    def read(self) -> UInt8Array:
        mask = _PAINTED.get(self)
        if mask is None:
            mask = self._paint()
            _PAINTED.keep(self, mask)
        return mask

    def _paint(self) -> UInt8Array:
        if self.file is not None:
            height, width = header_size(self.file)
            if height * width != self.size[0] * self.size[1]:  # which is the same for an image that EXIF turns
                raise ValueError(
                    f"{self} is {self.size[1]}x{self.size[0]} but its image {self.file} is {width}x{height}; they must be equal"
                )
        mask = np.full(self.size, self.background, dtype=np.uint8)
        # Areas are known only once a shape is drawn, and to keep all that are drawn would take the memory of many images.
        depth = np.full(self.size, _BOTTOM, dtype=np.int32) if self.by_area else None
        for number, shape in enumerate(self.shapes, start=1):
            try:
                patch = shape.region.patch(self.size)
            except ValueError as error:
                raise ValueError(f"{self}, shape {number}: {error}") from error
            if depth is not None:
                own = int(patch.inside.sum()) - shape.level * (mask.size + 1)
                patch = patch._replace(inside=patch.inside & (own <= patch.of(depth)))
                patch.of(depth)[patch.inside] = own
            patch.paint(mask, shape.value)
        return mask

    def renumbered(self, new: Mapping[int, int]) -> ShapesMask:
        """The same mask with other values; those that the table lacks stay."""
        shapes = tuple(replace(shape, value=new.get(shape.value, shape.value)) for shape in self.shapes)
        return replace(self, shapes=shapes, background=new.get(self.background, self.background))

    def __str__(self) -> str:
        return f"{self.path} ({self.image})"


_BOTTOM = np.iinfo(np.int32).max  # below every shape; the largest image has 2^28 pixels, so three levels fit above it


@dataclass(frozen=True)
class BlankMask:
    """The mask of an image on which somebody has seen nothing: one value in all of it. Annotation files do not say its size.

    Attributes:
        path: of the annotation file.
        image: of the annotated image, as the file names it.
        file: the image.
        background: value of all pixels.
    """

    path: Path
    image: str
    file: Path
    background: int = 0

    def read(self) -> UInt8Array:
        return np.full(read_image(self.file).shape[:2], self.background, dtype=np.uint8)

    def renumbered(self, new: Mapping[int, int]) -> BlankMask:
        """See `ShapesMask.renumbered`."""
        return replace(self, background=new.get(self.background, self.background))

    def __str__(self) -> str:
        return f"{self.path} ({self.image})"


class _Painted:
    """The masks that were painted last, packed: a large image with many shapes takes seconds, and is drawn again and again.

    Each process has its own. Masks are told apart by being the same object, since comparing all corners takes long too.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self.kept: OrderedDict[int, tuple[ShapesMask, bytes]] = OrderedDict()  # with the object, so that no other gets its id
        self.lock = Lock()

    def get(self, source: ShapesMask) -> UInt8Array | None:
        with self.lock:
            found = self.kept.get(id(source))
            if found is None:
                return None
            self.kept.move_to_end(id(source))
        return np.frombuffer(zlib.decompress(found[1]), dtype=np.uint8).reshape(source.size).copy()

    def keep(self, source: ShapesMask, mask: UInt8Array) -> None:
        packed = zlib.compress(mask.tobytes(), level=1)
        with self.lock:
            before = self.kept.pop(id(source), (source, b""))[1]
            self.kept[id(source)] = source, packed
            self.bytes += len(packed) - len(before)
            while self.bytes > self.most_bytes:
                _, (_, oldest) = self.kept.popitem(last=False)
                self.bytes -= len(oldest)


_PAINTED = _Painted(most_bytes=1 << 26)


@dataclass(frozen=True)
class Polygon(Region):
    """Closed rings of (x, y) in pixels, where (0, 0) is the corner of the first pixel. A ring inside another is a hole."""

    rings: tuple[tuple[tuple[float, float], ...], ...]

    def patch(self, size: tuple[int, int]) -> Patch:
        patches = [polygon_patch(ring, size) for ring in self.rings]
        if len(patches) == 1:
            return patches[0]
        inside = np.zeros(size, dtype=np.bool_)
        for patch in patches:
            inside ^= patch.on(size)
        return Patch(0, 0, inside)


@dataclass(frozen=True)
class Ellipse(Region):
    """An axis-parallel ellipse."""

    center: tuple[float, float]  # (x, y)
    radii: tuple[float, float]

    def patch(self, size: tuple[int, int]) -> Patch:
        check_near(np.array([self.center, self.radii]), size)
        if min(self.radii) <= 0:
            return Patch(0, 0, np.zeros((0, 0), dtype=np.bool_))
        center, radii = np.array(self.center), np.array(self.radii)
        left, top = _first_pixel(center - radii, size)
        right, bottom = _first_pixel(center + radii + 1, size)
        y, x = np.ogrid[top:bottom, left:right]
        inside: BoolArray = ((x + 0.5 - center[0]) / radii[0]) ** 2 + ((y + 0.5 - center[1]) / radii[1]) ** 2 <= 1
        return Patch(top, left, inside)


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    return Polygon((((left, top), (right, top), (right, bottom), (left, bottom)),))


def fill_polygon(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> BoolArray:
    """`polygon_patch` on the whole image: (H, W) bool."""
    return polygon_patch(points, size).on(size)


def polygon_patch(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Patch:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Args:
        points: N corners (x, y) in pixels; the last is joined to the first.
        size: (H, W).

    Returns:
        Patch of the polygon's box.

    Raises:
        ValueError: fewer than three corners, or one that is no number or far outside the image.
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon needs at least three corners (x, y), got {len(points)}")
    if not np.isfinite(corners).all():
        raise ValueError("a corner of the polygon is not a number")
    check_near(corners, size)
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
    return Patch(top, left, np.cumsum(flips, axis=1)[:, :-1] % 2 == 1)


def check_near(corners: NDArray[np.float64], size: tuple[int, int]) -> None:
    """Stop at numbers far beyond the image: they are a mistake, and too large to count with."""
    if not (np.abs(corners) <= 10 * max(size)).all():  # false for NaN too
        raise ValueError("it lies far outside the image; correct or remove it")


def _first_pixel(corner: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int]:
    """(column, row) of the first pixel whose centre is to the right of and below a point, within the image."""
    column, row = np.clip(np.ceil(corner - 0.5), 0, size[::-1]).astype(np.int64).tolist()
    return column, row
