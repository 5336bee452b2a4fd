"""Images that are wanted a few rows at a time: an array, or a TIFF of which the tiles or strips are decoded that hold them.

H W image · I channels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray

from protoseg.data.io import DamagedImageError, UnreadableImageError

TALLEST = 2048
"""Rows of a tile or strip; a taller one is not decoded for a few of them."""


class ImageRows(Protocol):
    """What an array (H, W, I) does too."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice) -> NDArray[Any]: ...


class TiffRows:
    """The only page of a TIFF. What was decoded for the rows that were asked for last is kept until others are.

    Args:
        path: of the file.
        page: of the file, while it is open.
        finish: makes an image of stored numbers (rows, W, samples).
    """

    def __init__(self, path: Path, page: tifffile.TiffPage, finish: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self.path, self.finish, self.decode = path, finish, page.decode
        self.stored = (page.imagelength, page.imagewidth, page.samplesperpixel)
        self.shape = (*self.stored[:2], finish(np.zeros((1, 1, self.stored[2]), dtype=page.dtype)).shape[2])
        self.type, self.missing = page.dtype, page.nodata
        self.height = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self.columns = math.ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
        self.planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
        self.rows = math.ceil(page.imagelength / self.height)
        self.places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if len(self.places) != self.planes * self.rows * self.columns:
            raise DamagedImageError(f"{path} cannot be read as an image: it lacks tiles or strips")
        self.tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if _is_jpeg(page) else {}
        self.held: dict[int, NDArray[Any]] = {}  # row of tiles or strips -> image rows

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        top, bottom, _ = rows.indices(self.shape[0])
        needed = range(top // self.height, math.ceil(bottom / self.height))
        self.held = {i: self.held[i] if i in self.held else self._read(i) for i in needed}
        first = needed.start * self.height
        return np.concatenate([self.held[i] for i in needed])[top - first : bottom - first]

    def _read(self, row: int) -> NDArray[Any]:
        """A row of tiles, or one strip of each plane."""
        first = row * self.height
        height, width, samples = min(self.height, self.stored[0] - first), *self.stored[1:]
        image = np.full((height, width, samples), self.missing, dtype=self.type)
        try:
            with self.path.open("rb") as file:
                for plane in range(self.planes):
                    start = (plane * self.rows + row) * self.columns
                    for index in range(start, start + self.columns):
                        offset, count = self.places[index]
                        file.seek(offset)
                        data = file.read(count) if count else None
                        if data is not None and len(data) < count:
                            raise ValueError("it ends too early")
                        part, (_, _, _, left, _), _ = self.decode(data, index, **self.tables)
                        if part is not None:  # an empty tile has no bytes
                            into = image[:, left : left + part.shape[2], plane : plane + part.shape[3]]
                            into[: part.shape[1]] = part[0, :height, : into.shape[1]]
            return self.finish(image)
        except UnreadableImageError:
            raise
        except Exception as error:  # tifffile raises whatever a damaged file leads it into
            raise DamagedImageError(f"{self.path} cannot be read as an image: {error}") from error


def _is_jpeg(page: tifffile.TiffPage) -> bool:
    return page.compression in {
        tifffile.COMPRESSION.JPEG,
        tifffile.COMPRESSION.OJPEG,
        tifffile.COMPRESSION.ALT_JPEG,
        tifffile.COMPRESSION.JPEG_LOSSY,
    }
