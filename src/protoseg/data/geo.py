"""Georeferenced images: a predicted mask lies where its image does. Needs rasterio, the extra `geo`."""

from __future__ import annotations

from pathlib import Path

import tifffile

from protoseg.data.index import ClassTable
from protoseg.data.io import UInt8Array
from protoseg.types import IGNORE_INDEX

_GEO_KEYS, _PIXEL_SCALE, _TRANSFORM = 34735, 33550, 34264  # tags of the GeoTIFF standard, OGC 19-008r4


def is_georeferenced(path: Path) -> bool:
    """Whether a readable TIFF says where on earth it lies."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return False
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        return _GEO_KEYS in tags and (_PIXEL_SCALE in tags or _TRANSFORM in tags)


def write_geo_mask(path: Path, values: UInt8Array, like: Path, classes: ClassTable) -> None:
    """Write an index mask as a GeoTIFF with the reference system and the transform of its image.

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
        profile = {"crs": image.crs, "transform": image.transform}
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
