"""Georeferenced images: a predicted mask lies where its image does. Needs rasterio, the extra `geo`."""

from __future__ import annotations

from pathlib import Path

import tifffile

from protoseg.data.index import ClassTable
from protoseg.data.io import UInt8Array
from protoseg.types import IGNORE_INDEX

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM = 33550, 33922, 34264  # tags of the GeoTIFF standard, OGC 19-008r4


def is_georeferenced(path: Path) -> bool:
    """Whether a readable TIFF says where it lies: by a transform or by control points, with a reference system or without."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return False
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        return any(tag in tags for tag in (_PIXEL_SCALE, _TIEPOINTS, _TRANSFORM))


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
