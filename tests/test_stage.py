"""What a run says about its device, which optimizer fits its precision, and what its sheet of predictions shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_folder import TINY, make_folder
from PIL import Image

from protoseg import stage
from protoseg.arguments import parse_train
from protoseg.cli import main
from protoseg.config import build_method, build_network
from protoseg.data.images import read_image
from protoseg.engine.evaluate import predict_image
from protoseg.engine.inference import Inference
from protoseg.engine.pictures import colorize
from protoseg.settings import ModelConfig
from protoseg.stage import describe_device, optimizer_of, trainer_options
from protoseg.trained import load_model


def config(*words: str) -> Any:
    resolved = parse_train(["data", "--workers", "2", "--optimizer.lr", "0.1", *words])
    resolved.steps = 10
    resolved.consistency.warmup_steps, resolved.consistency.ema_momentum = 2, 0.99
    return resolved


@pytest.mark.parametrize(
    ("cuda", "words", "expected"),
    [
        (False, "--trainer.accelerator cpu", "cpu, float32, 2 workers for images"),
        (False, "--trainer.accelerator cpu --trainer.precision bf16-mixed", "cpu, bfloat16, 2 workers for images"),
        (
            False,
            "--trainer.accelerator cpu --trainer.precision 16-mixed",
            "cpu, bfloat16, not float16, 2 workers for images",
        ),
        (True, "", "GPU, bfloat16, channels last, 2 workers for images"),
        (True, "--trainer.precision 32-true", "GPU, float32, channels last, 2 workers for images"),
        (True, "--trainer.devices 4", "GPU, bfloat16, channels last, devices 4, 2 workers for images"),
        (True, "--trainer.accelerator cpu", "cpu, float32, 2 workers for images"),
    ],
)
def test_the_device_in_words(monkeypatch: pytest.MonkeyPatch, words: str, expected: str, *, cuda: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert describe_device(config(*words.split())) == expected


@pytest.mark.parametrize(
    ("words", "strategy"),
    [
        ("", None),
        ("--trainer.strategy auto", None),
        ("--trainer.strategy single_device", None),  # which Lightning takes for a CPU, whatever there is
        ("--trainer.strategy ddp", "ddp"),
        ("--trainer.devices 2", "ddp"),
        ("--trainer.devices auto --trainer.strategy auto", "ddp"),
        ("--trainer.num_nodes 2 --trainer.strategy auto", "ddp"),
    ],
)
def test_one_strategy_for_several_processes(words: str, strategy: str | None) -> None:
    assert trainer_options(config(*words.split())).get("strategy") == strategy


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", None)])
def test_scaled_gradients_take_an_optimizer_that_the_guard_can_look_into(precision: str, *, fused: bool | None) -> None:
    settings = config("--trainer.precision", precision, "--method", "supervised", "--prototypes.per_class", "0")
    method = build_method(settings, build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3))
    assert {group["fused"] for group in optimizer_of(settings)(method).param_groups} == {fused}


def test_lightning_says_nothing_of_its_own(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
    words = [str(data), *TINY, "--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "protoseg.cli", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cpu, float32" in done.stdout
    assert not [word for word in ("available", "litlogger", "Tip") if word in done.stdout + done.stderr]


def test_the_sheet_shows_image_truth_labels_only_and_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[Path, Any] = {}
    monkeypatch.setattr(stage, "sheet", lambda path, rows, titles, classes, **_: shown.update({path: (titles, rows, classes)}))
    data, out = make_folder(tmp_path / "data", train=6, labeled=3, test=2), tmp_path / "run"
    apart = ["--steps", "40", "--optimizer.lr", "0.01", "--consistency.warmup_steps", "2", "--consistency.threshold", "0"]
    apart += ["--consistency.ema_momentum", "0.5", "--prototypes.weight", "1"]
    assert main(["train", str(data), *TINY, *apart, "--baseline", "--out", str(out)]) == 0
    titles, rows, classes = shown[out / "predictions.png"]
    assert titles == ["image", "truth", "labels only", "ours"]
    assert len(rows) == 2
    differ, models = 0, [load_model(folder) for folder in (out / "baseline", out)]
    for row, name in zip(rows, ("test_00.png", "test_01.png"), strict=True):
        image = read_image(data / "images/test" / name)
        truth = np.asarray(Image.open(data / "masks/test" / name))
        labels = [predict_image(m.network, image, m.normalization, Inference()).label.numpy().astype(np.uint8) for m in models]
        differ += int((labels[0] != labels[1]).sum())
        for cell, expected in zip(row, (image, *(colorize(label, classes) for label in (truth, *labels))), strict=True):
            assert (cell == expected).all()
    assert differ > 0, "two models that say the same cannot be told apart"
