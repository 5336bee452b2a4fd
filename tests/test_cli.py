"""The command line, and one run from images to predictions."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from make_folder import TINY, TINY_RUN, cut_short, draw_shapes, make_folder, write_image, write_index
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from protoseg import stage
from protoseg.arguments import parse_train
from protoseg.cli import main
from protoseg.config import METHODS
from protoseg.data.class_list import read_class_list
from protoseg.data.demo import write_demo
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.data.limit import MAX_PIXELS
from protoseg.data.masks import read_mask
from protoseg.data.splits import make_partition
from protoseg.engine.callbacks import MetricsLog, _BarAboveText
from protoseg.engine.checkpoint import load_model_file
from protoseg.engine.evaluate import evaluate
from protoseg.engine.inference import Inference
from protoseg.nn.segmenter import create_segmenter
from protoseg.nn.vit import create_dino_dpt
from protoseg.run import train
from protoseg.settings import TrainConfig
from protoseg.trained import by_prototypes, evaluate_run, load_model

COMMANDS = ("demo", "train", "bench", "evaluate", "predict")


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class TestHelp:
    @pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["bench", "--help"], ["predict", "-h"]], ids=str)
    def test_answers_at_once_and_without_torch(self, words: list[str]) -> None:
        code = (
            "import sys; from protoseg.cli import main\n"
            f"try: status = main({words})\nexcept SystemExit as stop: status = stop.code\n"
            "sys.exit(9 if 'torch' in sys.modules else status)"
        )
        before = cpu_seconds_of_children()  # not the clock's: the machine may be busy
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "protoseg" in ran.stdout
        assert cpu_seconds_of_children() - before < 1

    def test_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        assert all(f"protoseg {command}" in text for command in COMMANDS)

    def test_of_train_names_every_setting_and_fits_on_two_screens(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(["train", "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert len(text.splitlines()) <= 100
        assert max(map(len, text.splitlines())) <= 120
        for field in dataclasses.fields(TrainConfig):
            section = getattr(TrainConfig(), field.name)
            if dataclasses.is_dataclass(section):
                for inner in dataclasses.fields(section):
                    assert f"--{field.name}.{inner.name} " in text
            elif field.name not in {"data", "trainer"}:
                assert f"--{field.name.replace('_', '-')} " in text
        assert "DATA" in text
        assert "--trainer." in text
        for setting, value in (("prototypes.weight", 0.2), ("consistency.threshold", 0.9), ("views.cutmix_per", "image")):
            assert re.search(rf"--{setting} .*\[{value}\]", text), "the default recipe's value"
        described = [line.split(None, 1) for line in text.splitlines() if line.startswith("  --")]
        assert all(len(parts) == 2 and not parts[1].startswith("[") for parts in described), "a setting has no description"

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out[0].isdigit()

    def test_unknown_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["trian"]) == 2
        error = capsys.readouterr().err
        assert "'trian'" in error
        assert all(command in error for command in COMMANDS)


class TestParse:
    def test_the_defaults_then_the_recipe_then_the_words(self) -> None:
        plain, demo = parse_train(["data"]), parse_train(["data", "--recipe", "demo"])
        assert (plain.recipe, plain.model.arch, plain.steps) == ("prototype", "deeplabv3plus", None)
        assert (demo.recipe, demo.model.arch, demo.crop) == ("demo", "small_unet", 48)
        own = parse_train(["data", "--crop", "32", "--recipe", "demo", "--model.width=7"])  # before or after the recipe
        assert (own.crop, own.model.width, own.model.arch) == (32, 7, "small_unet")

    def test_a_recipe_file(self, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("steps: 7\nmodel: {arch: fpn}\n")
        config = parse_train(["data", "--recipe", str(tmp_path / "own.yaml")])
        assert (config.steps, config.model.arch, config.recipe) == (7, "fpn", str(tmp_path / "own.yaml"))
        assert config.model.encoder == TrainConfig().model.encoder

    @pytest.mark.parametrize("line", ["method:", "seed: null", "model: {arch: null}", "trainer:"])
    def test_an_empty_setting_of_a_recipe_is_refused(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "own.yaml").write_text(line + "\n")
        with pytest.raises(ValueError, match=r"^(method|seed|model\.arch|trainer) is (empty|None); it must be "):
            parse_train(["data", "--recipe", str(tmp_path / "own.yaml")])

    @pytest.mark.parametrize("value", ["[]", "3", "[lr, 0.5]", "''", "fast"])
    def test_a_section_that_holds_no_settings_is_refused(self, tmp_path: Path, value: str) -> None:
        (tmp_path / "own.yaml").write_text(f"optimizer: {value}\n")
        with pytest.raises(ValueError, match=r"own\.yaml: optimizer is .*; it holds settings by their names"):
            parse_train(["data", "--recipe", str(tmp_path / "own.yaml")])

    def test_an_empty_section_of_a_recipe_says_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "below.yaml").write_text("optimizer: {lr: 0.5}\nmodel:\n")
        (tmp_path / "own.yaml").write_text("extends: below\noptimizer:\nmodel: {arch: fpn}\n")
        config = parse_train(["data", "--recipe", str(tmp_path / "own.yaml")])
        assert (config.optimizer.lr, config.model.arch, config.optimizer.name) == (0.5, "fpn", "adamw")

    @pytest.mark.parametrize(
        ("words", "name", "value"),
        [
            ("--checkpoint-every 9", "checkpoint_every", 9),
            ("--checkpoint_every 9", "checkpoint_every", 9),
            ("--checkpoint-every=9", "checkpoint_every", 9),
            ("--baseline", "baseline", True),
            ("--baseline --seed 3", "baseline", True),
            ("--baseline true", "baseline", True),
            ("--recipe demo --baseline false", "baseline", False),
            ("--recipe demo --no-baseline", "baseline", False),
            ("--no-evaluate", "evaluate", False),
            ("--evaluate=false", "evaluate", False),
            ("--model.freeze_bn", "model.freeze_bn", True),
            ("--model.freeze-bn", "model.freeze_bn", True),
            ("--no-views.flip", "views.flip", False),
            ("--views.scale [0.8,1.2]", "views.scale", [0.8, 1.2]),
            ("--model.mean [0.5]", "model.mean", [0.5]),
            ("--optimizer.lr 1e-3", "optimizer.lr", 1e-3),
            ("--trainer.devices 2", "trainer", {"devices": 2}),
            ("--labels 12", "labels", "12"),
            ("--labels 1/8", "labels", "1/8"),
            ("--model.weights none", "model.weights", "none"),
            ("--prototypes.per-class 0", "prototypes.per_class", 0),
        ],
    )
    def test_spellings(self, words: str, name: str, value: Any) -> None:
        config: Any = parse_train(["my data", *words.split()])
        assert config.data == "my data"
        for part in name.split("."):
            config = getattr(config, part)
        assert config == value

    @pytest.mark.parametrize("words", ["--baseline data", "--seed 3 data --steps 2", "--data data", "--seed=3 data"])
    def test_the_folder_may_stand_anywhere(self, words: str) -> None:
        assert parse_train(words.split()).data == "data"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["data", "--stpes", "3"], r"no setting --stpes; did you mean --steps\?"),
            (["data", "--model.arhc", "unet"], r"no setting --model\.arhc; did you mean --model\.arch\?"),
            (["data", "--steps", "many"], "^steps is many; it must be a whole number;"),
            (["data", "--steps", "1.5"], r"^steps is 1\.5; it must be a whole number;"),
            (["data", "--baseline=perhaps"], "^baseline is perhaps; it must be true or false;"),
            (["data", "--optimizer.name", "adam"], r"^optimizer\.name is adam; it must be adamw or sgd;"),
            (["data", "--views.scale", "2"], r"^views\.scale is 2; it must be a list of numbers, e\.g\. \[0\.5, 2\.0\];"),
            (["data", "--classes.merge", "[a]"], r"^classes\.merge is \['a'\]; it must be a table"),
            (["data", "--method", "magic"], "method.*magic"),
            (["data", "--split", "train"], "^split is train; it must be test or val;"),
            (["data", "--recipe", "nothing"], "recipe 'nothing'"),
            (["data", "--labels"], "labels"),
            ([], "folder"),
            (["data", "another"], "another"),  # never silently the second one
            (["data", "--step", "3"], "no setting --step; did you mean --steps"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named(self, words: list[str], message: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            parse_train(words)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--model.width 8", r"--model\.width is for --model\.arch small_unet, not for deeplabv3plus; leave it out"),
            ("--model.auxiliary", r"--model\.auxiliary is for --model\.arch paper_deeplabv3plus"),
            ("--recipe demo --model.encoder resnet18", r"small_unet has an encoder of its own; leave out --model\.encoder"),
        ],
    )
    def test_what_would_do_nothing_is_refused(self, words: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_train(["data", *words.split()])

    def test_a_recipe_may_hold_what_its_own_network_needs(self) -> None:
        config = parse_train(["data", "--recipe", "demo", "--model.arch", "unet", "--model.encoder", "resnet18"])
        assert (config.model.arch, config.model.encoder) == ("unet", "resnet18")

    def test_a_shortened_name_is_never_half_understood(self) -> None:
        """`--recip demo` may be refused, but not stored as the recipe `demo` without its settings."""
        try:
            config = parse_train(["data", "--recip", "demo"])
        except ValueError:
            return
        assert config.model.arch == "small_unet"

    def test_a_wrong_recipe_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("stepz: 7\n")
        with pytest.raises(ValueError, match=r"no setting stepz; did you mean steps\?"):
            parse_train(["data", "--recipe", str(tmp_path / "own.yaml")])


class TestParseResume:
    @pytest.fixture
    def stored(self, tmp_path: Path) -> Path:
        config = parse_train(["data", "--recipe", "demo", "--seed", "4", "--steps", "1900"])
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
        return tmp_path

    def test_takes_the_stored_settings(self, stored: Path) -> None:
        config = parse_train(["--resume", str(stored)])
        assert (config.data, config.seed, config.steps, config.model.arch) == ("data", 4, 1900, "small_unet")
        assert config.resume == str(stored)

    def test_what_changes_no_result_may_change(self, stored: Path) -> None:
        config = parse_train(["--resume", str(stored), "--workers", "2", "--checkpoint-every", "5"])
        assert (config.workers, config.checkpoint_every) == (2, 5)

    @pytest.mark.parametrize("words", [["--seed", "5"], ["--model.width=3"], ["--recipe", "demo"], ["--out", "x"]])
    def test_anything_else_is_refused(self, stored: Path, words: list[str]) -> None:
        with pytest.raises(ValueError, match="would change the run"):
            parse_train(["--resume", str(stored), *words])

    def test_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "nowhere")):
            parse_train(["--resume", str(tmp_path / "nowhere")])


SETTINGS = [*TINY, "--steps", "80", "--batch", "4", "--optimizer.lr", "3e-3", "--optimizer.head_factor", "1", "--seed", "3"]
SETTINGS += ["--consistency.ema_momentum", "0.9", "--consistency.warmup_steps", "10", "--consistency.threshold", "0.5"]
SETTINGS += ["--model.width", "8", "--prototypes.per_class", "2", "--prototypes.grid", "8", "--log-every", "20"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run and what it printed."""

    data: Path
    out: Path
    printed: str

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.out / "result.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`protoseg train` with --baseline on images of an odd, not square size."""
    folder = tmp_path_factory.mktemp("run")
    data = make_folder(folder / "data", train=12, labeled=5, test=4, size=(41, 57), classes=("ground", "square", "disc"))
    capture = pytest.MonkeyPatch()
    console = Console(record=True, width=200)
    capture.setattr("protoseg.console.Console", lambda **_: console)
    assert main(["train", str(data), *SETTINGS, "--baseline", "--out", str(folder / "out")]) == 0
    capture.undo()
    return Run(data, folder / "out", console.export_text())


def test_demo_trains_with_and_without_the_unlabelled_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of it, on fewer images; that a seed gives its images and its training is seen beside another one's."""
    write = partial(write_demo, labeled=12, unlabeled=8, test=2)
    monkeypatch.setattr("protoseg.data.demo.write_demo", write)
    short = ["--steps", "4", "--consistency.warmup_steps", "2", "--prototypes.delay", "0", "--model.width", "4"]
    for seed in (1, 2):
        assert main(["demo", "--seed", str(seed), "--out", str(tmp_path / f"run{seed}"), *short]) == 0
        printed = capsys.readouterr().out
        write(tmp_path / f"images{seed}", seed=seed)
        ours, theirs = ({p.name: p.read_bytes() for p in tmp_path.glob(f"{of}{seed}*/**/*.png")} for of in ("run", "images"))
        assert theirs.items() <= ours.items()
        result = json.loads((tmp_path / f"run{seed}/result.json").read_text())
        assert (result["seed"], result["labeled"], result["unlabeled"], result["evaluated"]) == (seed, 12, 8, 2)
        assert result["baseline"]["steps"] == result["steps"] == 4
        assert f"by {100 * result['gain']:+.1f} points" in printed
    assert (tmp_path / "run1-data/images/test/test_0000.png").read_bytes() != (
        tmp_path / "run2-data/images/test/test_0000.png"
    ).read_bytes()


class TestRun:
    def test_leaves_a_run_folder(self, run: Run) -> None:
        files = {path.name for path in run.out.iterdir()}
        wanted = {"config.yaml", "metrics.csv", "last.ckpt", "model.safetensors", "predictions.png", "result.json", "baseline"}
        assert wanted <= files
        assert not list(run.out.rglob("*.partial"))

    def test_says_what_it_found(self, run: Run) -> None:
        assert "5 images, 57x41" in run.printed
        assert "7 images" in run.printed
        assert "4 test images" in run.printed
        assert all(name in run.printed for name in ("ground", "square", "disc"))
        assert str(run.out) in run.printed
        assert "80 steps" in run.printed

    def test_config_is_complete(self, run: Run) -> None:
        config = yaml.safe_load((run.out / "config.yaml").read_text())
        assert config["data"] == str(run.data)
        assert (config["steps"], config["batch"], config["crop"], config["seed"]) == (80, 4, 32, 3)
        assert config["consistency"]["warmup_steps"] == 10
        assert config["model"]["arch"] == "small_unet"
        assert set(config) == {field.name for field in dataclasses.fields(TrainConfig)}

    def test_metrics(self, run: Run) -> None:
        rows = list(csv.DictReader((run.out / "metrics.csv").open()))
        assert [int(row["step"]) for row in rows] == [20, 40, 60, 80]
        assert float(rows[-1]["labeled"]) < float(rows[0]["labeled"])  # it learned something
        terms = ("labeled", "consistency", "prototype_labeled", "prototype_consistency", "confident")
        assert all(np.isfinite(float(row[term])) for row in rows for term in terms)
        assert 0 < float(rows[-1]["confident"]) <= 1
        assert float(rows[-1]["lr"]) < float(rows[0]["lr"])

    def test_checkpoint_is_of_the_last_step(self, run: Run) -> None:
        state = torch.load(run.out / "last.ckpt", weights_only=True)
        assert state["global_step"] == 80
        assert any("prototype" in name for name in state["state_dict"])

    def test_result(self, run: Run) -> None:
        result, partition = run.result, make_partition(open_dataset(run.data))
        assert (result["method"], result["seed"], result["steps"], result["evaluated"]) == ("prototype", 3, 80, 4)
        assert (result["labeled"], result["unlabeled"], result["skipped"]) == (5, 7, [])
        assert list(result["iou"]) == ["ground", "square", "disc"]
        assert result["miou"] == pytest.approx(sum(result["iou"].values()) / 3)
        assert result["miou"] > 0.3  # 80 steps on coloured shapes; never learning anything would give 0.28 at most
        assert result["gain"] == pytest.approx(result["miou"] - result["baseline"]["miou"])
        assert result["baseline"]["steps"] == 80
        assert result["split"]["evaluation"] == "test"
        assert result["split"]["hash"] == partition.hash
        assert json.loads((run.out / "split.json").read_text())["unlabeled_hash"] == partition.unlabeled_hash
        assert result["seconds"] > 0
        assert result["versions"]["torch"] == torch.__version__.split("+")[0]
        root = Path(__file__).parents[1]
        if (root / ".git").exists() and shutil.which("git") is not None:
            head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
            assert head.returncode != 0 or result["versions"]["commit"].removesuffix("-dirty") == head.stdout.strip()

    def test_prints_the_table_and_the_gain(self, run: Run) -> None:
        result = run.result
        assert f"{100 * result['gain']:+.1f} points" in run.printed
        scores = [f"{100 * part['miou']:.1f}" for part in (result["baseline"], result)]
        assert ["mIoU", *scores] in [line.split() for line in run.printed.splitlines()]
        assert run.printed.isascii()  # a pipe gets no lines of a table

    def test_model_file_describes_itself(self, run: Run) -> None:
        file = load_model_file(run.out)
        header = file.header
        assert header["classes"]["names"] == ["ground", "square", "disc"]
        assert [values[0] for values in header["classes"]["values"]] == [0, 1, 2]
        assert len(header["classes"]["colors"]) == 3
        assert header["normalization"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
        assert (header["crop"], header["recipe"]) == (32, "prototype")
        assert header["versions"]["protoseg"]
        assert file.tensors["prototypes.prototype"].shape == (3, 2, 8)
        assert torch.isfinite(file.tensors["prototypes.prototype"]).all()

    def test_the_model_file_is_as_readable_as_the_others(self, run: Run) -> None:
        modes = {(run.out / name).stat().st_mode & 0o777 for name in ("model.safetensors", "result.json", "config.yaml")}
        assert len(modes) == 1

    def test_another_run_can_start_from_its_prototypes(self, run: Run, tmp_path: Path) -> None:
        words = ["train", str(run.data), *SETTINGS, "--steps", "2", "--consistency.warmup_steps", "0", "--no-evaluate"]
        words += ["--prototypes.start", str(run.out / "model.safetensors"), "--prototypes.momentum", "0.999999"]
        assert main([*words, "--out", str(tmp_path / "out")]) == 0
        ours, theirs = (load_model_file(out).tensors["prototypes.prototype"] for out in (tmp_path / "out", run.out))
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)

    def test_model_is_the_teacher_of_the_last_step(self, run: Run) -> None:
        state = torch.load(run.out / "last.ckpt", weights_only=True)["state_dict"]
        weight = load_model(run.out).network.head.weight
        same = {name for name, tensor in state.items() if tensor.shape == weight.shape and torch.equal(tensor, weight)}
        assert any("teacher" in name for name in same)
        assert not any("student" in name for name in same)

    def test_sheet_has_four_columns(self, run: Run) -> None:
        assert Image.open(run.out / "predictions.png").width == 4 * (240 + 6) + 6
        assert Image.open(run.out / "baseline/predictions.png").width == 3 * (240 + 6) + 6

    def test_result_of_the_baseline_is_kept(self, run: Run) -> None:
        baseline = json.loads((run.out / "baseline/result.json").read_text())
        assert baseline["method"] == "supervised"
        assert {key: baseline[key] for key in ("seed", "steps", "split", "labeled")} == {
            key: run.result[key] for key in ("seed", "steps", "split", "labeled")
        }
        assert baseline["miou"] == run.result["baseline"]["miou"]

    @pytest.mark.parametrize(("words", "factor"), [([], 1.0), (["--optimizer.baseline_lr", "0.004"], 4.0)])
    def test_baseline_is_averaged_alike_and_may_have_its_own_learning_rate(
        self, tmp_path: Path, words: list[str], factor: float
    ) -> None:
        data, out = make_folder(tmp_path / "data", train=4, labeled=2, test=1), tmp_path / "out"
        assert main(["train", str(data), *TINY, "--baseline", "--optimizer.lr", "0.001", *words, "--out", str(out)]) == 0
        ours, baseline = (load_model_file(out / part / "model.safetensors").header["config"] for part in ("", "baseline"))
        assert baseline["consistency"]["ema_momentum"] == ours["consistency"]["ema_momentum"]
        assert baseline["optimizer"]["lr"] == pytest.approx(factor * ours["optimizer"]["lr"])
        same = ("steps", "crop", "batch", "seed", "views", "model", "loss")
        assert {key: baseline[key] for key in same} == {key: ours[key] for key in same}

    def test_a_run_broken_off_in_its_baseline_goes_on_exactly(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        words = ["train", str(data), *TINY, "--steps", "4", "--checkpoint-every", "1", "--baseline"]
        assert main([*words, "--out", str(tmp_path / "whole")]) == 0
        break_off(monkeypatch, [*words, "--out", str(tmp_path / "resumed")], after=2)
        assert not (tmp_path / "resumed/last.ckpt").exists()  # it had not got further than the baseline
        assert main(["train", "--resume", str(tmp_path / "resumed")]) == 0
        for part in ("", "baseline"):
            whole, resumed = (load_model_file(tmp_path / out / part / "model.safetensors") for out in ("whole", "resumed"))
            assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in whole.tensors.items())
        gains = [json.loads((tmp_path / out / "result.json").read_text())["gain"] for out in ("whole", "resumed")]
        assert gains[0] == gains[1]

    def test_baseline_of_labels_only_is_itself(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        words = [*TINY, "--method", "supervised", "--baseline", "--out", str(tmp_path / "out")]
        assert main(["train", str(data), *words]) == 0
        assert "which is the baseline" in capsys.readouterr().out
        assert not (tmp_path / "out/baseline").exists()

    def test_baseline_starts_alike_and_sees_the_same_crops(self, tmp_path: Path) -> None:
        """Until the unlabelled images come in, the two runs are one run, to the last bit."""
        data = make_folder(tmp_path / "data", train=6, labeled=3, test=1)
        words = [*TINY, "--steps", "4", "--consistency.warmup_steps", "3", "--log-every", "1", "--baseline"]
        assert main(["train", str(data), *words, "--out", str(tmp_path / "out")]) == 0
        ours, baseline = (
            [row["labeled"] for row in csv.DictReader((tmp_path / "out" / part / "metrics.csv").open())]
            for part in ("", "baseline")
        )
        assert ours[:3] == baseline[:3]
        assert len(set(ours)) == 4

    @pytest.mark.parametrize(
        ("name", "content"), [("split.json", None), ("split.json", "{"), ("result.json", "[]"), ("last.ckpt", "no checkpoint")]
    )
    def test_a_damaged_run_folder_is_named(
        self, run: Run, name: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        shutil.copytree(run.out, out, ignore=shutil.ignore_patterns("baseline"))
        (out / "config.yaml").write_text((out / "config.yaml").read_text().replace("baseline: true", "baseline: false"))
        if name == "last.ckpt":
            (out / "result.json").unlink()
        (out / name).unlink()
        if content is not None:
            (out / name).write_text(content)
        assert main(["train", "--resume", str(out)]) == 2
        message = capsys.readouterr().err
        assert str(out / name) in message
        assert "start a new" in message
        assert "go on with" not in message

    def test_goes_on_where_the_images_lie_now(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        (tmp_path / "list.txt").write_text("img_00\nimg_01\n")
        words = ["--labels", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out")]
        assert main(["train", str(data), *TINY, *words]) == 0, capsys.readouterr().err
        (tmp_path / "out/result.json").unlink()
        (tmp_path / "elsewhere").mkdir()
        moved = [path.rename(tmp_path / "elsewhere" / path.name) for path in (data, tmp_path / "list.txt")]
        now = ["--resume", str(tmp_path / "out"), "--labels", str(moved[1])]
        others = make_folder(tmp_path / "others", train=5, labeled=2, test=1)
        assert main(["train", str(others), *now]) == 2
        assert "are not those that the run" in capsys.readouterr().err
        assert main(["train", str(moved[0]), *now]) == 0, capsys.readouterr().err
        stored = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
        assert (stored["data"], stored["labels"], stored["resume"]) == (str(moved[0]), str(moved[1]), None)
        (tmp_path / "out/result.json").unlink()
        assert main(["train", "--resume", str(tmp_path / "out")]) == 0, capsys.readouterr().err  # it knows now

    def test_resuming_a_finished_run_changes_nothing(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        before = {path: path.read_bytes() for path in run.out.rglob("*") if path.is_file()}
        capsys.readouterr()
        assert main(["train", "--resume", str(run.out)]) == 0
        assert f"the run in {run.out} has finished before; nothing is trained" in capsys.readouterr().out
        assert {path: path.read_bytes() for path in run.out.rglob("*") if path.is_file()} == before


class TestEvaluate:
    def test_gives_the_number_of_the_run(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(run.out), str(run.data), "--split", "test"]) == 0
        printed = capsys.readouterr().out
        score = evaluate_run(run.out, run.data, split="test", console=Console(quiet=True))
        assert score.mean == run.result["miou"]
        assert list(score.per_class) == list(run.result["iou"].values())
        assert f"{100 * score.mean:.1f}" in next(line for line in printed.splitlines() if "mIoU" in line)
        assert "4 test images" in printed
        assert f"predictor linear of {run.out}; whole images; at their own size; not mirrored" in printed

    @pytest.mark.parametrize("layout", ["inside", "beside"])
    def test_any_labeled_folder(self, run: Run, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A folder of test images alone has nothing to train on, and does not need to."""
        make_folder(tmp_path, train=0, test=3, layout=layout, seed=5)  # type: ignore[arg-type]
        if layout == "beside":
            (tmp_path / "masks").rmdir()
        assert main(["evaluate", str(run.out), str(tmp_path)]) == 0, capsys.readouterr().err
        assert "3 test images" in capsys.readouterr().out

    def test_a_folder_without_parts_is_scored_whole(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_folder(tmp_path, train=3, labeled=2, seed=5)
        words = ["evaluate", str(run.out / "model.safetensors"), str(tmp_path)]
        assert main(words) == 0
        assert "2 labelled images" in capsys.readouterr().out
        assert main([*words, "--split", "val"]) == 2
        assert "has no val part" in capsys.readouterr().err

    def test_images_that_it_learned_from_are_told_by_name(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A copy of the training data lies elsewhere, and a model file may lie alone."""
        assert main(["evaluate", str(run.out), str(run.data), "--no-report"]) == 0
        assert "learned from" not in capsys.readouterr().out
        data = Path(shutil.copytree(run.data, tmp_path / "copy"))
        for kind in ("images", "masks"):
            shutil.rmtree(data / kind / "test")
        labeled = sorted((data / "masks").glob("*.png"))
        said = f"warning: {len(labeled)} images to score on have the name of one that the model in "
        first = f"learned from (the first is {data / 'images' / labeled[0].name}); if they are the same, a score on them says"
        for name in ("", "model.safetensors", "baseline"):
            assert main(["evaluate", str(run.out / name), str(data), "--no-report"]) == 0
            printed = capsys.readouterr().out
            assert said in printed
            assert first in printed
        alone = Path(shutil.copy(run.out / "model.safetensors", tmp_path / "model.safetensors"))
        assert main(["evaluate", str(alone), str(data), "--no-report"]) == 0
        assert f"warning: {alone} alone does not say which images it learned from; if they are" in capsys.readouterr().out
        assert main(["evaluate", str(alone), str(run.data), "--no-report"]) == 0
        assert "learned from" not in capsys.readouterr().out
        (tmp_path / "split.json").write_text('{"train": [1, 2]}')  # of the run, damaged, or of something else
        assert main(["evaluate", str(alone), str(run.data), "--out", str(tmp_path / "scored")]) == 0
        assert f"warning: {tmp_path / 'split.json'} is damaged ('hash' is missing)" in capsys.readouterr().out

    def test_through_windows_mirrored_and_at_two_sizes(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["evaluate", str(run.out), str(run.data)]
        assert main([*words, "--window", "48", "--stride", "20", "--scales", "1,0.75", "--flip"]) == 0, capsys.readouterr().err
        model, samples = load_model(run.out), open_dataset(run.data).of("test")
        inference = Inference(48, 20, (1.0, 0.75), flip=True)
        score = evaluate(model.network, samples, model.classes, model.normalization, inference=inference)
        table = capsys.readouterr().out
        for name, value in zip(model.classes.names, score.per_class, strict=True):
            assert f"{100 * value:.1f}" in next(line for line in table.splitlines() if f" {name} " in line)
        for wrong, said in (["--stride", "20"], "give a window too"), (["--scales", "1;2"], "takes numbers such as"):
            assert main([*words, *wrong]) == 2
            assert said in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["last.ckpt", "config.yaml"])
    def test_another_file_of_a_run_is_no_model(self, run: Run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(run.out / name), str(run.data)]) == 2
        assert f"{name} is no model file: give the run folder, or the model.safetensors in it" in capsys.readouterr().err

    def test_binary_masks_are_not_those_of_a_model_of_other_classes(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """255 would be taken for 'not labelled', and a model that answers 'ground' everywhere would be perfect."""
        make_folder(tmp_path, train=0, test=3)
        (tmp_path / "classes.txt").unlink(missing_ok=True)
        masks = [path for path in tmp_path.rglob("*.png") if "masks" in path.parts]
        for mask in masks:
            write_index(mask, np.where(read_mask(mask) == 0, 0, 255).astype(np.uint8))
        assert main(["evaluate", str(run.out), str(tmp_path)]) == 2
        assert "are binary, 0 and 255, but 255 is none of the model's classes (ground, square, disc)" in capsys.readouterr().err
        (tmp_path / "classes.txt").write_text("ground\nsquare\ndisc\n")  # so 255 does mean that
        assert main(["evaluate", str(run.out), str(tmp_path)]) == 0, capsys.readouterr().err

    def test_by_prototypes(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        linear = evaluate_run(run.out, run.data, split=None, console=Console(quiet=True))
        nearest = evaluate_run(run.out, run.data, split=None, console=Console(quiet=True), head="prototype")
        assert nearest.per_class != linear.per_class
        model = by_prototypes(load_model(run.out), run.out)
        samples = open_dataset(run.data).of("test")
        assert evaluate(model.network, samples, model.classes, model.normalization).per_class == nearest.per_class
        both = evaluate_run(run.out, run.data, split=None, console=Console(quiet=True), head="mean")
        assert both.per_class not in (linear.per_class, nearest.per_class)
        assert main(["evaluate", str(run.out), str(run.data), "--head", "mean"]) == 0
        assert f"{100 * both.mean:.1f}" in capsys.readouterr().out
        assert main(["evaluate", str(run.out), str(run.data), "--head", "prototype"]) == 0
        assert f"{100 * nearest.mean:.1f}" in capsys.readouterr().out
        words = [str(run.data / "images/test"), "-o", str(tmp_path / "out"), "--head", "prototype"]
        assert main(["predict", str(run.out), *words]) == 0
        assert main(["evaluate", str(run.out / "baseline"), str(run.data), "--head", "prototype"]) == 2
        assert "was trained without prototypes" in capsys.readouterr().err

    def test_prototypes_of_a_projection(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Train with all that changes where the term looks, go on, score by both predictors, predict, look at the atlas."""
        data, out = make_folder(tmp_path / "data", test=2), tmp_path / "run"
        where = ["--model.projection", "6", "--prototypes.emphasis", "boundary", "--prototypes.balance", "0.5"]
        words = [*where, "--prototypes.points_per_cell", "2", "--consistency.threshold", "0.4", "--no-evaluate"]
        assert main(["train", str(data), *TINY, *words, "--out", str(out)]) == 0, capsys.readouterr().err
        model = load_model_file(out)
        assert model.tensors["prototypes.prototype"].shape[-1] == 6
        assert any(name.endswith("projection.2.weight") for name in model.tensors)
        scores = [
            evaluate_run(out, data, split=None, console=Console(quiet=True), head=head).per_class
            for head in ("linear", "prototype")
        ]
        assert scores[0] != scores[1]
        assert main(["predict", str(out), str(data / "images/test"), "-o", str(tmp_path / "out"), "--head", "mean"]) == 0
        assert main(["atlas", str(out), str(data)]) == 0

    def test_a_model_sees_images_as_its_run_did(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ways: list[Inference] = []
        see = Inference.strips

        def remember(self: Inference, *image: Any) -> Iterator[torch.Tensor]:
            ways.append(self)
            return see(self, *image)

        monkeypatch.setattr(Inference, "strips", remember)
        data = make_folder(tmp_path / "data", test=1)
        words = ["train", str(data), *TINY, "--inference.window", "40", "--inference.flip", "--out", str(tmp_path / "run")]
        assert main(words) == 0, capsys.readouterr().err
        assert set(ways) == {Inference(40, flip=True)}  # for the score and for predictions.png
        ways.clear()
        assert main(["evaluate", str(tmp_path / "run"), str(data), "--no-report"]) == 0
        images = ["predict", str(tmp_path / "run"), str(data / "images/test"), "-o", str(tmp_path / "out")]
        assert main(images) == 0
        assert ways == [Inference(40, flip=True)] * 2
        assert main(["evaluate", str(tmp_path / "run"), str(data), "--no-report", "--window", "0", "--no-flip"]) == 0
        assert ways[2:] == [Inference()]

    def test_merged_classes_are_one_there_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", test=2, classes=("ground", "square", "disc"))
        rules = ["--classes.merge", "{shape: [square, disc]}"]
        assert main(["train", str(data), *TINY, *rules, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
        score = evaluate_run(tmp_path / "run", data, split="test", console=Console(quiet=True))
        result = json.loads((tmp_path / "run/result.json").read_text())
        assert list(result["iou"]) == ["ground", "shape"]
        assert score.mean == result["miou"]
        assert main(["predict", str(tmp_path / "run"), str(data / "images/test"), "-o", str(tmp_path / "out")]) == 0
        assert set(np.unique(read_mask(tmp_path / "out/test_00.png"))) <= {0, 1}

    def test_classes_in_another_order_are_matched_by_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", test=2, classes=("ground", "square", "disc"))
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0
        score = json.loads((tmp_path / "run/result.json").read_text())["miou"]
        (data / "classes.txt").write_text("disc\nground\nlake\nsquare\n")
        for path in (data / "masks/test").glob("*.png"):
            write_index(path, np.array([1, 3, 0, *range(3, 256)], dtype=np.uint8)[read_mask(path)])
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "run"), str(data)]) == 0
        printed = capsys.readouterr().out
        assert "note: classes are matched by name; in these masks 'ground' is 1, which was 0 in training" in printed
        assert evaluate_run(tmp_path / "run", data, split="test", console=Console(quiet=True)).mean == score

    def test_a_class_that_the_model_does_not_know(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", train=3, labeled=3, classes=("ground", "cat", "disc"), seed=5)
        assert main(["evaluate", str(run.out), str(data), "--no-report"]) == 2
        said = capsys.readouterr().err
        assert f"the class 'cat' of {data} is unknown to the model, which has ground, square, disc" in said
        assert re.search(r"img_0\d.png: value 1 \(\d+ pixels?\) is not in the class list of this model", said)

    def test_it_says_how_far_it_is_where_there_is_no_bar(
        self, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["evaluate", str(run.out), str(run.data), "--no-report"]
        assert main(words) == 0
        assert "scoring" not in capsys.readouterr().out
        monkeypatch.setattr("protoseg.trained._SILENCE", 0.0)
        assert main(words) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("scoring")] == [
            f"scoring {done}/4" for done in range(4)
        ]

    def test_palettes_are_compared(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With the colours of the data set's class list; without such a list, with each other."""
        data = make_folder(tmp_path / "data", train=3, labeled=3, seed=5)
        for i, colors in enumerate([(0, 0, 0, 255, 0, 0, 0, 255, 0), (0, 0, 0, 0, 255, 0, 255, 0, 0)]):
            picture = Image.fromarray(read_mask(data / f"masks/img_0{i}.png").astype(np.uint8))
            picture.putpalette(colors)
            picture.save(data / f"masks/img_0{i}.png")
        assert main(["evaluate", str(run.out), str(data)]) == 0
        assert "so look whether both masks mean the same by it" in capsys.readouterr().out
        (data / "classes.txt").write_text("ground 0 0 0\nsquare 255 0 0\ndisc 0 255 0\n")
        assert main(["evaluate", str(run.out), str(data)]) == 2
        assert "img_01.png shows the value 1 (square) in the colour #00ff00 of disc" in capsys.readouterr().err

    def test_a_class_that_is_none_stops(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["train", str(run.data), *TINY, "--classes.ignore", "[sky]", "--out", str(tmp_path / "run")]
        assert main(words) == 2
        assert "classes.ignore names 'sky', which is no class; the classes are ground, square, disc" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_unlabeled_or_missing_parts_are_named(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(run.out), str(run.data), "--split", "val"]) == 2
        assert "val" in capsys.readouterr().err


class TestMaxPixels:
    """Images of 41 x 57 pixels; every command knows the setting, and none reads more."""

    @pytest.mark.parametrize("command", ["train", "doctor", "split", "evaluate", "report", "atlas", "predict"])
    def test_every_command_refuses_larger_images(
        self, run: Run, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = {
            "train": [str(run.data), *TINY, "--out", str(tmp_path / "run")],
            "doctor": [str(run.data), "--out", str(tmp_path / "doctor.json")],
            "split": [str(run.data), "--labels", "2", "--balanced", "--out", str(tmp_path / "list.txt")],
            "evaluate": [str(run.out), str(run.data), "--no-report"],
            "report": [str(run.out), str(run.data)],
            "atlas": [str(run.out), str(run.data), "-o", str(tmp_path / "atlas.html")],
            "predict": [str(run.out), str(run.data / "images/test"), "-o", str(tmp_path / "out")],
        }[command]
        assert main([command, *words, "--max-pixels", "1e3"]) != 0
        printed = "".join(capsys.readouterr())
        if command == "doctor":
            printed = (tmp_path / "doctor.json").read_text()
        assert re.search(r"\.png is an image of 2,337 pixels by its header \(57 x 41\).*--max-pixels 2337", printed)
        assert MAX_PIXELS not in os.environ

    def test_a_larger_limit_is_kept_in_the_command(self, run: Run, tmp_path: Path) -> None:
        assert main(["evaluate", str(run.out), str(run.data), "--max_pixels=2337", "--out", str(tmp_path)]) == 0
        assert json.loads((tmp_path / "result.json").read_text())["commands"][0].endswith("--max-pixels 2337")

    def test_a_run_keeps_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """One unlabelled image is larger, so that another takes its place; without the limit it would be drawn on resume."""
        data, out = make_folder(tmp_path / "data", train=5, labeled=2, test=1), tmp_path / "resumed"
        large = write_image(data / "images/large.png", draw_shapes(np.random.default_rng(1), (60, 60))[0])
        words = ["train", str(data), *TINY, "--steps", "6", "--checkpoint-every", "1", "--consistency.warmup_steps", "0"]
        words += ["--max-pixels", "2000"]
        assert main([*words, "--out", str(tmp_path / "whole")]) == 0
        break_off(monkeypatch, [*words, "--out", str(out)], after=2)
        assert main(["train", "--resume", str(out), "--max-pixels", "4000"]) == 2
        said = capsys.readouterr().err
        assert "--max-pixels 4000 would change the run that --resume goes on with, which has --max-pixels 2000; leave" in said
        assert main(["train", "--resume", str(out)]) == 0
        assert MAX_PIXELS not in os.environ
        whole, resumed = (load_model_file(tmp_path / name).tensors for name in ("whole", "resumed"))
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
        results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "resumed")]
        assert [result["skipped"] for result in results] == [[str(large)], [str(large)]]
        assert main(["train", "--resume", str(out), "--max-pixels", "2e3"]) == 0  # the same one may be said again

    def test_a_run_of_an_earlier_version_takes_the_one_given(self, tmp_path: Path) -> None:
        data, out = make_folder(tmp_path / "data", train=4, labeled=2, test=1), tmp_path / "out"
        assert main(["train", str(data), *TINY, "--out", str(out)]) == 0
        stored = json.loads((out / "split.json").read_text())
        assert stored.pop("max_pixels") == 100_000_000
        (out / "split.json").write_text(json.dumps(stored))
        assert main(["train", "--resume", str(out), "--max-pixels", "2000"]) == 0

    @pytest.mark.parametrize("words", [["--max-pixels", "many"], ["--max-pixels"], ["--max-pixels=inf"]])
    def test_what_is_no_number(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "data", *words]) == 2
        assert "--max-pixels takes a number of pixels such as 400e6" in capsys.readouterr().err


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size in (("wide.jpg", (33, 71)), ("deep/er/tall.png", (65, 19)), ("tiny.png", (5, 7))):
        write_image(folder / name, draw_shapes(np.random.default_rng(1), size)[0])
    return folder


class TestPredict:
    def test_writes_three_files_for_each_image(self, run: Run, images: Path, tmp_path: Path) -> None:
        assert main(["predict", str(run.out), str(images), "-o", str(tmp_path / "out")]) == 0
        names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
        stems = ("wide", "deep/er/tall", "tiny")
        files = {f"{stem}{end}" for stem in stems for end in (".png", ".overlay.jpg", ".confidence.png")}
        assert names == files | {"classes.csv"}
        colors = load_model(run.out).classes.colors
        for stem, size in zip(stems, [(71, 33), (19, 65), (7, 5)], strict=True):
            with Image.open(tmp_path / "out" / f"{stem}.png") as mask:
                assert mask.mode == "P"
                assert mask.size == size
                shown = np.asarray(mask.convert("RGB"))
            values = read_mask(tmp_path / "out" / f"{stem}.png")
            assert set(np.unique(values)) <= {0, 1, 2}
            assert (shown == np.array(colors, dtype=np.uint8)[values]).all()
            assert Image.open(tmp_path / "out" / f"{stem}.overlay.jpg").size == size
            confidence = np.asarray(Image.open(tmp_path / "out" / f"{stem}.confidence.png"))
            assert confidence.shape == values.shape
            assert confidence.min() >= 255 // 3 - 1  # the best of three classes

    def test_agrees_with_the_score(self, run: Run, tmp_path: Path) -> None:
        """The masks on disk give the IoU that `evaluate` prints."""
        assert main(["predict", str(run.out), str(run.data / "images/test"), "-o", str(tmp_path / "out")]) == 0
        hit, union = np.zeros(3), np.zeros(3)
        for truth in sorted((run.data / "masks/test").iterdir()):
            true, found = read_mask(truth), read_mask(tmp_path / "out" / truth.name)
            for c in range(3):
                hit[c] += ((true == c) & (found == c)).sum()
                union[c] += ((true == c) | (found == c)).sum()
        assert hit / union == pytest.approx(list(run.result["iou"].values()))

    def test_a_file_whose_name_is_no_text(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "caf\udce9.png").write_text("no image")
        assert main(["predict", str(run.out), str(tmp_path / "caf\udce9.png"), "-o", str(tmp_path / "out")]) == 2
        assert f"the name 'caf\\xe9.png' in the folder {tmp_path} is not UTF-8; rename it" in capsys.readouterr().err

    def test_one_file(self, run: Run, images: Path, tmp_path: Path) -> None:
        assert main(["predict", str(run.out), str(images / "wide.jpg"), "-o", str(tmp_path / "out")]) == 0
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            *("wide.png", "wide.overlay.jpg", "wide.confidence.png", "classes.csv")
        }

    def test_its_class_list_is_that_of_the_masks(self, run: Run, images: Path, tmp_path: Path) -> None:
        assert main(["predict", str(run.out), str(images), "-o", str(tmp_path / "out")]) == 0
        listed, classes = read_class_list(tmp_path / "out"), load_model(run.out).classes
        assert listed is not None
        assert (listed.names, listed.colors, listed.written) == (classes.names, classes.colors, classes.written)

    def test_of_a_data_set_the_images_alone(
        self, run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Until nothing in it is a mask: then a folder `images` is one like any other."""
        data = make_folder(tmp_path / "data", train=3, labeled=2, test=1)
        (data / "notes.json").write_text("{")
        assert main(["predict", str(run.out), str(data), "-o", str(tmp_path / "out")]) == 0
        assert f"{data} is a data set (folder): its 4 images, without its masks" in capsys.readouterr().out
        masks = [path for path in (tmp_path / "out").rglob("*.png") if not path.name.endswith(".confidence.png")]
        expected = {"img_00.png", "img_01.png", "img_02.png", "test/test_00.png"}
        assert {path.relative_to(tmp_path / "out").as_posix() for path in masks} == expected
        shutil.rmtree(data / "masks")
        assert main(["predict", str(run.out), str(data), "-o", str(tmp_path / "plain")]) == 0
        assert "is a data set" not in capsys.readouterr().out
        assert (tmp_path / "plain/images/img_00.png").is_file()

    def test_many_images_with_one_fault_take_two_lines(
        self, run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for i in range(9):
            Image.new("I;16", (9, 9)).save(tmp_path / f"deep_{i}.png")
        (tmp_path / "empty.png").touch()
        write_image(tmp_path / "good.png", read_image(images / "tiny.png"))
        assert main(["predict", str(run.out), str(tmp_path), "-o", str(tmp_path / "out"), "--quiet"]) == 0
        first, rest, other, last = capsys.readouterr().out.splitlines()
        assert first.startswith(f"warning: skipped, {tmp_path / 'deep_0.png'} has 1 channel of uint16")
        assert rest == (
            f"warning: skipped for the same reason: 8 more, from {tmp_path / 'deep_1.png'} to {tmp_path / 'deep_8.png'}"
        )
        assert other == f"warning: skipped, {tmp_path / 'empty.png'} cannot be read as an image: it is empty"
        assert last.startswith(f"predictions: {tmp_path / 'out'}, mask, overlay and confidence of 1 image;")

    def test_a_run_that_is_not_there(self, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["predict", str(tmp_path / "nope"), str(images), "-o", str(tmp_path / "out")]) == 2
        assert f"there is no run in {tmp_path / 'nope'}: give a run folder" in capsys.readouterr().err
        assert main(["predict", str(tmp_path / "no.safetensors"), str(images), "-o", str(tmp_path / "out")]) == 2
        assert f"there is no model file {tmp_path / 'no.safetensors'}: give a run folder" in capsys.readouterr().err

    def test_a_zip_file(self, run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        packed = shutil.make_archive(str(tmp_path / "images"), "zip", images)
        assert main(["predict", str(run.out), packed, "-o", str(tmp_path / "out")]) == 0
        assert {path.name for path in (tmp_path / "out").glob("*.overlay.jpg")} == {"wide.overlay.jpg", "tiny.overlay.jpg"}
        assert (tmp_path / "out/deep/er/tall.png").is_file()

    def test_a_colon_in_the_folder_name(self, run: Run, images: Path, tmp_path: Path) -> None:
        folder = tmp_path / "12:30"
        write_image(folder / "x.png", read_image(images / "tiny.png"))
        assert main(["predict", str(run.out), str(folder), "-o", str(tmp_path / "out")]) == 0
        assert (tmp_path / "out/x.png").is_file()


class TestLargeImages:
    def test_windows_are_chosen_for_them_and_said(
        self, run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("protoseg.engine.predict.LARGE", 2000)  # wide.jpg alone, of 33 x 71 pixels
        monkeypatch.setattr("protoseg.engine.predict._WINDOW", 36)
        words = ["predict", str(run.out), str(images / "wide.jpg"), "-o"]
        assert main([*words, str(tmp_path / "chosen")]) == 0
        assert "note: 1 image of more than " in (said := capsys.readouterr().out)
        assert "went through windows of 36 px; --window chooses others, --window 0 none" in said
        assert main([*words, str(tmp_path / "given"), "--window", "36"]) == 0
        assert main([*words, str(tmp_path / "whole"), "--window", "0"]) == 0
        assert "note" not in capsys.readouterr().out
        chosen, given, whole = (
            np.asarray(Image.open(tmp_path / name / "wide.confidence.png")) for name in ("chosen", "given", "whole")
        )
        assert (chosen == given).all()
        assert (chosen != whole).any()

    def test_overlays_are_reduced_and_that_is_said(
        self, run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["predict", str(run.out), str(images / "wide.jpg"), "-o"]
        assert main([*words, str(tmp_path / "full")]) == 0
        monkeypatch.setattr("protoseg.engine.predict.LARGEST_OVERLAY", 24)
        assert main([*words, str(tmp_path / "out")]) == 0
        assert "note: 1 overlay is reduced to " in capsys.readouterr().out
        small, full = (np.asarray(Image.open(tmp_path / name / "wide.overlay.jpg")) for name in ("out", "full"))
        assert small.shape == (11, 24, 3)
        assert np.abs(small.astype(float) - full[::3, ::3]).mean() < 12  # but for what JPEG does to either
        assert Image.open(tmp_path / "out/wide.png").size == (71, 33)


class TestShards:
    def test_together_they_write_what_one_process_writes(
        self, run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["predict", str(run.out), str(images), "-o"]
        assert main([*words, str(tmp_path / "whole")]) == 0
        command = [sys.executable, "-m", "protoseg.cli", *words, str(tmp_path / "parts"), "--shard"]
        started = [subprocess.Popen([*command, part]) for part in ("1/2", "2/2")]
        assert [process.wait() for process in started] == [0, 0]
        assert (files := contents(tmp_path / "whole")) == contents(tmp_path / "parts")
        assert len(files) == 10
        capsys.readouterr()
        assert main([*words, str(tmp_path / "parts"), "--shard", "2/2"]) == 2
        assert "tiny.png exists; give another folder with -o" in capsys.readouterr().err
        assert main([*words, str(tmp_path / "parts"), "--shard", "9/9"]) == 0  # more processes than images
        assert "0 images" in capsys.readouterr().out

    @pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3"])
    def test_what_is_no_shard(self, run: Run, images: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["predict", str(run.out), str(images), "-o", "out", "--shard", part]) == 2
        assert f"--shard takes which of how many parts, from 1/4 to 4/4; got {part}" in capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def break_off(monkeypatch: pytest.MonkeyPatch, words: list[str], *, after: int) -> None:
    """Run a command whose training ends with an error in a step."""
    on_step = MetricsLog.on_step

    def cut(self: MetricsLog, trainer: Any, module: Any, step: int) -> None:
        on_step(self, trainer, module, step)
        if step == after:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_step", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            main(words)


@pytest.mark.parametrize("method", [f"{name}{plus}" for name in METHODS for plus in ("", "+prototypes")])
def test_every_method_trains_and_goes_on(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to a score; a run that broke off in step 5 ends like one that never did."""
    data = make_folder(tmp_path / "data", train=8, labeled=3, test=1, size=(40, 48))
    words = ["train", str(data), *TINY, "--method", method, "--steps", "6", "--log-every", "1", "--checkpoint-every", "3"]
    words += ["--consistency.warmup_steps", "2"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    break_off(monkeypatch, [*words, "--out", str(tmp_path / "resumed")], after=5)
    assert main(["train", "--resume", str(tmp_path / "resumed")]) == 0
    whole, resumed = (load_model_file(tmp_path / name).tensors for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert any(name.startswith("prototypes.") for name in whole) is ("+" in method or method == "prototype")
    named = "prototype" if method == "prototype+prototypes" else method
    assert json.loads((tmp_path / "whole/result.json").read_text())["method"] == named
    rows = list(csv.DictReader((tmp_path / "resumed" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_vit_trains_layer_by_layer_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPT with the method that was made for it, at a crop and at image sizes that are no multiples of a patch."""
    data = make_folder(tmp_path / "data", train=6, labeled=3, test=1, size=(40, 48))
    words = ["train", str(data), *TINY_RUN, "--model.arch", "dino_dpt", "--model.encoder", "tu-test_vit", "--crop", "40"]
    words += [
        "--method",
        "unimatch_v2+prototypes",
        "--steps",
        "3",
        "--checkpoint-every",
        "1",
        "--consistency.warmup_steps",
        "1",
    ]
    words += ["--consistency.threshold", "0", "--optimizer.layer_decay", "0.75", "--optimizer.lr", "1e-3"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    break_off(monkeypatch, [*words, "--out", str(tmp_path / "resumed")], after=2)
    assert main(["train", "--resume", str(tmp_path / "resumed")]) == 0

    whole, resumed = (load_model_file(tmp_path / name).tensors for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    for name in ("whole", "resumed"):
        state = torch.load(tmp_path / name / "last.ckpt", weights_only=True)["optimizer_states"][0]
        factors = [*(0.75**i for i in range(6, -1, -1)), 10]  # the embedding, six blocks, the rest
        assert [group["initial_lr"] for group in state["param_groups"]] == pytest.approx([1e-3 * factor for factor in factors])
    model = load_model(tmp_path / "whole")
    with torch.no_grad():
        assert model.network(torch.randn(1, 3, 37, 53)).logits.shape == (1, 3, 37, 53)
    assert all(torch.equal(value, whole[f"network.{name}"]) for name, value in model.network.state_dict().items())


def test_a_frozen_encoder_ships_as_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", train=4, labeled=2)
    start = create_dino_dpt("tu-test_vit", num_classes=2).encoder.state_dict()
    save_file(start, tmp_path / "start.safetensors")
    words = [*TINY_RUN, "--model.arch", "dino_dpt", "--model.encoder", "tu-test_vit", "--model.freeze_encoder"]
    words += [
        "--model.weights",
        str(tmp_path / "start.safetensors"),
        "--method",
        "unimatch_v2",
        "--consistency.warmup_steps",
        "0",
    ]
    assert main(["train", str(data), *words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "dino_dpt on tu-test_vit" in printed
    assert "encoder frozen" in printed
    tensors = load_model_file(tmp_path / "out").tensors
    assert all(torch.equal(tensors[f"network.encoder.{name}"], value) for name, value in start.items())


def test_a_broken_unlabelled_image_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", train=6, labeled=2)
    for name in ("img_03", "img_04", "img_05"):
        cut_short(data / f"images/{name}.png")
    assert main(["train", str(data), *TINY, "--steps", "6", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1
    assert "3 unlabelled images were unreadable and skipped" in printed
    assert len(json.loads((tmp_path / "out/result.json").read_text())["skipped"]) == 3


def test_a_run_goes_on_without_its_start_weights(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", train=4, labeled=2)
    save_file(create_segmenter("unet", "resnet18", num_classes=2).encoder.state_dict(), tmp_path / "start.safetensors")
    words = ["--model.arch", "unet", "--model.encoder", "resnet18", "--model.weights", str(tmp_path / "start.safetensors")]
    words += ["--steps", "2", "--batch", "2", "--crop", "32", "--out", str(tmp_path / "out")]
    assert main(["train", str(data), *words]) == 0
    (tmp_path / "start.safetensors").unlink()
    (tmp_path / "out/result.json").unlink()
    assert main(["train", "--resume", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/result.json").is_file()


def test_no_git_program_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    data = make_folder(tmp_path / "data", train=4, labeled=2)
    assert main(["train", str(data), *TINY, "--out", str(tmp_path / "out")]) == 0
    built = Path(stage.__file__).with_name("commit.txt")  # of an installed package
    commit = json.loads((tmp_path / "out/result.json").read_text())["versions"]["commit"]
    assert commit == (built.read_text().strip() if built.is_file() else None)


class TestWithoutScore:
    def test_nothing_left_to_score_on(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_folder(tmp_path / "data", train=4, labeled=2)
        assert main(["train", str(tmp_path / "data"), *TINY, "--out", str(tmp_path / "out")]) == 0
        assert "no labelled images left to score on" in capsys.readouterr().out
        result = json.loads((tmp_path / "out/result.json").read_text())
        assert "miou" not in result
        assert result["split"]["evaluation"] == ""
        assert (tmp_path / "out/model.safetensors").is_file()

    def test_the_sheet_then_shows_unlabelled_images(self, tmp_path: Path) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=2)
        cut_short(data / "images/img_02.png")  # an unreadable one has no row
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "out")]) == 0
        sheet = Image.open(tmp_path / "out/predictions.png")
        assert sheet.width == 2 * (240 + 6) + 6
        assert 200 < sheet.height < 400  # one row and the legend

    def test_a_held_out_score_can_be_asked_for_again(self, tmp_path: Path) -> None:
        data = make_folder(tmp_path / "data", train=6, labeled=5)
        assert main(["train", str(data), *TINY, "--holdout", "2", "--out", str(tmp_path / "out")]) == 0
        result = json.loads((tmp_path / "out/result.json").read_text())
        for run in ("out", "out/model.safetensors"):
            score = evaluate_run(tmp_path / run, data, split=None, console=Console(quiet=True))
            assert score.mean == result["miou"]

    def test_another_labelled_folder_is_scored_whole(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=3)
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "out")]) == 0
        other = make_folder(tmp_path / "other", train=4, labeled=3)
        assert main(["evaluate", str(tmp_path / "out"), str(other)]) == 0
        assert "3 labelled images (no test/ or val/ there)" in capsys.readouterr().out

    def test_val_is_scored_where_there_is_no_test(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", train=2, labeled=1, val=2, classes=("ground", "square", "disc"))
        assert main(["evaluate", str(run.out), str(data)]) == 0
        assert "2 val images" in capsys.readouterr().out

    def test_evaluation_switched_off(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        assert main(["train", str(tmp_path / "data"), *TINY, "--no-evaluate", "--out", str(tmp_path / "out")]) == 0
        assert "switched off" in capsys.readouterr().out
        assert "miou" not in json.loads((tmp_path / "out/result.json").read_text())

    def test_holdout_is_named_in_the_run_folder(self, tmp_path: Path) -> None:
        data = make_folder(tmp_path / "data", train=6, labeled=5)
        assert main(["train", str(data), *TINY, "--holdout", "2", "--seed", "1", "--out", str(tmp_path / "out")]) == 0
        result = json.loads((tmp_path / "out/result.json").read_text())
        assert (result["split"]["evaluation"], result["evaluated"], result["labeled"]) == ("holdout", 2, 3)
        texts = [p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix in {".json", ".txt", ".yaml"}]
        from protoseg.data.check import mask_values

        kept = make_partition(open_dataset(data), holdout="2", seed=1, classes_in=mask_values).evaluation
        assert any(all(sample.name in text for sample in kept) for text in texts)

    def test_the_default_run_folder_is_new_and_printed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_folder(tmp_path / "cells", train=4, labeled=2)
        monkeypatch.chdir(tmp_path)
        for name in ("cells-prototype-seed0", "cells-prototype-seed0-2"):
            assert main(["train", "cells", *TINY]) == 0
            assert (tmp_path / "runs" / name / "result.json").is_file()
            assert f"runs/{name}" in capsys.readouterr().out

    def test_evaluate_every_draws_a_curve(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "data", train=4, labeled=2, test=2)
        words = ["--steps", "3", "--evaluate-every", "2", "--log-every", "1", "--out", str(tmp_path / "out")]
        assert main(["train", str(tmp_path / "data"), *TINY, *words]) == 0
        rows = list(csv.DictReader((tmp_path / "out/metrics.csv").open()))
        assert [row["miou"] != "" for row in rows] == [False, True, True]
        assert float(rows[-1]["miou"]) == json.loads((tmp_path / "out/result.json").read_text())["miou"]


@pytest.mark.parametrize("words", [["--trainer.accelerator", "gpu"], ["--trainer.precision", "foo"]])
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU has what is asked for")
def test_devices_that_are_not_there_stop_before_anything_is_written(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "data", train=4, labeled=2)
    assert main(["train", str(tmp_path / "data"), *TINY, *words, "--out", str(tmp_path / "out")]) == 2
    assert "cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_loss_terms_are_whole_on_a_narrow_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, width=40, force_terminal=True, markup=False, soft_wrap=True)
    text = "  ".join(f"term {i} 0.123" for i in range(12)) + "  7.5 images/s"
    bar = _BarAboveText(console=console)
    bar.add_task("run", total=2, text=text)
    console.print(bar.get_renderable(), soft_wrap=False)
    printed = re.sub(r"\x1b\[[0-9;]*m|\s", "", file.getvalue())
    assert text.replace(" ", "") in printed


@pytest.mark.parametrize("no_color", [False, True])
def test_the_bar_of_a_run_has_colours_where_they_are_wanted(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=60, force_terminal=True, color_system="256", markup=False)
    bar = _BarAboveText(console=console)
    bar.add_task("run", total=2, completed=1, text="loss 0.1")
    console.print(bar.get_renderable())
    assert isinstance(console.file, io.StringIO)
    assert ("\x1b[3" in console.file.getvalue()) == (not no_color)


def test_the_bar_of_a_run_shows_step_losses_share_speed_and_time_left(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=250, force_terminal=True)
    data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
    words = [*TINY, "--steps", "6", "--consistency.warmup_steps", "2", "--log-every", "1", "--out", str(tmp_path / "out")]
    train(parse_train([str(data), *words]), console=console)
    assert isinstance(console.file, io.StringIO)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    bar = next(line for line in reversed(re.split(r"[\r\n]+", shown)) if "6/6" in line)
    assert re.search(r"prototype .*6/6.* \d:\d\d:\d\d", bar), bar
    text = next(line for line in reversed(re.split(r"[\r\n]+", shown)) if "images/s" in line)
    for name in ("loss", "labeled", "consistency", "prototype labeled", "prototype consistency"):
        assert re.search(rf"\b{name} \d+\.\d\d\d", text), (name, text)
    assert re.search(r"confident \d+%.* \d+\.\d images/s", text), text


def test_interrupted_runs_say_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("protoseg.engine.module.TrainingModule.on_train_batch_start", interrupt)
    make_folder(tmp_path / "data", train=4, labeled=2)
    assert main(["train", str(tmp_path / "data"), *TINY, "--out", str(tmp_path / "out")]) == 130
    assert f"--resume {tmp_path / 'out'}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["road [asphalt]", "[/b]"])
def test_brackets_in_a_class_name_are_no_markup(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "data", train=3, labeled=2, test=1, classes=(name, "b", "c"))
    assert main(["train", str(tmp_path / "data"), *TINY, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count(name) == 2  # among the classes and in the table
    assert "\x1b" not in printed  # no terminal


class TestQuiet:
    def test_a_run_says_what_is_wrong_and_where_its_report_is(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data, out = make_folder(tmp_path / "data", test=2), tmp_path / "run"
        (data / "images" / "img_05.png").write_bytes(b"no image")
        assert main(["train", str(data), *TINY, "--steps", "8", "--batch", "3", "--quiet", "--out", str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"report: {out / 'report.html'}"
        assert lines[:-1]
        assert all(line.startswith("warning:") for line in lines[:-1])
        assert any("img_05.png" in line for line in lines)

    def test_it_stays_quiet_on_a_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take anything for a terminal
        data, out = make_folder(tmp_path / "data", test=2), tmp_path / "run"
        assert main(["train", "--quiet", str(data), *TINY, "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"

    def test_a_score_alone(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", str(run.out), str(run.data), "--no-report", "--quiet"]) == 0
        assert capsys.readouterr().out == f"mIoU: {100 * run.result['miou']:.1f}\n"

    def test_the_doctor_says_what_to_try(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data, out = make_folder(tmp_path / "data", test=2), tmp_path / "doctor.json"
        (data / "images" / "img_05.png").write_bytes(b"no image")
        assert main(["doctor", str(data), *TINY, "--out", str(out), "--quiet"]) in {0, 1}
        found = [f for f in json.loads(out.read_text())["findings"] if f["severity"] != "note"]
        assert found
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"findings: {out}, with all files"
        assert [line.split(":")[0] for line in lines[:-1]] == [w for f in found for w in (f["severity"], "    try")]

    def test_the_next_command_speaks_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = make_folder(tmp_path / "data", test=2)
        words = ["split", str(data), "--labels", "2", "--out"]
        assert main([*words, str(tmp_path / "a.txt"), "--quiet"]) == 0
        assert re.fullmatch(rf"list: {tmp_path / 'a.txt'}, hash .*\n", capsys.readouterr().out)
        assert main([*words, str(tmp_path / "b.txt")]) == 0
        assert capsys.readouterr().out != ""


def test_no_color_is_respected(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", test=2)
    words = [sys.executable, "-m", "protoseg.cli", "doctor", str(data), "--out", str(tmp_path / "doctor.json")]
    for setting, colored in (({}, True), ({"NO_COLOR": "1"}, False)):
        environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", **setting}
        printed = subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout
        assert ("\x1b[3" in printed) == colored
