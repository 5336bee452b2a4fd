"""Two gloo processes: prototypes, teacher and BatchNorm statistics stay equal."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from make_folder import cut_short, make_folder
from rich.console import Console

from protoseg.cli import main
from protoseg.engine.tally import Tally
from protoseg.trained import evaluate_run

SETTINGS = (
    "--steps 6 --batch 4 --crop 32 --workers 0 --checkpoint-every 2 --log-every 1 --seed 3 "
    "--consistency.threshold 0.1 --prototypes.grid 8 --model.arch small_unet --model.weights none"
).split()

LAUNCH = """
import sys, torch, torch.distributed as dist
from protoseg.cli import main
from protoseg.engine.module import TrainingModule
from protoseg.methods.base import Method
from protoseg.nn.prototype_head import PrototypeHead

start = {}
fit, end, forward = PrototypeHead.fit, TrainingModule.on_train_end, Method.forward

def fit_and_note(self, *args, **kwargs):
    fit(self, *args, **kwargs)
    start["at start"] = self.prototype.clone()

def save(self):
    end(self)
    torch.save({**self.method.state_dict(), **start}, f"{sys.argv[1]}/rank{self.global_rank}.pt")

def infinite_once_on_one_process(self, *args, step):
    out = forward(self, *args, step=step)
    if step == 4 and dist.get_rank() == 1:
        out.loss = out.loss + torch.inf  # whose gradient is finite
    return out

PrototypeHead.fit, TrainingModule.on_train_end, Method.forward = fit_and_note, save, infinite_once_on_one_process
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of two processes left."""
    root = tmp_path_factory.mktemp("ddp")
    make_folder(root / "set", train=9, labeled=3, test=3)
    for name in ("img_04", "img_05", "img_06", "img_07"):  # each process meets some of them
        cut_short(root / f"set/images/{name}.png")
    launch(root)
    return root


def launch(root: Path, *more: str) -> None:
    """Train on root/set in two processes, into root/run and root/rank*.pt."""
    (root / "launch.py").write_text(LAUNCH)
    words = ["train", str(root / "set"), *SETTINGS, *more, "--out", str(root / "run")]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    done = subprocess.run(
        [sys.executable, str(root / "launch.py"), str(root), *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (root / "run" / "model.safetensors").is_file()


def test_each_image_is_scored_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, tally = json.loads((folder / "run/result.json").read_text()), Tally.load(folder / "run/evaluation.npz")
    assert (result["evaluated"], len(set(tally.names)), len(tally.names)) == (3, 3, 3)
    alone = evaluate_run(folder / "run", folder / "set", split=None, console=Console(), out=folder / "scored")
    assert result["miou"] == pytest.approx(alone.mean, abs=1e-9)


def states_in(root: Path) -> list[dict[str, torch.Tensor]]:
    """The method's state on each process, after the last step."""
    return [torch.load(root / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def states(folder: Path) -> list[dict[str, torch.Tensor]]:
    return states_in(folder)


@pytest.mark.parametrize("part", ["prototypes.head.prototype", "prototypes.head.ready", "teacher.", "student."])
def test_processes_agree(states: list[dict[str, torch.Tensor]], part: str) -> None:
    names = [name for name in states[0] if name.startswith(part)]
    assert names
    for name in names:
        assert torch.equal(states[0][name], states[1][name]), name


def test_the_number_of_processes_changes_no_setting(folder: Path, tmp_path: Path) -> None:
    """Learning rate, EMA and warm-up follow the global batch."""
    words = [*SETTINGS, "--trainer.accelerator", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", str(folder / "set"), *words]) == 0
    runs = folder / "run", tmp_path / "run"
    both, one = (yaml.safe_load((run / "config.yaml").read_text()) for run in runs)
    assert both["trainer"].pop("devices") == 2
    assert {**both, "out": ""} == {**one, "out": ""}
    assert (one["optimizer"]["lr"], one["consistency"]["ema_momentum"]) == (7.07e-5, 0.99749)
    assert one["consistency"]["warmup_steps"] == 3
    rates = [[row["lr"] for row in csv.DictReader((run / "metrics.csv").open())] for run in runs]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 6


def test_unreadable_images_of_all_processes_are_counted(folder: Path) -> None:
    assert len(json.loads((folder / "run/result.json").read_text())["skipped"]) == 4


def test_a_loss_that_is_no_number_on_one_process_drops_the_step_on_all(folder: Path) -> None:
    result = json.loads((folder / "run/result.json").read_text())
    assert result["dropped_steps"] == 1
    assert "the loss was no number" in result["events"][0]["alarm"]


def test_prototypes_moved(states: list[dict[str, torch.Tensor]]) -> None:
    assert states[0]["prototypes.head.ready"].all()
    moved = (states[0]["prototypes.head.prototype"] - states[0]["at start"]).abs().amax(dim=(1, 2))
    assert (moved > 0).all()


@pytest.mark.parametrize(
    ("method", "moved"),
    [
        ("u2pl", "contrast.arrived"),
        pytest.param("corrmatch", "global_threshold.value", marks=pytest.mark.slow),
        pytest.param("prevmatch", "snapshots.kept.3.network.head.weight", marks=pytest.mark.slow),
    ],
)
def test_processes_keep_the_same_state(tmp_path: Path, method: str, moved: str) -> None:
    make_folder(tmp_path / "set", train=9, labeled=3)
    launch(tmp_path, "--method", method, "--accumulate", "2")
    first, second = states_in(tmp_path)
    assert first[moved].abs().sum() > 0
    assert first[moved].sum() != torch.tensor(0.85)  # where the threshold starts
    for name in first:
        assert torch.equal(first[name], second[name]), name
