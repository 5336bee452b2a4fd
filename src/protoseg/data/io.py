"""Reading and writing images and masks. Every error names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})

UInt8Array = NDArray[np.uint8]


class UnreadableImageError(ValueError):
    """A file that is not a whole image; the message names it."""


def read_image(path: Path) -> UInt8Array:
    """Read an 8-bit image as RGB, turned as its EXIF orientation says.

    Args:
        path: of the image. Grey, palette and alpha images become RGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImageError: missing, truncated, not an image, or of more than 8 bits a channel (which Pillow would cut).
    """
    image = _open(path)
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        raise UnreadableImageError(f"{path} has more than 8 bits a channel ({image.mode}); convert it to 8 bits first")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_mask(path: Path) -> UInt8Array:
    """Read an index mask: the stored numbers of a grey, palette or 1-bit image, never their colours.

    Args:
        path: of the mask.

    Returns:
        (H, W) uint8.

    Raises:
        UnreadableImageError: missing, truncated, not an image, or a colour image.
    """
    image = _open(path)
    if image.mode not in {"L", "P", "1"}:
        raise UnreadableImageError(
            f"{path} is a {image.mode} image; a mask must hold one class number for each pixel (8-bit grey or palette PNG)"
        )
    return np.asarray(ImageOps.exif_transpose(image)).astype(np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the file's header, without decoding it and after EXIF orientation."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5-8 swap the sides
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path} cannot be read as an image: {error}") from error
    return (width, height) if turned else (height, width)


def write_mask(path: Path, values: UInt8Array, palette: dict[int, tuple[int, int, int]]) -> None:
    """Write an index mask as a palette PNG: the numbers are the classes, the colours are for the eye.

    Args:
        path: of the PNG.
        values: (H, W) uint8.
        palette: colour of each value; others become black.
    """
    colors = np.zeros((256, 3), dtype=np.uint8)
    for value, color in palette.items():
        colors[value] = color
    image = Image.fromarray(values)
    image.putpalette(colors.flatten().tolist())
    image.save(path)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path} does not exist") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path} cannot be read as an image: {error}") from error
