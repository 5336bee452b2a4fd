"""The plot of a benchmark: mIoU over the number of labels, drawn with Pillow, which is there anyway."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from protoseg.bench.cells import base_of

_HUES = "e69f00 56b4e9 009e73 d55e00 cc79a7 0072b2 968c28"
"""Told apart by people who are colour-blind (Okabe and Ito, 2008; the yellow darkened)."""
_SIZE, _LEFT, _TOP, _BOTTOM, _RIGHT = (760, 480), 60, 20, 56, 230  # margins; the legend stands on the right
_APART = 7  # pixels between methods at one number of labels, so that error bars do not hide each other
_MARK, _FONT = 4, 14


Color = tuple[int, ...]


class Look(NamedTuple):
    """Colours of a picture. Attributes: ground; text and axes; lines across; of the first family of methods."""

    paper: Color
    ink: Color
    grid: Color
    first: Color

    @property
    def colors(self) -> list[Color]:
        """Of the families of methods, in turn."""
        return [self.first, *(tuple(bytes.fromhex(code)) for code in _HUES.split())]


LIGHT = Look((255, 255, 255), (40, 40, 40), (225, 225, 225), (0, 0, 0))
DARK = Look((28, 32, 36), (232, 234, 236), (58, 65, 71), (255, 255, 255))  # of the cards of the dark page


class Point(NamedTuple):
    """mIoU in points over the seeds of one method at one number of labels; no deviation where there is one seed."""

    labels: int
    mean: float
    deviation: float | None


def points_of(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, list[Point]]:
    """Method -> its points by number of labelled images; methods without a cell are left out."""
    scores: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        scores.setdefault(row["method"], {}).setdefault(row["labeled"], []).append(100 * row["miou"])
    return {
        method: [
            Point(labels, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
            for labels, values in sorted(scores[method].items())
        ]
        for method in methods
        if method in scores
    }


class Frame(NamedTuple):
    """Where numbers lie on the picture, in pixels: label counts at equal distances, mIoU from `low` to `high`."""

    counts: tuple[int, ...]
    low: float
    high: float
    step: float

    def x(self, labels: int) -> int:
        place = (self.counts.index(labels) + 0.5) / len(self.counts)
        return round(_LEFT + place * (_SIZE[0] - _LEFT - _RIGHT))

    def y(self, miou: float) -> int:
        return round(_TOP + (self.high - miou) / (self.high - self.low) * (_SIZE[1] - _TOP - _BOTTOM))


def frame_of(points: Mapping[str, Sequence[Point]]) -> Frame:
    """A frame around all points with their error bars, from one round number to another."""
    every = [point for of_method in points.values() for point in of_method]
    low = min(point.mean - (point.deviation or 0) for point in every)
    high = max(point.mean + (point.deviation or 0) for point in every)
    step = next((step for step in (0.5, 1, 2, 5, 10) if (high - low) / step <= 8), 20)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return Frame(tuple(sorted({point.labels for point in every})), low, max(high, low + step), step)


def color_of(method: str, methods: Sequence[str], look: Look = LIGHT) -> Color:
    """The colour of a method among others: its base's, where that has one."""
    families = list(dict.fromkeys(base_of(other) or other for other in methods))
    return look.colors[families.index(base_of(method) or method) % len(look.colors)]


def draw(points: Mapping[str, Sequence[Point]], look: Look = LIGHT) -> Image.Image:
    """The plot. A method with the term has its base's colour, and a filled mark.

    Args:
        points: of `points_of`, at least one.
        look: its colours.
    """
    frame, font = frame_of(points), ImageFont.load_default(size=_FONT)
    picture = Image.new("RGB", _SIZE, look.paper)
    pen = ImageDraw.Draw(picture)
    right = _SIZE[0] - _RIGHT
    for i in range(round((frame.high - frame.low) / frame.step) + 1):
        value = frame.low + i * frame.step
        pen.line([(_LEFT, frame.y(value)), (right, frame.y(value))], fill=look.grid)
        pen.text((_LEFT - 8, frame.y(value)), f"{value:g}", fill=look.ink, font=font, anchor="rm")
    for labels in frame.counts:
        pen.text((frame.x(labels), _SIZE[1] - _BOTTOM + 8), str(labels), fill=look.ink, font=font, anchor="mt")
    pen.text(((_LEFT + right) / 2, _SIZE[1] - 8), "labelled images", fill=look.ink, font=font, anchor="mb")
    pen.line([(_LEFT, _TOP), (_LEFT, _SIZE[1] - _BOTTOM), (right, _SIZE[1] - _BOTTOM)], fill=look.ink)
    for i, (method, of_method) in enumerate(points.items()):
        color = color_of(method, list(points), look)
        shift = round((i - (len(points) - 1) / 2) * _APART)
        places = [(frame.x(point.labels) + shift, frame.y(point.mean)) for point in of_method]
        pen.line(places, fill=color, width=2)
        for (x, _), point in zip(places, of_method, strict=True):
            if point.deviation is not None:
                ends = [frame.y(point.mean + sign * point.deviation) for sign in (1, -1)]
                pen.line([(x, ends[0]), (x, ends[1])], fill=color)
                for y in ends:
                    pen.line([(x - 3, y), (x + 3, y)], fill=color)
        in_legend = (right + 24, _TOP + 10 + 22 * i)
        for x, y in [*places, in_legend]:
            fill = look.paper if base_of(method) is None else color
            pen.ellipse((x - _MARK, y - _MARK, x + _MARK, y + _MARK), fill=fill, outline=color, width=2)
        pen.text((in_legend[0] + 12, in_legend[1]), method, fill=look.ink, font=font, anchor="lm")
    note = "mIoU of the last step:\nmean and standard deviation\nover seeds"
    pen.multiline_text((right + 20, _SIZE[1] - _BOTTOM), note, fill=look.ink, font=ImageFont.load_default(size=12), anchor="ld")
    return picture


def write(path: Path, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    """Write the plot of finished cells; nothing where there is none."""
    if points := points_of(rows, methods):
        draw(points).save(path)


def png(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], look: Look) -> bytes:
    """The plot of finished cells as a file's bytes."""
    buffer = io.BytesIO()
    draw(points_of(rows, methods), look).save(buffer, "PNG")
    return buffer.getvalue()
