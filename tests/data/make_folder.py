"""Writes a tiny data set: a red square (class 1) and a blue disc (class 2) on dark noise (class 0)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Layout = Literal["inside", "beside"]
PALETTE = [(37 * i + channel) % 256 for i in range(256) for channel in (0, 90, 180)]  # says nothing about the numbers

TINY_MODEL = ["--model.arch", "small_unet", "--model.width", "4", "--model.weights", "none"]
TINY_RUN = ["--model.weights", "none", "--steps", "2", "--batch", "2", "--crop", "32", "--workers", "0"]
"""Settings for a short run of any network."""
TINY = [*TINY_MODEL, *TINY_RUN]
"""Settings for a run of a second."""


def draw_shapes(rng: np.random.Generator, size: tuple[int, int] = (40, 48)) -> tuple[Pixels, Pixels]:
    """An image (H, W, 3) and its mask (H, W) with the values 0, 1 and 2."""
    height, width = size
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    side = min(size) // 3
    top, left = rng.integers(0, height - side), rng.integers(0, width - side)
    square = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    disc = (y - rng.integers(0, height)) ** 2 + (x - rng.integers(0, width)) ** 2 < (side * 0.7) ** 2
    for value, shape, channel in ((1, square, 0), (2, disc, 2)):
        image[shape] = rng.integers(0, 60, 3)
        image[shape, channel] = rng.integers(180, 256)
        mask[shape] = value
    return image, mask


def write_image(path: Path, image: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def write_index(path: Path, mask: Pixels, *, palette: bool = False) -> Path:
    """Write an index mask, grey or with a palette of misleading colours."""
    picture = Image.fromarray(mask)
    if palette:
        picture.putpalette(PALETTE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def make_folder(
    root: Path,
    *,
    train: int = 6,
    labeled: int | None = 3,
    test: int = 0,
    val: int = 0,
    layout: Layout = "inside",
    train_folder: bool = False,
    nested: bool = False,
    palette: bool = False,
    size: tuple[int, int] = (40, 48),
    suffix: str = ".png",
    classes: tuple[str, ...] = (),
    seed: int = 0,
) -> Path:
    """Write a data set.

    Args:
        root: folder to write; returned.
        train: training images, `img_00` and so on.
        labeled: how many of them have masks, the first ones; None for all.
        test, val: evaluation images, all with masks.
        layout: evaluation images `inside` images/test and masks/test, or `beside` in test/images and test/masks.
        train_folder: training images stand in images/train.
        nested: training images stand in two sub-folders, `a/b` and `c`, in turn.
        palette: masks are palette PNGs.
        size: (H, W).
        suffix: of the images.
        classes: names for classes.txt; no file without them.
        seed: of the pictures.
    """
    rng = np.random.default_rng(seed)

    def write(name: str, images: Path, masks: Path | None) -> None:
        image, mask = draw_shapes(rng, size)
        write_image(images / f"{name}{suffix}", image)
        if masks is not None:
            write_index(masks / f"{name}.png", mask, palette=palette)

    for i in range(train):
        has_mask = labeled is None or i < labeled
        folder = f"{('a/b', 'c')[i % 2]}/" if nested else ""
        name = f"{'train/' if train_folder else ''}{folder}img_{i:02d}"
        write(name, root / "images", root / "masks" if has_mask else None)
    for split, count in (("test", test), ("val", val)):
        for i in range(count):
            if layout == "inside":
                write(f"{split}/{split}_{i:02d}", root / "images", root / "masks")
            else:
                write(f"{split}_{i:02d}", root / split / "images", root / split / "masks")
    (root / "masks").mkdir(parents=True, exist_ok=True)
    if classes:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")
    return root


def cut_short(path: Path) -> Path:
    """Truncate a file to half its length."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def make_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with such entries: tag, type, number of values, and the four bytes that hold them or say where they are."""
    packed = [struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in entries]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(packed) + bytes(4)


def write_png(path: Path, rows: list[bytes], *, width: int, depth: int, color: int) -> Path:
    """A PNG of any bit depth, which Pillow cannot write. color: 0 grey, 2 RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path
