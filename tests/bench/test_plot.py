"""The plot shows every method where its numbers are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg.bench import plot
from protoseg.bench.plot import DARK, LIGHT, Point, color_of, draw, frame_of, png, points_of

ROWS = [
    {"method": method, "seed": seed, "labeled": labeled, "miou": miou}
    for method, seed, labeled, miou in [
        ("fixmatch", 0, 46, 0.5),
        ("fixmatch", 0, 23, 0.4),
        ("fixmatch", 1, 23, 0.44),
        ("fixmatch+prototypes", 0, 23, 0.3),
        ("supervised", 0, 46, 0.35),
    ]
]
METHODS = ["supervised", "fixmatch", "fixmatch+prototypes", "unimatch"]


def test_points_are_means_over_seeds() -> None:
    points = points_of(ROWS, METHODS)
    assert list(points) == METHODS[:3]
    few, many = points["fixmatch"]
    assert (few.labels, few.mean, few.deviation) == (23, pytest.approx(42), pytest.approx(8**0.5))
    assert many == Point(46, 50, None)


def test_the_frame_holds_every_error_bar() -> None:
    frame = frame_of(points_of(ROWS, METHODS))
    assert (frame.counts, frame.low, frame.high, frame.step) == ((23, 46), 30, 50, 5)
    assert frame.y(50) < frame.y(30)  # pixels count downwards
    assert frame.x(23) < frame.x(46)
    flat = frame_of({"x": [Point(5, 40.0, None)]})
    assert flat.low <= 40 <= flat.high
    assert flat.low < flat.high


def test_the_term_has_the_colour_of_its_base() -> None:
    assert color_of("fixmatch+prototypes", METHODS) == color_of("fixmatch", METHODS)
    assert color_of("fixmatch", METHODS) != color_of("supervised", METHODS)


def test_marks_are_where_the_numbers_are() -> None:
    points = points_of(ROWS, METHODS)
    frame, picture = frame_of(points), np.asarray(draw(points))

    def at(method: str, labels: int, miou: float) -> tuple[int, ...]:
        shift = (list(points).index(method) - 1) * 7
        x, y = round(frame.x(labels) + shift), round(frame.y(miou))
        return tuple(int(value) for value in picture[y, x])

    assert at("fixmatch+prototypes", 23, 30) == color_of("fixmatch", METHODS)  # filled
    assert at("supervised", 46, 35) == (255, 255, 255)  # hollow
    assert at("fixmatch", 23, 42 + 8**0.5 - 0.5) == color_of("fixmatch", METHODS)  # within the error bar
    assert at("fixmatch", 23, 46) == (255, 255, 255)  # above it


def test_on_a_dark_page_the_same_is_drawn_in_other_colours() -> None:
    points = points_of(ROWS, METHODS)
    light, dark = (np.asarray(draw(points, look)) for look in (LIGHT, DARK))
    assert np.median(dark, (0, 1)).tolist() == list(DARK.paper)
    assert Image.open(io.BytesIO(png(ROWS, METHODS, DARK))).tobytes() == dark.tobytes()
    for name in ("paper", "ink", "grid", "first"):
        there = (light == getattr(LIGHT, name)).all(-1)
        assert there.any(), name
        same = (dark[there] == getattr(DARK, name)).all(-1)
        assert same.mean() > 0.9, name  # the edges of letters have greys in between


def test_writes_a_file_where_there_is_something_to_show(tmp_path: Path) -> None:
    plot.write(tmp_path / "none.png", [], METHODS)
    assert not (tmp_path / "none.png").exists()
    plot.write(tmp_path / "some.png", ROWS, METHODS)
    assert Image.open(tmp_path / "some.png").size == (760, 480)
