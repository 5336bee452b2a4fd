"""What a mask stores: plain numbers, or colours packed into numbers above them, so that one class table reads both.

H W image
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg.data.images import BLURS, TiffPage, exif_orientation, read_tiff, turn
from protoseg.data.io import UInt8Array, UnreadableImageError, by_content, open_image
from protoseg.words import counted

MaskArray = NDArray[np.integer[Any]]
Color = tuple[int, int, int]

COLOR = 1 << 24
"""Mask values from here on are colours: COLOR + 0xRRGGBB."""
_BLURRED = {"JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WebP"}
_SPREAD = {"L;2": 85, "L;4": 17}  # Pillow spreads 2- and 4-bit grey over 0-255; a mask needs the stored numbers


class PaletteMask(NamedTuple):
    """A mask, and the colours in which its file shows the numbers."""

    values: MaskArray  # (H, W)
    palette: UInt8Array | None = None  # (N, 3) RGB of the numbers 0, 1, ...; None where the file has none


class MaskSource(Protocol):
    """Where the mask of one image comes from. Its `str` is the file that messages name."""

    def read(self) -> MaskArray:
        """(H, W) mask values: uint8, uint16, or int32 for colours.

        Raises:
            ValueError: it cannot be read; the message names the file.
        """
        ...


@dataclass(frozen=True)
class MaskFile:
    """A mask in an image file of its own."""

    path: Path

    def read(self) -> MaskArray:
        return read_mask(self.path)

    def __str__(self) -> str:
        return str(self.path)


def read_with_palette(mask: MaskSource) -> PaletteMask:
    """Read a mask and its palette in one opening of its file.

    Raises:
        ValueError: see `MaskSource.read`.
    """
    return _read(mask.path) if isinstance(mask, MaskFile) else PaletteMask(mask.read())


def read_mask(path: Path) -> MaskArray:
    """Read a mask as it is stored: the numbers of a grey, palette or 1-bit image, never their colours; of RGB ones the colours.

    Args:
        path: of the mask.

    Returns:
        (H, W) uint8 or uint16 numbers, or int32 colours (see `pack`).

    Raises:
        UnreadableImageError: missing, truncated, not an image, stored with loss, partly transparent, or without whole numbers
            below 65,536.
    """
    return _read(path).values


def _read(path: Path) -> PaletteMask:
    return by_content(path, _read_tiff, _read_other)


def _read_tiff(path: Path) -> PaletteMask:
    page = read_tiff(path)
    return PaletteMask(_tiff_values(page, path), page.palette)


def _read_other(path: Path) -> PaletteMask:
    image, stored = open_image(path)
    if image.format in _BLURRED:  # whatever the file is called
        raise UnreadableImageError(f"{path} is a {_BLURRED[image.format]} image, {BLURS}")
    values = turn(_values(image, stored, path), exif_orientation(image))
    colors = image.getpalette() if image.mode == "P" else None
    return PaletteMask(values, None if colors is None else np.array(colors, dtype=np.uint8).reshape(-1, 3))


def _values(image: Image.Image, stored: str, path: Path) -> MaskArray:
    if image.mode in {"RGBA", "LA", "PA"}:
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():
            raise _transparent(path)
        image = image.convert("RGB") if image.mode == "RGBA" else image.getchannel(0)
    values = np.asarray(image)
    if image.mode in {"L", "P", "1"}:
        return values.astype(np.uint8) // _SPREAD.get(stored, 1)
    if image.mode == "RGB" and ";16" not in stored:
        return _pack_all(values)
    if values.ndim == 2 and values.dtype.kind in "iuf":
        return _numbers(values, path)
    raise _no_mask(path, f"a {image.mode} image ({stored})")


def _tiff_values(page: TiffPage, path: Path) -> MaskArray:
    values, meaning, _ = page  # Pillow would turn MinIsWhite ones round
    if values.dtype == np.uint8 and (meaning, values.shape[2]) in {("RGB", 4), ("MINISBLACK", 2)}:
        if values[..., -1].min() < values[..., -1].max():
            raise _transparent(path)
        values = values[..., :-1]
    if values.dtype == np.uint8 and (meaning, values.shape[2]) == ("RGB", 3):
        return _pack_all(values)
    if values.shape[2] == 1 and values.dtype in (np.uint8, np.bool_):
        return values[..., 0].astype(np.uint8)
    if values.shape[2] == 1 and values.dtype.kind in "iuf":
        return _numbers(values[..., 0], path)
    raise _no_mask(path, f"a {meaning} image of {values.shape[2]} bands of {values.dtype}")


def _numbers(values: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    inside = (values >= 0) & (values < 1 << 16)  # false for NaN too
    known = inside & (values == np.where(inside, values, 0).astype(np.uint16))
    if not known.all():
        wrong = values[~known]
        pixels = int((wrong == wrong[0]).sum()) or len(wrong)  # NaN equals nothing
        raise UnreadableImageError(
            f"{path} holds {wrong[0]} in {counted(pixels, 'pixel')}; a mask holds whole numbers from 0 to 65535: "
            "store 255 where nothing is labelled"
        )
    return values.astype(np.uint16)


def _pack_all(values: NDArray[Any]) -> NDArray[np.int32]:
    """(H, W, 3) colours to (H, W) mask values."""
    red, green, blue = np.moveaxis(values.astype(np.int32), -1, 0)
    colors: NDArray[np.int32] = COLOR + (red << 16) + (green << 8) + blue
    return colors


def _transparent(path: Path) -> UnreadableImageError:
    return UnreadableImageError(f"{path} is transparent in places; save the mask without an alpha channel")


def _no_mask(path: Path, what: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"{path} is {what}; a mask must hold a class number below 65536 or an 8-bit RGB colour for each pixel"
    )


def pack(color: Color) -> int:
    """The mask value of a colour."""
    red, green, blue = color
    return COLOR + (red << 16) + (green << 8) + blue


def unpack(value: int) -> Color | None:
    """The colour that a mask value stands for; None for a plain number."""
    return (value >> 16 & 255, value >> 8 & 255, value & 255) if value >= COLOR else None


def describe(value: int) -> str:
    """A mask value for people: `7` or `#80c040`."""
    return f"#{value - COLOR:06x}" if value >= COLOR else str(value)


def count_values(mask: MaskArray) -> dict[int, int]:
    """Every value of a mask and the number of its pixels, in rising order."""
    if mask.dtype == np.int32:
        values, counts = np.unique(mask, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    histogram = np.bincount(mask.ravel())
    return {value: int(histogram[value]) for value in np.flatnonzero(histogram).tolist()}
