"""Rows of a large TIFF are those of the whole image, and no more of it is decoded than holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from protoseg.data.images import ImageKind, open_rows, read_image
from protoseg.data.io import UnreadableImageError
from protoseg.data.tiff_rows import TiffRows

RNG = np.random.default_rng(0)
SIZE = (75, 52)
TILED = {"tile": (16, 32)}


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoseg.data.images._LARGE", 1000)


def numbers(*shape: int, dtype: str = "uint8") -> Any:
    return RNG.integers(0, 200, shape).astype(dtype)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tiles": (numbers(*SIZE, 3), {"photometric": "rgb", **TILED}),
    "strips": (numbers(*SIZE, 3), {"photometric": "rgb", "rowsperstrip": 7}),
    "deflate": (numbers(*SIZE, 3), {"photometric": "rgb", "compression": "deflate", "predictor": True, **TILED}),
    "jpeg": (np.full((*SIZE, 3), (200, 90, 20), dtype=np.uint8), {"photometric": "ycbcr", "compression": "jpeg", **TILED}),
    "grey": (numbers(*SIZE), {"photometric": "minisblack", "rowsperstrip": 16}),
    "white is zero": (numbers(*SIZE), {"photometric": "miniswhite", **TILED}),
    "16 bits": (numbers(*SIZE, dtype="uint16"), {"photometric": "minisblack", **TILED}),
    "planes": (numbers(5, *SIZE, dtype="uint16"), {"photometric": "minisblack", "planarconfig": "separate", **TILED}),
    "bands": (numbers(*SIZE, 4), {"photometric": "rgb", "extrasamples": ["unspecified"], **TILED}),
    "floats": (numbers(*SIZE, 2, dtype="float32"), {"photometric": "minisblack", "planarconfig": "contig", **TILED}),
    "no data": (numbers(*SIZE, dtype="int16"), {**TILED, "extratags": [(42113, "s", 0, "7", True)]}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_the_whole(tmp_path: Path, case: str) -> None:
    image, options = CASES[case]
    tifffile.imwrite(tmp_path / "x.tif", image, **options)
    whole, rows = read_image(tmp_path / "x.tif"), open_rows(tmp_path / "x.tif")
    assert isinstance(rows, TiffRows)
    assert rows.shape == whole.shape
    for top, bottom in [(0, 5), (3, 20), (16, 32), (30, 75), (74, 75), (0, 75)]:
        part = rows[top:bottom]
        assert part.dtype == whole.dtype
        np.testing.assert_array_equal(part, whole[top:bottom])


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb", "rowsperstrip": 75, "extratags": [(274, "H", 1, 6, True)]},
        {"photometric": "rgb", "extrasamples": ["unassalpha"], **TILED},
    ],
)
def test_others_are_read_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", numbers(*SIZE, 4 if "extrasamples" in options else 3), **options)
    rows = open_rows(tmp_path / "x.tif")
    assert isinstance(rows, np.ndarray)
    np.testing.assert_array_equal(rows, read_image(tmp_path / "x.tif"))


def test_a_small_image_and_one_of_a_tall_strip_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "x.tif", numbers(*SIZE, 3), photometric="rgb", rowsperstrip=40)
    assert isinstance(open_rows(tmp_path / "x.tif"), TiffRows)
    monkeypatch.setattr("protoseg.data.images.TALLEST", 39)
    assert isinstance(open_rows(tmp_path / "x.tif"), np.ndarray)
    tifffile.imwrite(tmp_path / "y.tif", numbers(20, 50, 3), photometric="rgb", rowsperstrip=4)
    assert isinstance(open_rows(tmp_path / "y.tif"), np.ndarray)


def test_each_tile_is_decoded_once_on_the_way_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "x.tif", numbers(*SIZE, 3), photometric="rgb", **TILED)
    rows = open_rows(tmp_path / "x.tif")
    assert isinstance(rows, TiffRows)
    rows.held.clear()
    decoded, decode = list[int](), rows.decode
    monkeypatch.setattr(rows, "decode", lambda data, index, **options: decoded.append(index) or decode(data, index, **options))
    for top in range(0, 60, 6):
        rows[top : top + 15]
        assert sum(len(part) for part in rows.held.values()) <= 15 + 2 * 15
    assert decoded == list(range(10))  # five rows of two


def test_an_empty_tile_holds_the_value_for_no_data(tmp_path: Path) -> None:
    """GDAL leaves tiles out in which nothing is."""
    image = numbers(*SIZE, dtype="int16")
    tifffile.imwrite(tmp_path / "x.tif", image, extratags=[(42113, "s", 0, "7", True)], **TILED)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        tags = file.pages.first.tags
        for name in ("TileOffsets", "TileByteCounts"):
            tags[name].overwrite([0 if i == 3 else value for i, value in enumerate(tags[name].value)])
    rows = open_rows(tmp_path / "x.tif")
    assert isinstance(rows, TiffRows)
    assert np.isnan(rows[16:32][:, 32:]).all()
    np.testing.assert_array_equal(rows[0:75], read_image(tmp_path / "x.tif"))


def test_damage_and_another_kind_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", numbers(*SIZE, 3), photometric="rgb", compression="deflate", **TILED)
    with pytest.raises(UnreadableImageError, match=r"x\.tif has 3 channels of uint8, but .* have 1 channel of uint16"):
        open_rows(tmp_path / "x.tif", ImageKind(1, "uint16"))
    rows = open_rows(tmp_path / "x.tif")
    assert isinstance(rows, TiffRows)
    offset, count = rows.places[7]
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[offset : offset + count] = bytes(count)
    (tmp_path / "x.tif").write_bytes(content)
    rows[0:48]
    with pytest.raises(UnreadableImageError, match=r"x\.tif cannot be read as an image: "):
        rows[0:75]
