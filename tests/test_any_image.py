"""From the command line with images that are no 8-bit photographs: many bands, 16 bits, floats with holes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from make_folder import TINY, make_folder
from PIL import Image

from protoseg.cli import main
from protoseg.config import build_network
from protoseg.data.batch import BatchViews
from protoseg.data.images import read_image
from protoseg.data.loader import Geometry
from protoseg.data.masks import read_mask
from protoseg.engine.checkpoint import load_model_file
from protoseg.settings import ModelConfig
from protoseg.trained import load_model


def convert(root: Path, dtype: str, channels: int) -> Path:
    """Turn every image of a data set into a TIFF of many bands; floats lie between -40 and 20 and have holes."""
    rng = np.random.default_rng(0)
    for path in sorted((root / "images").rglob("*.png")):
        image = np.asarray(Image.open(path)).astype(np.float32)
        bands = np.stack([image[..., i % 3] * (0.5 + 0.1 * i) for i in range(channels)], axis=-1)
        if dtype == "float32":
            bands = bands / 255 * 60 - 40
            bands[rng.random(bands.shape) < 0.01] = np.nan
        else:
            bands = bands * 16  # 12 bits in 16, as sensors store them
        bands = bands.astype(dtype)
        planar = {} if channels == 1 else {"planarconfig": "contig"}
        tifffile.imwrite(path.with_suffix(".tif"), bands if channels > 1 else bands[..., 0], photometric="minisblack", **planar)
        path.unlink()
    return root


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 1), ("uint16", 5), ("float32", 2), ("uint8", 4)])
def test_train_evaluate_predict(tmp_path: Path, dtype: str, channels: int, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = convert(make_folder(tmp_path / "data", test=2), dtype, channels), tmp_path / "run"
    views = ["--views.color_labeled", "--consistency.warmup_steps", "0", "--consistency.threshold", "0"]
    assert main(["train", str(data), *TINY, *views, "--out", str(run)]) == 0, capsys.readouterr().err
    assert f"{channels} channel" in capsys.readouterr().out
    header = load_model_file(run).header
    assert len(header["normalization"]["mean"]) == channels
    assert header["normalization"]["dtype"] == dtype
    assert np.isfinite([float(row.split(",")[4]) for row in (run / "metrics.csv").read_text().splitlines()[1:]]).all()

    assert main(["evaluate", str(run), str(data)]) == 0, capsys.readouterr().err
    miou = json.loads((run / "result.json").read_text())["miou"]
    assert f"{100 * miou:.1f}" in capsys.readouterr().out
    assert main(["predict", str(run), str(data / "images/test"), "-o", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    assert Image.open(tmp_path / "out/test_00.overlay.jpg").size == (48, 40)
    assert Image.open(run / "predictions.png").size[0] > 48


def test_statistics_are_those_of_the_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = convert(make_folder(tmp_path / "data"), "float32", 2)
    assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    pixels = np.concatenate([read_image(data / f"images/img_0{i}.tif").reshape(-1, 2) for i in range(3)])  # the labelled ones
    stored = load_model_file(tmp_path / "run").header["normalization"]
    assert stored["mean"] == pytest.approx(np.nanmean(pixels, axis=0).tolist(), rel=1e-4)
    assert stored["std"] == pytest.approx(np.nanstd(pixels, axis=0).tolist(), rel=1e-4)


@pytest.mark.parametrize("taken", [False, True])
def test_areas_without_data_have_no_class(tmp_path: Path, taken: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless the number for it is a class of the model. Single bands without a number are no holes."""
    data, run = convert(make_folder(tmp_path / "data"), "float32", 2), tmp_path / "run"
    if taken:
        (data / "classes.txt").write_text("0 ground\n1 square\n2 disc\n255 sky\n")
    assert main(["train", str(data), *TINY, "--out", str(run)]) == 0, capsys.readouterr().err
    image = read_image(data / "images/img_00.tif")
    image[5:9, 3:] = np.nan
    image[20] = np.nan
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images/x.tif", image, photometric="minisblack", planarconfig="contig")
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "images"), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    mask, confidence = read_mask(tmp_path / "out/x.png"), np.asarray(Image.open(tmp_path / "out/x.confidence.png"))
    missing = np.isnan(image).all(axis=2)
    assert missing.any()
    assert np.isnan(image[~missing]).any()
    if taken:
        assert "note: 1 image has areas without data; 255 is a class of this model" in said
        assert (confidence > 0).all()
    else:
        assert "note: 1 image has areas without data, where masks are 255 and the confidence is 0" in said
        assert ((mask == 255) == missing).all()
        assert ((confidence == 0) == missing).all()


def test_an_image_of_another_kind_is_named_when_predicting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = convert(make_folder(tmp_path / "data"), "uint16", 5)
    assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    photos = make_folder(tmp_path / "photos", train=1)
    assert main(["predict", str(tmp_path / "run"), str(photos / "images"), "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert (
        "img_00.png has 3 channels of uint8, but the images that the model learns from have 5 channels of uint16; convert"
        in captured.out + captured.err
    )


def test_an_unlabelled_image_of_another_kind_is_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = convert(make_folder(tmp_path / "data"), "uint16", 5)
    make_folder(tmp_path / "more", train=1, labeled=0, suffix=".jpg")
    (tmp_path / "more/images/img_00.jpg").rename(data / "images/photo.jpg")
    words = ["train", str(data), *TINY, "--steps", "8", "--consistency.warmup_steps", "0", "--out", str(tmp_path / "run")]
    assert main(words) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "run/result.json").read_text())["other_kind"] == [str(data / "images/photo.jpg")]


def test_crops_of_other_images_are_floats_without_holes() -> None:
    from protoseg.data.images import ImageKind

    image = np.full((20, 30, 2), 6553.5, dtype=np.float32)
    image[3, 4] = np.nan
    geometry = Geometry(16, fill=(7.0, 8.0), kind=ImageKind(2, "float32"), scale=(1.0, 1.0))
    views = [geometry.crop(image, None, seed).image for seed in range(20)]
    assert all(view.dtype == torch.float32 and view.isfinite().all() for view in views)
    assert any((view[0] == 7.0).any() for view in views)
    geometry = Geometry(16, fill=(0.1, 0.1), kind=ImageKind(2, "uint16"), scale=(1.0, 1.0))
    crop = geometry.crop(np.full((20, 30, 2), 13107, dtype=np.uint16), None, 0).image
    assert crop[crop != 0.1].unique().tolist() == pytest.approx([0.2])


def test_strong_views_of_floats_are_not_clamped() -> None:
    """Pixels about -25 with a deviation of 5: [0, 1] has nothing to do with them."""
    views = BatchViews(mean=(-25.0, -25.0), std=(5.0, 5.0), clamp=False)
    image = torch.linspace(-34, -16, 24).expand(40, 2, 24, 24)
    raw = {"image": image, "valid": torch.ones(40, 24, 24, dtype=torch.bool), "seed": list(range(40))}
    batch = views.unlabeled(raw, step=0)
    strong = batch.strong[0]
    assert torch.allclose(batch.weak, (image + 25) / 5)
    changed = (strong - batch.weak).abs().flatten(1).amax(dim=1) > 1e-3
    assert 0.6 < changed.float().mean() <= 1
    assert strong.abs().max() < 12
    assert strong[changed].std(dim=(1, 2, 3)).min() > 0.2  # no picture becomes flat, as clamping to [0, 1] would make it


def test_first_layer_filters_are_adapted(tmp_path: Path) -> None:
    """Weights of a network for RGB start one for five bands."""
    torch.manual_seed(0)
    rgb = build_network(ModelConfig(arch="unet", encoder="resnet18", weights="none"), 2)
    torch.save(rgb.encoder.state_dict(), tmp_path / "rgb.pth")
    many = build_network(ModelConfig(arch="unet", encoder="resnet18", weights=str(tmp_path / "rgb.pth"), mean=[0.5] * 5), 2)
    assert torch.allclose(many.encoder.conv1.weight[:, 3], rgb.encoder.conv1.weight[:, 0] * 3 / 5)  # type: ignore[union-attr]


def test_a_model_for_photographs_still_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data")
    assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    model = load_model(tmp_path / "run")
    assert model.normalization.kind.is_photograph
    assert "channel" not in capsys.readouterr().out


def test_unlabelled_images_all_of_another_kind_stop_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data")
    for i in range(3, 6):
        Image.fromarray(np.zeros((40, 48), dtype=np.uint16)).save(data / f"images/img_0{i}.png")
    assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 2
    assert "has 1 channel of uint16, the labelled images have 3 channels of uint8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
