"""Pictures for the eye: coloured masks, overlays, confidence, and the sheet of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from protoseg.data.index import ClassTable
from protoseg.data.io import UInt8Array
from protoseg.data.masks import Color
from protoseg.files import replacing
from protoseg.types import IGNORE_INDEX

_ROWS = 256  # that are blended at a time
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def mask_palette(classes: ClassTable) -> dict[int, Color]:
    """Colours of a predicted mask: those of the classes, and one for no data."""
    return {IGNORE_INDEX: void_color(classes), **classes.palette()}


def void_color(classes: ClassTable) -> Color:
    """What pixels without a class are painted in: white, or another grey where that is the colour of a class."""
    greys = ((level, level, level) for level in (255, 128, 0, *range(256)))  # there are at most 255 classes
    return next(grey for grey in greys if grey not in classes.colors)


def colorize(label: UInt8Array, classes: ClassTable) -> UInt8Array:
    """Class ids (H, W) to RGB (H, W, 3); ignored pixels in the void colour."""
    table = np.full((256, 3), void_color(classes), dtype=np.uint8)
    table[: len(classes)] = classes.colors
    return table[label]


def overlay(image: UInt8Array, label: UInt8Array, classes: ClassTable, *, opacity: float = 0.5) -> UInt8Array:
    """Blend class colours over an image: (H, W, 3) and (H, W) to (H, W, 3)."""
    mixed = np.empty_like(image)
    for top in range(0, len(image), _ROWS):  # a large image in floats would fill the memory
        rows = slice(top, top + _ROWS)
        mixed[rows] = ((1 - opacity) * image[rows] + opacity * colorize(label[rows], classes)).round()
    return mixed


def gray(values: NDArray[np.float32]) -> UInt8Array:
    """Numbers in [0, 1] to (H, W) uint8."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def sheet(
    path: Path,
    rows: Sequence[Sequence[UInt8Array]],
    titles: Sequence[str],
    classes: ClassTable,
    *,
    cell_width: int = 240,
    void: bool = True,
) -> None:
    """Write a sheet of pictures with column titles and a legend.

    Args:
        path: of the PNG.
        rows: pictures (H, W, 3), as many in each row as there are titles; a row keeps its first picture's proportions.
        titles: of the columns.
        classes: for the legend.
        cell_width: of a picture in pixels.
        void: whether pixels without a class are among them, for the legend.
    """
    font = ImageFont.load_default(size=15)
    gap, title_height = 6, 26
    heights = [round(cell_width * row[0].shape[0] / row[0].shape[1]) for row in rows]
    width = len(titles) * (cell_width + gap) + gap
    legend = _legend(classes, width, font, void=void)
    canvas = Image.new("RGB", (width, title_height + sum(heights) + gap * len(rows) + legend.height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((gap + column * (cell_width + gap), 4), title, fill=_INK, font=font)
    top = title_height
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            smooth = Image.Resampling.BICUBIC if column == 0 else Image.Resampling.NEAREST
            small = Image.fromarray(picture).resize((cell_width, height), smooth)
            canvas.paste(small, (gap + column * (cell_width + gap), top))
        top += height + gap
    canvas.paste(legend, (0, top))
    with replacing(path) as partial:
        canvas.save(partial, format="PNG")


def _legend(classes: ClassTable, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, *, void: bool) -> Image.Image:
    line, swatch, margin = 24, 14, 6
    x, y, places = margin, 4, []
    named = list(zip(classes.names, classes.colors, strict=True))
    for name, color in [*named, *([("not labelled", void_color(classes))] if void else [])]:
        needed = swatch + 5 + round(font.getlength(name)) + 14
        if x + needed > width and x > margin:
            x, y = margin, y + line
        places.append((x, y, name, color))
        x += needed
    legend = Image.new("RGB", (width, y + line + 4), _PAPER)
    draw = ImageDraw.Draw(legend)
    for x, y, name, color in places:
        draw.rectangle((x, y + 3, x + swatch, y + 3 + swatch), fill=color, outline=_INK)
        draw.text((x + swatch + 5, y), name, fill=_INK, font=font)
    return legend
