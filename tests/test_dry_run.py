"""`--dry-run`: the recipes' own networks on data in the real layouts, two steps, and nothing left behind."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder
from make_formats import WRITERS, make_pictures
from rich.console import Console

from protoseg.arguments import parse_train
from protoseg.cli import main
from protoseg.config import resolve
from protoseg.dry_run import differences, dry_run, few_images, reduced, small_crop
from protoseg.engine.train import FitReport
from protoseg.nn.deeplabv3plus import DeepLabV3Plus
from protoseg.nn.dpt import DinoDPT
from protoseg.nn.segmenter import Segmenter
from protoseg.nn.small_unet import SmallUNet
from protoseg.run import load_data


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and beside it the place for temporary files."""
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "layout", "network", "crop"),
    [
        ("paper_voc_92", "voc", DeepLabV3Plus, "513 -> 65"),
        # The network of the first row again, half a minute for the layout alone.
        pytest.param("paper_voc_blended_u2pl_662", "voc, augmented", DeepLabV3Plus, "513 -> 65", marks=pytest.mark.slow),
        ("paper_cityscapes_186", "cityscapes", DeepLabV3Plus, "769 -> 65"),
        pytest.param("voc_unimatch_v2_resnet101", "voc", DeepLabV3Plus, "513 -> 65", marks=pytest.mark.slow),
        pytest.param("cityscapes_unimatch_v2_resnet101", "cityscapes", DeepLabV3Plus, "769 -> 65", marks=pytest.mark.slow),
        pytest.param("voc_unimatch_v2_dinov2", "voc", DinoDPT, "518 -> 70", marks=pytest.mark.slow),
        pytest.param("cityscapes_unimatch_v2_dinov2", "cityscapes", DinoDPT, "798 -> 70", marks=pytest.mark.slow),
        ("camvid", "camvid", Segmenter, "256 -> 64"),
        ("prototype", "folder", Segmenter, "64"),  # as every crop of small images
        ("dinov2", "folder", DinoDPT, "518 -> 70"),
        ("demo", "folder", SmallUNet, "48"),
    ],
)
def test_a_recipe_of_each_data_set_and_network(
    recipe: str,
    layout: str,
    network: type[torch.nn.Module],
    crop: str,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    WRITERS[layout][1](scratch / "data", make_pictures())
    before = sorted(scratch.rglob("*"))
    built: list[tuple[Any, Any]] = []
    fit = dry_run.__globals__["fit"]

    def keep(method: Any, streams: Any, *arguments: object, **options: object) -> FitReport:
        built.append((method, streams))
        return fit(method, streams, *arguments, **options)  # type: ignore[no-any-return]

    monkeypatch.setitem(dry_run.__globals__, "fit", keep)
    words = ["--recipe", recipe, "--labels", "2", "--model.weights", "none", "--dry-run"]
    assert main(["train", str(scratch / "data"), *words]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "2 labelled, 3 unlabelled -> 2 labelled, 2 unlabelled" in printed
    whole, _, small = crop.partition(" -> ")
    assert f"crops of {whole} px" in printed
    assert f"; crop {crop};" in printed if small else "; crop " not in printed
    assert "2 steps went through" in printed
    assert sorted(scratch.rglob("*")) == before
    ((method, streams),) = built
    assert {crops.geometry.size for crops in (streams.labeled, streams.unlabeled)} == {int(small or whole)}
    assert type(method.network) is network
    blocks = getattr(getattr(method.network, "encoder", None), "layer3", None)
    if network is DeepLabV3Plus:
        assert len(blocks) == 23  # the third stage of a ResNet-101
    assert (method.prototypes is None) is (recipe == "dinov2")  # which is UniMatch V2 as it is
    assert method.prototypes is None or method.prototypes.head.ready.any()


def test_what_is_reduced() -> None:
    words = ["data", "--recipe", "paper_cityscapes_186", "--accumulate", "2", "--trainer.devices", "4", "--baseline"]
    words += ["--prototypes.delay", "100", "--optimizer.warmup_steps", "50", "--workers", "6", "--evaluate-every", "9"]
    before = parse_train(words)
    before = dataclasses.replace(before, log_every=348)
    after = reduced(before)
    assert list(differences(before.to_dict(), after.to_dict())) == [
        "accumulate 2 -> 1",
        "baseline True -> False",
        "batch 16 -> 2",
        "consistency.warmup_steps 174 -> 1",
        "crop 769 -> 65",
        "evaluate_every 9 -> 0",
        "log_every 348 -> 1",
        "loss.ohem_min_kept 50000 -> 357",  # 50,000 x 65^2 / 769^2
        "on_collapse continue -> stop",
        "optimizer.warmup_steps 50 -> 1",
        "prototypes.delay 100 -> 0",
        "steps 34800 -> 2",
        "trainer.devices 4 -> left out",
        "workers 6 -> 0",
    ]


@pytest.mark.parametrize(
    ("crop", "arch", "small"),
    [
        (513, "paper_deeplabv3plus", 65),
        (769, "paper_deeplabv3plus", 65),
        (512, "deeplabv3plus", 64),
        (518, "dino_dpt", 70),
        (512, "dino_dpt", 64),
        (48, "small_unet", 48),
        (33, "paper_deeplabv3plus", 33),
    ],
)
def test_the_small_crop(crop: int, arch: str, small: int) -> None:
    assert small_crop(crop, arch) == small


def test_takes_the_images_that_show_most_classes(tmp_path: Path) -> None:
    data = load_data(parse_train([str(make_folder(tmp_path, train=9, labeled=6, test=2)), *TINY]))
    counts = {fact.sample.name: len(fact.pixels(data.classes)) for fact in data.report.facts}
    few = few_images(data)
    assert [counts[sample.name] for sample in few.partition.labeled] == sorted(counts.values(), reverse=True)[:2]
    assert (len(few.partition.unlabeled), few.partition.evaluation) == (2, ())
    assert [fact.sample for fact in few.report.facts] == list(few.partition.labeled)  # which rare crops count on


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--method", "self_training"], 2, "--dry-run its first: --method supervised"),
        (["--labels", "50"], 2, "--labels 50"),
        (["--optimizer.lr", "1e30", "--optimizer.name", "sgd"], 1, "no number"),
    ],
)
def test_what_stops_it(words: list[str], status: int, message: str, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(scratch / "data", train=4, labeled=2)
    before = sorted(scratch.rglob("*"))
    assert main(["train", str(scratch / "data"), *TINY, *words, "--dry-run"]) == status
    assert message in capsys.readouterr().err
    assert sorted(scratch.rglob("*")) == before


def test_is_for_a_new_run(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", train=4, labeled=2)
    config = dataclasses.replace(parse_train([str(data), *TINY]), resume=str(tmp_path))
    with pytest.raises(ValueError, match="leave out --resume"):
        dry_run(config, console=Console(quiet=True))


def test_reduces_what_was_resolved(tmp_path: Path) -> None:
    """Open settings are those of the whole run, and what is shorter than the dry run stays."""
    data = load_data(parse_train([str(make_folder(tmp_path, train=9, labeled=6)), *TINY]))
    own = ["--consistency.warmup_steps", "0", "--consistency.rampup_steps", "40"]
    for words, warmup, ramp in (([], 1, None), (["--method", "mean_teacher", *own], 0, 1)):
        config = parse_train([str(tmp_path), "--model.weights", "none", *words])
        config = resolve(config, data.report, num_unlabeled=3, cuda=False)
        small = reduced(config)
        assert (small.steps, small.batch) == (2, 2)
        assert (small.consistency.warmup_steps, small.consistency.rampup_steps) == (warmup, ramp)
        assert config.steps == 4000
