"""Whole images at their own size, each counted once; predictions on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from make_folder import cut_short, make_folder, write_image, write_index
from PIL import Image
from torch import Tensor, nn

from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.data.index import ClassTable, Sample, table_from_values
from protoseg.data.masks import MaskFile, read_mask
from protoseg.engine.evaluate import Normalization, evaluate, predict_image
from protoseg.engine.inference import Inference
from protoseg.engine.metrics import ConfusionMatrix
from protoseg.engine.predict import predict, window_for
from protoseg.nn.segmenter import create_segmenter
from protoseg.types import SegOutput

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = ClassTable(("ground", "square", "disc"), ((0,), (1,), (2,)), ((9, 8, 7), (200, 0, 0), (0, 0, 200)))


class ByColor(nn.Module):
    """Class 1 where red leads, class 2 where blue does, with known probabilities; says whether it was in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.modes: list[bool] = []
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> SegOutput:
        self.modes.append(self.training)
        self.sizes.append(tuple(image.shape))
        red, _, blue = image.unbind(1)
        logits = self.scale * torch.stack([torch.full_like(red, 0.4), red, blue], dim=1)
        return SegOutput(logits, logits, (image.shape[-2], image.shape[-1]), align_corners=False)


def slow_confusion(network: nn.Module, samples: list[Sample], normalization: Normalization) -> Tensor:
    metric = ConfusionMatrix(3)
    for sample in samples:
        label = predict_image(network, read_image(sample.image), normalization).label
        metric.update(label, torch.from_numpy(sample.mask.read()))  # type: ignore[arg-type]
    return metric.confusion


def test_normalisation() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    pixels = Normalization((0.5, 0.1, 0.2), (0.5, 0.25, 2.0))(image, torch.device("cpu"))
    assert pixels.shape == (1, 3, 2, 4)
    for y, x, c, mean, std in [(0, 0, 0, 0.5, 0.5), (1, 3, 1, 0.1, 0.25), (1, 2, 2, 0.2, 2.0)]:
        assert float(pixels[0, c, y, x]) == pytest.approx((image[y, x, c] / 255 - mean) / std, abs=1e-6)


def test_confidence_is_the_probability_of_the_label() -> None:
    image = np.zeros((3, 5, 3), dtype=np.uint8)
    image[0, 0, 0] = 255
    prediction = predict_image(ByColor(), image, PLAIN)
    assert prediction.label.shape == prediction.confidence.shape == (3, 5)
    assert prediction.label[0, 0] == 1
    assert float(prediction.confidence[0, 0]) == pytest.approx(np.exp(10) / (np.exp(10) + np.exp(4) + 1), rel=1e-5)
    assert prediction.label[2, 4] == 0
    assert float(prediction.confidence[2, 4]) == pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)


def test_a_network_with_channels_last_predicts_the_same() -> None:
    """Which is how models that are read back are held: it is faster."""
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    torch.manual_seed(0)
    network = create_segmenter("unet", "resnet18", num_classes=4).eval()
    before = predict_image(network, image, PLAIN, Inference(window=64, stride=40, flip=True))
    after = predict_image(
        network.to(memory_format=torch.channels_last), image, PLAIN, Inference(window=64, stride=40, flip=True)
    )
    torch.testing.assert_close(after.confidence, before.confidence, rtol=0, atol=1e-5)
    assert (after.label != before.label).float().mean() < 1e-3


def test_every_image_counts_once_at_its_own_size(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", train=3, labeled=3, size=(21, 34))
    make_folder(tmp_path / "b", train=1, labeled=1, size=(47, 15), seed=1)
    samples = open_dataset(tmp_path / "a").of("train") + open_dataset(tmp_path / "b").of("train")
    network = ByColor()
    found = evaluate(network, samples, CLASSES, PLAIN)
    assert network.sizes == [(1, 3, 21, 34)] * 3 + [(1, 3, 47, 15)]
    confusion = slow_confusion(network, samples, PLAIN).double()
    expected = confusion.diagonal() / (confusion.sum(0) + confusion.sum(1) - confusion.diagonal())
    assert found.per_class == pytest.approx(expected.tolist())
    assert found.mean == pytest.approx(float(expected.mean()))
    assert found.mean > 0.9  # the shapes are coloured, so this network knows them


def test_mask_values_are_encoded_and_ignored_ones_left_out(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2, :, 0] = 255
    mask = np.full((4, 4), 30, dtype=np.uint8)
    mask[:2] = 70
    mask[0] = 11  # ignored, though it would be right
    mask[3] = 255
    sample = Sample("x", write_image(tmp_path / "x.png", image), MaskFile(write_index(tmp_path / "m.png", mask)), "test")
    classes = ClassTable(("a", "b", "c"), ((30,), (70,), (90,)), ((0, 0, 1), (0, 1, 0), (1, 0, 0)), ignored=(11, 255))
    found = evaluate(ByColor(), [sample], classes, PLAIN)
    assert found.per_class[:2] == (1, 1)
    assert found.mean == 1


@pytest.mark.parametrize("training", [True, False])
def test_scores_in_eval_mode_and_restores_the_mode(tmp_path: Path, training: bool) -> None:
    samples = open_dataset(make_folder(tmp_path, train=2, labeled=2)).of("train")
    network = ByColor().train(training)
    evaluate(network, samples, CLASSES, PLAIN)
    assert network.modes == [False, False]
    assert network.training is training


class TestPredict:
    def test_three_files_for_each_image_at_its_own_size(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=2, labeled=2, size=(21, 34), nested=True)
        samples = open_dataset(root).of("train")
        classes = ClassTable(("a", "b", "c"), ((3,), (40,), (200,)), ((9, 8, 7), (200, 0, 0), (0, 0, 200)))
        predict(ByColor(), samples, classes, PLAIN, out=tmp_path / "out")
        names = [f"{name}{end}" for name in ("a/b/img_00", "c/img_01") for end in (".confidence.png", ".overlay.jpg", ".png")]
        assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")) == names
        for sample in samples:
            prediction = predict_image(ByColor(), read_image(sample.image), PLAIN)
            with Image.open(tmp_path / "out" / f"{sample.name}.png") as picture:
                assert picture.mode == "P"
                assert picture.size == (34, 21)
                assert tuple(picture.getpalette()[3 * 40 : 3 * 41]) == (200, 0, 0)  # type: ignore[index]
            mask = read_mask(tmp_path / "out" / f"{sample.name}.png")
            assert (mask == np.array([3, 40, 200])[prediction.label.numpy()]).all()
            gray = np.asarray(Image.open(tmp_path / "out" / f"{sample.name}.confidence.png"))
            assert np.abs(gray / 255 - prediction.confidence.numpy()).max() <= 0.5 / 255 + 1e-6
            assert Image.open(tmp_path / "out" / f"{sample.name}.overlay.jpg").size == (34, 21)

    def test_dots_in_names_do_not_collide(self, tmp_path: Path) -> None:
        image = np.zeros((5, 6, 3), dtype=np.uint8)
        samples = [Sample(name, write_image(tmp_path / f"{name}.png", image), None, "test") for name in ("a.1", "a.2")]
        predict(ByColor(), samples, table_from_values([0, 1, 2]), PLAIN, out=tmp_path / "out")
        assert len(list((tmp_path / "out").iterdir())) == 6
        assert (tmp_path / "out/a.1.overlay.jpg").is_file()

    def test_a_broken_image_is_skipped_and_named(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=3, labeled=1)
        cut_short(root / "images/img_01.png")
        skipped = predict(ByColor(), open_dataset(root).of("train"), CLASSES, PLAIN, out=tmp_path / "out").skipped
        assert len(skipped) == 1
        assert skipped[0][0] == root / "images/img_01.png"
        assert {p.name for p in (tmp_path / "out").glob("img_0?.png")} == {"img_00.png", "img_02.png"}

    def test_predicts_in_eval_mode(self, tmp_path: Path) -> None:
        samples = open_dataset(make_folder(tmp_path / "data", train=1, labeled=1)).of("train")
        network = ByColor().train()
        predict(network, samples, CLASSES, PLAIN, out=tmp_path / "out")
        assert network.modes == [False]

    def test_an_image_of_which_rows_are_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image = np.random.default_rng(0).integers(0, 255, (75, 52, 3), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", tile=(16, 16), compression="deflate")
        samples = [Sample("x", tmp_path / "x.tif", None, "test")]
        inference = Inference(window=24, stride=16, flip=True)
        predict(ByColor(), samples, CLASSES, PLAIN, out=tmp_path / "whole", inference=inference)
        monkeypatch.setattr("protoseg.data.images._LARGE", 1000)
        monkeypatch.setattr("protoseg.engine.inference._STRIP", 5 * 52)
        monkeypatch.setattr("protoseg.data.images.read_image", None)
        predict(ByColor(), samples, CLASSES, PLAIN, out=tmp_path / "rows", inference=inference)
        for name in ("x.png", "x.confidence.png", "x.overlay.jpg"):
            whole, rows = (np.asarray(Image.open(tmp_path / out / name)) for out in ("whole", "rows"))
            np.testing.assert_array_equal(rows, whole)

    def test_damage_that_is_found_on_the_way_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image = np.zeros((75, 52, 3), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", tile=(16, 16), compression="deflate")
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            start, count = file.pages.first.dataoffsets[9], file.pages.first.databytecounts[9]
        content = bytearray((tmp_path / "x.tif").read_bytes())
        content[start : start + count] = bytes(count)
        (tmp_path / "x.tif").write_bytes(content)
        monkeypatch.setattr("protoseg.data.images._LARGE", 1000)
        samples = [Sample("x", tmp_path / "x.tif", None, "test")]
        inference = Inference(window=24, stride=16)
        found = predict(ByColor(), samples, CLASSES, PLAIN, out=tmp_path / "out", inference=inference)
        assert len(found.skipped) == 1
        assert "x.tif cannot be read as an image" in found.skipped[0][1]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("width", "classes", "crop", "expected"),
        [(20_000, 21, 513, 1024), (20_000, 150, 321, 321), (20_000, 60, 321, 416), (5_000, 21, 2048, 2048)],
    )
    def test_windows_of_large_images_bound_the_logits(self, width: int, classes: int, crop: int, expected: int) -> None:
        assert window_for(width, classes, crop) == expected
        assert 4 * classes * width * expected <= 2**31 or expected == crop
