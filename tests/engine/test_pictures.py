"""Pictures for the eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg.data.index import ClassTable, table_from_names
from protoseg.engine.pictures import colorize, gray, overlay, sheet

CLASSES = ClassTable(("a", "b"), ((4,), (9,)), ((200, 100, 0), (0, 50, 250)))
LABEL = np.array([[0, 1], [255, 1]], dtype=np.uint8)


def test_colorize_goes_by_class_id_and_leaves_ignored_black() -> None:
    assert colorize(LABEL, CLASSES).tolist() == [[[200, 100, 0], [0, 50, 250]], [[0, 0, 0], [0, 50, 250]]]


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
