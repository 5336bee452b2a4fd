"""A mask predicted for a georeferenced image lies where the image does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from make_folder import TINY, make_folder
from numpy.typing import NDArray
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import from_origin

from protoseg.cli import main
from protoseg.data.check import check_labels
from protoseg.data.doctor import diagnose
from protoseg.data.facts import examine
from protoseg.data.formats import open_dataset
from protoseg.data.geo import Place, is_georeferenced, misplaced, place_of, write_geo_mask
from protoseg.data.images import read_image
from protoseg.data.index import table_from_names
from protoseg.data.masks import read_mask
from protoseg.data.splits import make_partition

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


def write_placed(path: Path, values: NDArray[np.uint8], transform: Affine, crs: CRS | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8", transform=transform, crs=crs
    ) as file:
        file.write(values)
    return path


UTM = CRS.from_epsg(32632)
TURNED = PLACE @ Affine.rotation(20)


@pytest.mark.parametrize(
    ("transform", "crs", "differs"),
    [
        (PLACE, UTM, False),
        (PLACE, None, False),
        (from_origin(500_005, 5_400_005, 10, 10), UTM, False),  # corner and centre of a pixel
        (from_origin(500_010, 5_400_000, 10, 10), UTM, True),
        (from_origin(900_000, 5_400_000, 10, 10), UTM, True),
        (from_origin(900_000, 5_400_000, 10, 10), None, True),
        (from_origin(500_000, 5_000_000, 10, 10), UTM, True),
        (from_origin(500_000, 5_400_000, 20, 10), UTM, True),
        (PLACE, CRS.from_epsg(32633), True),
        (TURNED, UTM, False),  # which is not looked at
    ],
)
def test_whether_a_mask_lies_where_its_image_does(tmp_path: Path, transform: Affine, crs: CRS | None, differs: bool) -> None:
    values = np.zeros((1, 6, 8), dtype=np.uint8)
    image, mask = (tmp_path / name for name in ("a.tif", "b.tif"))
    write_placed(image, values, PLACE, UTM)
    write_placed(mask, values, transform, crs)
    assert bool(misplaced(image, mask)) == differs


def test_images_with_the_south_on_top(tmp_path: Path) -> None:
    values, mirrored = np.zeros((1, 6, 8), dtype=np.uint8), Affine(10, 0, 500_000, 0, 10, 5_400_000)
    image = write_placed(tmp_path / "a.tif", values, mirrored, UTM)
    assert not misplaced(image, write_placed(tmp_path / "b.tif", values, mirrored, UTM))
    assert misplaced(image, write_placed(tmp_path / "c.tif", values, PLACE, UTM))


def test_a_place_in_both_ways_to_write_it(tmp_path: Path) -> None:
    """Rasterio writes size and corner of a pixel; other programs a matrix, or the corner of another pixel."""
    written = write_placed(tmp_path / "a.tif", np.zeros((1, 6, 8), dtype=np.uint8), PLACE, UTM)
    matrix = (10.0, 0, 0, 500_000, 0, -10.0, 0, 5_400_000, 0, 0, 0, 0, 0, 0, 0, 1)
    other_pixel = (2.0, 3.0, 0, 500_020, 5_399_970, 0)
    ways = ([(34264, "d", 16, matrix)], [(33550, "d", 3, (10.0, 10.0, 0)), (33922, "d", 6, other_pixel)])
    for way in ways:
        tifffile.imwrite(tmp_path / "b.tif", np.zeros((6, 8), dtype=np.uint8), extratags=way)
        assert place_of(tmp_path / "b.tif") == Place(500_000, 5_400_000, 10, 10, None)
    assert place_of(written) == Place(500_000, 5_400_000, 10, 10, 32632)
    Image.new("L", (8, 6)).save(tmp_path / "b.tif", format="PNG")
    assert place_of(tmp_path / "b.tif") is None


def test_masks_400_km_away_are_said_by_doctor_and_train(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_placed(tmp_path / f"images/{name}.tif", rng.integers(0, 255, (3, 32, 32), dtype=np.uint8), PLACE, UTM)
        away = PLACE if name == "a" else from_origin(900_000, 5_400_000, 10, 10)
        write_placed(tmp_path / f"masks/{name}.tif", rng.integers(0, 2, (1, 32, 32), dtype=np.uint8), away, UTM)
    index = open_dataset(tmp_path)
    partition = make_partition(index)
    there, here = "(900000, 5400000) in EPSG:32632", "(500000, 5400000) in EPSG:32632"
    where = f"{tmp_path}/masks/b.tif begins at {there}, {tmp_path}/images/b.tif at {here}"
    assert any(f"1 mask lies in another place than the image: {where}" in note for note in check_labels(index, partition).notes)
    findings = [f for f in diagnose(examine(partition), index.classes) if "another place" in f.title]
    assert [(f.severity, f.files) for f in findings] == [("warning", (f"{tmp_path}/masks/b.tif",))]
    assert where in findings[0].title
