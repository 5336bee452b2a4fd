"""Runs in bfloat16 and float16 agree with one in float32; the scale that float16 needs is found, and found again on resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
from make_folder import TINY, make_folder
from safetensors.torch import load_file

from protoseg.cli import main
from protoseg.engine.module import TrainingModule
from protoseg.engine.resumable import load_state

WORDS = [*TINY, "--steps", "8", "--batch", "4", "--log-every", "1", "--consistency.warmup_steps", "2", "--no-evaluate"]
BEGIN = 2.0**16
"""The scale that PyTorch begins with; half of it is small enough for these runs."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", train=8, labeled=4)


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets float16 train on a processor too, as Lightning has it on a GPU, and begin with a scale that a test may change."""
    chosen, init = [BEGIN], _AcceleratorConnector._check_and_init_precision

    def precision(self: Any) -> Any:
        if self._precision_flag != "16-mixed":
            return init(self)
        device = "cpu" if self._accelerator_flag == "cpu" else "cuda"
        return MixedPrecision("16-mixed", device, torch.amp.GradScaler(device, init_scale=chosen[0]))

    monkeypatch.setattr(_AcceleratorConnector, "_check_and_init_precision", precision)
    return chosen


def train(data: Path, out: Path, precision: str, *more: str) -> list[dict[str, str]]:
    """The rows of a run's metrics."""
    assert main(["train", str(data), *WORDS, "--trainer.precision", precision, *more, "--out", str(out)]) == 0
    return list(csv.DictReader((out / "metrics.csv").open(newline="")))


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_runs_agree(data: Path, tmp_path: Path, scale: list[float], device: str) -> None:
    """Loss and supervised loss of every step, within 2 % in bfloat16 (8 bits) and 1 % in float16 (11 bits)."""
    scale[0] = BEGIN / 16  # a step that looks for a smaller one is lost
    rows = {
        name: train(data, tmp_path / name, name, "--trainer.accelerator", device)
        for name in ("32-true", "bf16-mixed", "16-mixed")
    }
    for name, bound in (("bf16-mixed", 0.02), ("16-mixed", 0.01)):
        for whole, short in zip(rows["32-true"], rows[name], strict=True):
            for term in ("loss", "labeled"):
                assert float(short[term]) == pytest.approx(float(whole[term]), rel=bound), (name, whole["step"], term)
        assert rows[name][0]["labeled"] != rows["32-true"][0]["labeled"]


def test_a_scale_that_is_too_large_is_found_without_harm(data: Path, tmp_path: Path, scale: list[float]) -> None:
    """Steps whose gradient is infinite only because of the scale move nothing, and are no fault of the run."""
    scale[0] = 4 * BEGIN
    rows = train(data, tmp_path / "out", "16-mixed")
    state = load_state(tmp_path / "out/last.ckpt")
    assert state["MixedPrecision"]["scale"] < scale[0]
    assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["dropped_steps"], result["events"]) == (0, [])
    assert len({row["labeled"] for row in rows}) == len(rows)


def test_goes_on_exactly(data: Path, tmp_path: Path, scale: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    scale[0] = 4 * BEGIN
    train(data, tmp_path / "whole", "16-mixed")
    step = TrainingModule.training_step

    def die(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> Any:
        if self.global_step == 5:
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(data, tmp_path / "out", "16-mixed", "--checkpoint-every", "1")
    assert main(["train", "--resume", str(tmp_path / "out")]) == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    scales = [load_state(tmp_path / name / "last.ckpt")["MixedPrecision"]["scale"] for name in ("whole", "out")]
    assert scales[0] == scales[1]
