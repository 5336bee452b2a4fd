"""Palettes that contradict the numbers of index masks are found, harmless ones are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from make_folder import PALETTE, make_folder
from PIL import Image

from protoseg.data.check import LabelReport, check_labels
from protoseg.data.formats import open_dataset
from protoseg.data.io import UnreadableImageError
from protoseg.data.masks import MaskFile, read_mask, read_with_palette
from protoseg.data.splits import make_partition

BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)
COLORED_LIST = "ground 0 0 0\nsquare 255 0 0\ndisc 0 255 0\n"


def paint(mask: Path, *colors: tuple[int, int, int], suffix: str = ".png") -> None:
    """Give an index mask a palette."""
    picture = Image.fromarray(read_mask(mask).astype(np.uint8))
    picture.putpalette([part for color in colors for part in color])
    mask.unlink()
    picture.save(mask.with_suffix(suffix))


def report_of(root: Path) -> LabelReport:
    index = open_dataset(root)
    return check_labels(index, make_partition(index))


@pytest.fixture(params=[".png", ".bmp", ".tif"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three masks; the second has its palette in another order."""
    root = make_folder(tmp_path, test=1)
    for i, colors in enumerate([(BLACK, RED, GREEN), (BLACK, GREEN, RED), (BLACK, RED, GREEN)]):
        paint(root / f"masks/img_{i:02d}.png", *colors, suffix=request.param)
    return root


def test_two_orders_of_the_same_colors(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"colour #\w+ is the value \d in .*img_00.* and the value \d in .*img_01.*save .* as RGB"
    ):
        report_of(root)


def test_with_names_the_numbers_count_and_it_is_said(root: Path) -> None:
    (root / "classes.txt").write_text("ground\nsquare\ndisc\n")
    assert any("the numbers count, not the colours" in note for note in report_of(root).notes)


def test_another_order_than_the_class_list(root: Path) -> None:
    (root / "classes.txt").write_text(COLORED_LIST)
    with pytest.raises(ValueError, match=r"img_01\.\w+ shows the value \d \(\w+\) in the colour #\w+ of \w+: its palette"):
        report_of(root)


def test_an_evaluation_mask_in_another_order(tmp_path: Path) -> None:
    root = make_folder(tmp_path, test=1)
    for path in (root / "masks").glob("*.png"):
        paint(path, BLACK, RED, GREEN)
    paint(root / "masks/test/test_00.png", BLACK, GREEN, RED)
    with pytest.raises(ValueError, match=r"test_00\.png"):
        report_of(root)


@pytest.mark.parametrize("text", ["", COLORED_LIST, "ground\nsquare\ndisc\n"])
def test_one_palette_whatever_it_shows_is_fine(tmp_path: Path, text: str) -> None:
    root = make_folder(tmp_path, test=1, palette=True)
    if text:
        (root / "classes.txt").write_text(text)
    assert PALETTE[3:6] != [255, 0, 0]
    assert not any("palette" in note for note in report_of(root).notes)


@pytest.mark.parametrize("bits", [8, 16])
def test_color_maps_of_both_depths(tmp_path: Path, bits: int) -> None:
    """TIFF has 16 bits a colour; some programs write 8."""
    table = np.zeros((3, 256), dtype=np.uint16)
    table[:, :3] = np.array([BLACK, RED, GREEN]).T * (257 if bits == 16 else 1)
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, np.array([[0, 1, 2]], dtype=np.uint8), photometric="palette", colormap=table)
    palette = read_with_palette(MaskFile(path)).palette
    assert palette is not None
    assert palette[:3].tolist() == [list(BLACK), list(RED), list(GREEN)]
    tifffile.imwrite(path, np.array([[0, 1, 2]], dtype=np.uint8), photometric="minisblack")
    assert read_with_palette(MaskFile(path)).palette is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_of_a_broken_mask_the_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    path.write_text("no image")
    with pytest.raises(UnreadableImageError, match=path.name):
        read_with_palette(MaskFile(path))


def test_the_colors_of_pictures_say_nothing_of_masks(tmp_path: Path) -> None:
    """`--classes.colors` changes how classes are shown; a class list without colours holds greys alone."""
    root = make_folder(tmp_path)
    for path in (root / "masks").glob("*.png"):
        paint(path, BLACK, GREEN, (1, 1, 1))
    (root / "classes.txt").write_text("ground\nsquare\ndisc\n")
    assert report_of(root).notes == ()


def test_palettes_of_one_color_say_nothing(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    for i, color in enumerate([BLACK, RED, GREEN]):
        paint(root / f"masks/img_{i:02d}.png", color, color, color)
    assert report_of(root).notes == ()
