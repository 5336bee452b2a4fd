"""Georeferenced images: a predicted mask lies where its image does. To write one needs rasterio, the extra `geo`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import tifffile

from protoseg.data.index import ClassTable
from protoseg.data.io import TIFF_SUFFIXES, UInt8Array
from protoseg.types import IGNORE_INDEX

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM = 33550, 33922, 34264  # tags of the GeoTIFF standard, OGC 19-008r4
_KEYS, _SYSTEMS = 34735, (3072, 2048)  # tag of the keys; those of a projected and of a geographic reference system
_OWN = 32767  # a system that is described in words
_SAME = 1e-3  # of a pixel's side: a thousand pixels further on, one pixel


def is_georeferenced(path: Path) -> bool:
    """Whether a readable TIFF says where it lies: by a transform or by control points, with a reference system or without."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return False
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        return any(tag in tags for tag in (_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM))


class Place(NamedTuple):
    """Where the first pixel of a GeoTIFF lies, and how large a pixel is (negative where an axis is mirrored), in units of its
    reference system."""

    left: float
    top: float
    width: float
    height: float
    system: int | None  # EPSG number, where one is given

    def differs(self, other: Place) -> bool:
        """Whether the first pixels lie a pixel or more apart, the last ones could, or the reference systems differ."""
        if self.system is not None and other.system is not None and self.system != other.system:
            return True
        sides = math.isclose(self.width, other.width, rel_tol=_SAME) and math.isclose(self.height, other.height, rel_tol=_SAME)
        # Half a pixel is the difference between a pixel's corner and its centre, which programs mix up.
        across, down = abs(self.left - other.left), abs(self.top - other.top)
        return not (sides and across < abs(self.width) and down < abs(self.height))

    def __str__(self) -> str:
        return f"({self.left:.10g}, {self.top:.10g})" + (f" in EPSG:{self.system}" if self.system is not None else "")


def place_of(path: Path) -> Place | None:
    """Where a readable TIFF says that it lies; None where it does not say, or turned, or by control points."""
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    try:
        file = tifffile.TiffFile(path)
    except tifffile.TiffFileError:  # another kind of image by that name
        return None
    with file:
        tags = file.pages.first.tags
        scale, points, matrix, keys = (_numbers(tags.valueof(tag)) for tag in (_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM, _KEYS))
    codes = dict(zip(keys[4::4], keys[7::4], strict=False))  # after a header of four, each key is id, place, count, value
    named = (codes.get(key, _OWN) for key in _SYSTEMS)
    system = next((code for code in named if isinstance(code, int) and code != _OWN), None)
    if len(scale) == 3 and len(points) == 6:
        column, row, _, x, y, _ = points
        return Place(x - column * scale[0], y + row * scale[1], scale[0], scale[1], system)
    if len(matrix) == 16 and matrix[1] == matrix[4] == 0:
        return Place(matrix[3], matrix[7], matrix[0], -matrix[5], system)
    return None


def _numbers(value: object) -> tuple[float, ...]:
    """The numbers of a tag; none where it is missing, or of another kind than the standard has."""
    return tuple(value) if isinstance(value, tuple) and all(isinstance(x, (int, float)) for x in value) else ()


def misplaced(image: Path, mask: Path) -> str:
    """Where a mask lies and where its image, in words; empty where they agree, or one of them does not say."""
    there = place_of(image)
    here = place_of(mask) if there else None  # most images lie nowhere, and no mask of theirs has to be opened for that
    return f"begins at {here}, {image} at {there}" if here and there and here.differs(there) else ""


def write_geo_mask(path: Path, values: UInt8Array, like: Path, classes: ClassTable) -> None:
    """Write an index mask as a GeoTIFF with the reference system and the transform (or the control points) of its image.

    Args:
        path: of the mask.
        values: (H, W) numbers of a written index mask.
        like: the georeferenced image, of the same size.
        classes: for the colours.

    Raises:
        ModuleNotFoundError: rasterio is not installed.
    """
    import rasterio

    with rasterio.open(like) as image:
        points, crs_of_points = image.gcps
        profile = {"gcps": points, "crs": crs_of_points} if points else {"crs": image.crs, "transform": image.transform}
    height, width = values.shape
    nodata = None if IGNORE_INDEX in classes.written else IGNORE_INDEX
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint8",
        count=1,
        height=height,
        width=width,
        nodata=nodata,
        compress="deflate",
        **profile,
    ) as mask:
        mask.write(values, 1)
        mask.write_colormap(1, {value: (*color, 255) for value, color in classes.palette().items()})
