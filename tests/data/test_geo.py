"""A mask predicted for a georeferenced image lies where the image does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from make_folder import TINY, make_folder
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import from_origin

from protoseg.cli import main
from protoseg.data.geo import is_georeferenced, write_geo_mask
from protoseg.data.images import read_image
from protoseg.data.index import table_from_names
from protoseg.data.masks import read_mask

PLACE = from_origin(500_000, 5_400_000, 10, 10)


def place(root: Path) -> Path:
    """Turn all images of a data set into GeoTIFFs of four bands."""
    for path in sorted((root / "images").rglob("*.png")):
        bands = np.moveaxis(read_image(path).astype(np.uint16), -1, 0)[[0, 1, 2, 0]] * 40
        count, height, width = bands.shape
        size = {"count": count, "height": height, "width": width, "dtype": "uint16"}
        with rasterio.open(
            path.with_suffix(".tif"), "w", driver="GTiff", crs=CRS.from_epsg(32632), transform=PLACE, **size
        ) as file:
            file.write(bands)
        path.unlink()
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("geo")
    place(make_folder(root / "data", test=2))
    assert main(["train", str(root / "data"), *TINY, "--out", str(root / "run")]) == 0
    return root


def test_the_mask_has_the_place_of_the_image(trained: Path, tmp_path: Path) -> None:
    images = trained / "data/images/test"
    assert is_georeferenced(images / "test_00.tif")
    assert main(["predict", str(trained / "run"), str(images), "-o", str(tmp_path / "out")]) == 0
    with rasterio.open(tmp_path / "out/test_00.tif") as mask:
        assert mask.crs == CRS.from_epsg(32632)
        assert mask.transform == PLACE
        assert mask.nodata == 255
        assert (mask.read(1) == read_mask(tmp_path / "out/test_00.png")).all()


def test_without_rasterio_it_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("protoseg.engine.predict.find_spec", lambda name: None)
    assert main(["predict", str(trained / "run"), str(trained / "data/images/test"), "-o", str(tmp_path / "out")]) == 0
    assert "2 images are georeferenced; pip install 'protoseg[geo]'" in capsys.readouterr().out
    assert (tmp_path / "out/test_00.png").is_file()
    assert not (tmp_path / "out/test_00.tif").exists()


def test_other_images_have_no_place(tmp_path: Path) -> None:
    root = make_folder(tmp_path, train=1, suffix=".tif")
    assert not is_georeferenced(root / "images/img_00.tif")
    assert not is_georeferenced(root / "masks/img_00.png")


@pytest.mark.parametrize("how", ["a transform alone", "control points"])
def test_other_ways_to_say_a_place(tmp_path: Path, how: str) -> None:
    points = [GroundControlPoint(row, col, 10.0 + col, 50.0 - row) for row, col in ((0, 0), (0, 8), (6, 0), (6, 8))]
    place = {"transform": PLACE} if how == "a transform alone" else {"gcps": points, "crs": CRS.from_epsg(4326)}
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", count=1, height=6, width=8, dtype="uint8", **place) as file:
        file.write(np.zeros((1, 6, 8), dtype=np.uint8))
    assert is_georeferenced(tmp_path / "x.tif")
    write_geo_mask(tmp_path / "mask.tif", np.zeros((6, 8), np.uint8), tmp_path / "x.tif", table_from_names(["a", "b"]))
    with rasterio.open(tmp_path / "x.tif") as image, rasterio.open(tmp_path / "mask.tif") as mask:
        assert (mask.transform, mask.crs, mask.gcps[1]) == (image.transform, image.crs, image.gcps[1])
        assert [(p.row, p.col, p.x, p.y) for p in mask.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in image.gcps[0]]
