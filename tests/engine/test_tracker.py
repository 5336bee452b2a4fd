"""The numbers of a run in TensorBoard, Weights & Biases and MLflow: the same that metrics.csv and result.json hold."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from make_folder import TINY, make_folder
from rich.console import Console

from protoseg.cli import main
from protoseg.engine import tracker as module
from protoseg.engine.tracker import TRACKER, Tracker, TrackerName, check_tracker


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> number of what TensorBoard would show."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def tracked(name: TrackerName, out: Path) -> Tracker:
    out.mkdir(exist_ok=True)
    return Tracker(name, out, settings={"lr": 0.1, "model": {"arch": "small_unet", "mean": None}}, console=Console())


class TestTensorBoard:
    def test_rows_arrive_without_what_is_no_number(self, tmp_path: Path) -> None:
        with tracked("tensorboard", tmp_path) as tracker:
            tracker.log({"loss": "0.5", "miou": "", "lr": None}, step=10)
            tracker.log({"loss": 0.25, "miou": "0.75"}, step=20)
        assert scalars(tmp_path) == {"loss": {10: 0.5, 20: 0.25}, "miou": {20: 0.75}}

    def test_a_run_goes_on_in_its_own_curves(self, tmp_path: Path) -> None:
        for step in (1, 2):
            with tracked("tensorboard", tmp_path) as tracker:
                tracker.log({"loss": step}, step=step)
        assert scalars(tmp_path) == {"loss": {1: 1, 2: 2}}

    def test_train_sends_what_it_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        data, out = make_folder(tmp_path / "data", test=2), tmp_path / "run"
        words = ["train", str(data), *TINY, "--logger", "tensorboard", "--log-every", "1", "--baseline", "--out", str(out)]
        assert main(words) == 0
        for folder in (out, out / "baseline"):
            rows = list(csv.DictReader((folder / "metrics.csv").open()))
            sent, result = scalars(folder), json.loads((folder / "result.json").read_text())
            assert sent["loss"] == pytest.approx({int(row["step"]): float(row["loss"]) for row in rows})
            assert sent["test/miou"] == pytest.approx({result["steps"]: result["miou"]})
            assert {name for name in sent if name.startswith("test/iou/")} == {f"test/iou/{name}" for name in result["iou"]}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
class TestOthers:
    """Where they are installed: they bring more than all the rest together."""

    def test_a_run_goes_on_under_its_own_name(
        self, name: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip(name, reason="pip install 'protoseg[track]'")
        monkeypatch.chdir(tmp_path)  # MLflow's data base
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
        seen = set()
        for step in (1, 2):
            with tracked(name, tmp_path / "run") as tracker:
                tracker.log({"loss": 1 / step, "miou": ""}, step=step)
            seen.add((tmp_path / "run" / TRACKER).read_text())
        assert len(seen) == 1
        assert "gets nothing more" not in capsys.readouterr().out
        known = json.loads(seen.pop())[name]
        if name == "wandb":
            assert len(list((tmp_path / "run").rglob(f"run-{known}.wandb"))) == 2  # one for each part, to be sent as one run
        else:
            import mlflow

            history = mlflow.MlflowClient().get_metric_history(known, "loss")
            assert {metric.step: metric.value for metric in history} == {1: 1, 2: 0.5}


def test_a_tracker_that_fails_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fail(self: Any, metrics: Mapping[str, float], step: int | None = None) -> None:
        calls.append(step)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", fail)
    data, out = make_folder(tmp_path / "data"), tmp_path / "run"
    assert main(["train", str(data), *TINY, "--logger", "tensorboard", "--log-every", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("warning: tensorboard gets nothing more of this run: no route to host") == 1
    assert len(calls) == 1
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert len(rows) > 1
    assert all(math.isfinite(float(row["loss"])) for row in rows)


def test_a_tracker_that_is_not_installed_stops_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package wandb: pip install 'protoseg\[track\]'"):
        check_tracker("wandb")
    data, out = make_folder(tmp_path / "data"), tmp_path / "run"
    assert main(["train", str(data), *TINY, "--logger", "mlflow", "--out", str(out)]) == 2
    assert "--logger mlflow needs the package mlflow" in capsys.readouterr().err
    assert not out.exists()
