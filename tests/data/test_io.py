"""Pixels as they are meant: indices, orientation, depth. Every fault names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_folder import cut_short, draw_shapes, write_image, write_png
from PIL import Image

from protoseg.data.io import UnreadableImageError, read_image, write_mask
from protoseg.data.masks import read_mask

MASK = np.array([[0, 1, 2], [2, 1, 0], [255, 7, 200]], dtype=np.uint8)
ROTATED = 6  # EXIF orientation: turn clockwise by 90 degrees


class TestWriteMask:
    def test_write_and_read(self, tmp_path: Path) -> None:
        colors = {0: (1, 2, 3), 7: (250, 0, 10), 255: (9, 9, 9)}
        write_mask(tmp_path / "mask.png", MASK, colors)
        assert (read_mask(tmp_path / "mask.png") == MASK).all()
        shown = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB"))
        assert tuple(shown[0, 0]) == (1, 2, 3)
        assert tuple(shown[2, 1]) == (250, 0, 10)
        assert tuple(shown[2, 0]) == (9, 9, 9)
        assert tuple(shown[2, 2]) == (0, 0, 0)  # 200 has no colour


class TestImage:
    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
    def test_every_mode_becomes_rgb(self, tmp_path: Path, mode: str) -> None:
        Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(tmp_path / "image.tif")
        read = read_image(tmp_path / "image.tif")
        assert read.shape == (4, 5, 3)
        assert (read == 255).all()

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
    def test_exif_orientation(self, tmp_path: Path, suffix: str) -> None:
        stored = np.zeros((40, 60, 3), dtype=np.uint8)
        stored[20:, :30] = 255  # bottom left as stored, top left when turned clockwise
        exif = Image.Exif()
        exif[0x0112] = ROTATED
        Image.fromarray(stored).save(tmp_path / f"x{suffix}", exif=exif)
        read = read_image(tmp_path / f"x{suffix}")
        assert read.shape == (60, 40, 3)
        assert read[:25, :15].min() > 200
        assert read[35:].max() < 50
        assert read[:, 25:].max() < 50

    def test_png_is_read_to_the_digit(self, tmp_path: Path) -> None:
        image, _ = draw_shapes(np.random.default_rng(0))
        assert (read_image(write_image(tmp_path / "x.png", image)) == image).all()


def _sixteen_bit_rgb(folder: Path) -> Path:
    return write_png(folder / "x.png", [bytes(range(24))], width=4, depth=16, color=2)


def _sixteen_bit_grey(folder: Path) -> Path:
    Image.fromarray(np.arange(9, dtype=np.uint16).reshape(3, 3)).save(folder / "x.png")
    return folder / "x.png"


def _float(folder: Path) -> Path:
    Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(folder / "x.tif")
    return folder / "x.tif"


def _truncated(suffix: str):  # type: ignore[no-untyped-def]
    def write(folder: Path) -> Path:
        return cut_short(write_image(folder / f"x{suffix}", draw_shapes(np.random.default_rng(0), (100, 100))[0]))

    return write


def _text(folder: Path) -> Path:
    (folder / "x.jpg").write_text("no image")
    return folder / "x.jpg"


def _empty(folder: Path) -> Path:
    (folder / "x.jpg").touch()
    return folder / "x.jpg"


@pytest.mark.parametrize("write", [_sixteen_bit_rgb, _sixteen_bit_grey, _float])
def test_more_than_8_bits_are_refused(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path)
    with pytest.raises(UnreadableImageError, match="8 bits") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    "write",
    [_truncated(".jpg"), _truncated(".png"), _truncated(".tif"), _truncated(".bmp"), _text, _empty, lambda f: f / "x.png"],
)
def test_what_is_no_whole_image_is_named(tmp_path: Path, read, write) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path)
    with pytest.raises(UnreadableImageError) as caught:
        read(path)
    assert str(path) in str(caught.value)
