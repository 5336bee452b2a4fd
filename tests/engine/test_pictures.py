"""Pictures for the eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg.data.index import ClassTable, table_from_names
from protoseg.engine.pictures import colorize, gray, overlay, sheet, void_color

CLASSES = ClassTable(("a", "b"), ((4,), (9,)), ((200, 100, 0), (0, 50, 250)))
LABEL = np.array([[0, 1], [255, 1]], dtype=np.uint8)


def test_colorize_goes_by_class_id_and_leaves_ignored_white() -> None:
    assert colorize(LABEL, CLASSES).tolist() == [[[200, 100, 0], [0, 50, 250]], [[255, 255, 255], [0, 50, 250]]]


def test_no_class_is_painted_like_what_is_not_labelled() -> None:
    colors = ((255, 255, 255), (128, 128, 128), (0, 0, 0), (7, 8, 9))
    for number in range(1, 5):
        classes = ClassTable(tuple("abcd"[:number]), tuple((i,) for i in range(number)), colors[:number])
        assert void_color(classes) not in classes.colors
        assert (colorize(LABEL, classes)[1, 0] == void_color(classes)).all()
    greys = ClassTable(tuple(map(str, range(255))), tuple((i,) for i in range(255)), tuple((i,) * 3 for i in range(1, 256)))
    assert void_color(greys) == (0, 0, 0)


@pytest.mark.parametrize("void", [True, False])
def test_the_legend_names_what_is_not_labelled_where_it_occurs(tmp_path: Path, void: bool) -> None:
    classes = ClassTable(("paper",), ((0,),), ((255, 255, 255),))
    sheet(tmp_path / "sheet.png", [[np.zeros((9, 9, 3), dtype=np.uint8)]], ["image"], classes, cell_width=300, void=void)
    legend = np.asarray(Image.open(tmp_path / "sheet.png"))[-28:]
    assert bool((legend == void_color(classes)).all(axis=2).sum() > 100) == void


@pytest.mark.parametrize(("opacity", "expected"), [(0.5, [150, 100, 50]), (0.0, [100, 100, 100]), (1.0, [200, 100, 0])])
def test_overlay_blends(opacity: float, expected: list[int]) -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    mixed = overlay(image, LABEL, CLASSES, opacity=opacity)
    assert mixed.dtype == np.uint8
    assert mixed[0, 0].tolist() == expected


def test_gray() -> None:
    values = np.array([[0.0, 1.0, 0.5, -1.0, 2.0]], dtype=np.float32)
    assert gray(values).tolist() == [[0, 255, 128, 0, 255]]


@pytest.mark.parametrize("num_classes", [2, 40])
def test_sheet_shows_every_picture_at_its_proportions(tmp_path: Path, num_classes: int) -> None:
    classes = table_from_names([f"a rather long class name {i}" for i in range(num_classes)])
    tall, wide = np.full((40, 20, 3), 90, dtype=np.uint8), np.full((10, 40, 3), 160, dtype=np.uint8)
    sheet(tmp_path / "sheet.png", [[tall, tall // 2], [wide, wide // 2]], ["image", "truth"], classes, cell_width=60)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[1] == 2 * 66 + 6
    title, gap = 26, 6
    first, second = title + 120, title + 120 + gap + 15  # the last rows of the two pictures
    for column, values in ((6, (90, 160)), (72, (45, 80))):
        assert (picture[title + 1 : first - 1, column + 1 : column + 59] == values[0]).all()
        assert (picture[first + gap + 1 : second - 1, column + 1 : column + 59] == values[1]).all()
    legend = {tuple(color) for color in picture[second + gap :].reshape(-1, 3).tolist()}
    assert set(classes.colors) <= legend
