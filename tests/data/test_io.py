"""Pixels as they are meant: indices, orientation, depth. Every fault names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_folder import cut_short, draw_shapes, write_image
from PIL import Image

from protoseg.data.images import read_image
from protoseg.data.io import UnreadableImageError, walk, write_mask
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


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a pointer of Git LFS, which `git lfs pull`"),
    ],
)
def test_what_stands_in_the_place_of_an_image(tmp_path: Path, read, suffix: str, content: bytes, why: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"x\{suffix} cannot be read as an image: .*{why}"):
        read(path)


@pytest.mark.parametrize("name", ["a\nb.png", "a\u2028b.png"])
def test_a_name_with_a_line_break_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"the name 'a.*b\.png' in the folder .* holds a line break, as no list can; rename it"
    ):
        walk(tmp_path)


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"")
    for name in ("y", "z", "a/up"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    assert walk(tmp_path) == [tmp_path / "a/x.png"]
