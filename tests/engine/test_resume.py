"""A run that is killed and resumed ends where an uninterrupted one ends, to the last bit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from make_folder import make_folder
from safetensors.torch import load_file

STEPS = 14
SETTINGS = (
    f"--steps {STEPS} --batch 2 --crop 32 --log-every 1 --checkpoint-every 3 --seed 5 --consistency.warmup_steps 2 "
    "--consistency.threshold 0.1 --prototypes.grid 8 --model.arch deeplabv3plus --model.encoder resnet18 --model.weights none "
    "--optimizer.lr 1e-3"  # DeepLabv3+ has dropout, so the global generator counts too
).split()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "protoseg.cli", "train", *words]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "set"
    make_folder(root)
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Uninterrupted runs, with accumulation 1 and 2."""
    runs = {}
    for accumulate in (1, 2):
        runs[accumulate] = tmp_path_factory.mktemp("whole") / "run"
        words = (str(data), *SETTINGS, "--accumulate", str(accumulate), "--out", str(runs[accumulate]))
        subprocess.run(command(*words, "--workers", "0"), check=True, capture_output=True)
    return runs


def kill_after(arguments: list[str], metrics: Path, *, step: int) -> None:
    """Start a run and SIGKILL it, with its workers, as soon as it has logged a step."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") > step:
            break
        time.sleep(0.005)
    assert process.poll() is None, f"it ended before it could be killed: {process.communicate()[1].decode()[-500:]}"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        timing = {"seconds", "images_per_second"}
        return [{key: value for key, value in row.items() if key not in timing} for row in csv.DictReader(file)]


def timed_rows(run: Path) -> list[str]:
    return (run / "metrics.csv").read_text().splitlines()[1:]


@pytest.mark.parametrize(("workers", "then", "accumulate", "step"), [(0, 2, 1, 4), (2, 0, 1, 7), (2, 2, 2, 9)])
def test_killed_run_resumes_bit_exactly(
    data: Path, whole: dict[int, Path], tmp_path: Path, workers: int, then: int, accumulate: int, step: int
) -> None:
    run = tmp_path / "run"
    start = command(str(data), *SETTINGS, "--accumulate", str(accumulate), "--workers", str(workers), "--out", str(run))
    kill_after(start, run / "metrics.csv", step=step)
    assert not (run / "result.json").exists()
    last = torch.load(run / "last.ckpt", weights_only=True)["global_step"]
    before = timed_rows(run)[:last]
    subprocess.run(command("--resume", str(run), "--workers", str(then)), check=True, capture_output=True)

    expected, resumed = (load_file(folder / "model.safetensors") for folder in (whole[accumulate], run))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert rows(run) == rows(whole[accumulate])
    assert 0 < last < STEPS
    assert timed_rows(run)[:last] == before, "it went on from the checkpoint, it did not start again"
    states = [torch.load(f / "last.ckpt", weights_only=True) for f in (whole[accumulate], run)]
    for name, tensor in states[0]["state_dict"].items():  # the student too, which the model file does not hold
        assert torch.equal(tensor, states[1]["state_dict"][name]), name


def test_resuming_a_finished_run_changes_nothing(whole: dict[int, Path]) -> None:
    before = {path.name: path.read_bytes() for path in whole[1].iterdir() if path.is_file()}
    subprocess.run(command("--resume", str(whole[1])), check=True, capture_output=True)
    assert before == {path.name: path.read_bytes() for path in whole[1].iterdir() if path.is_file()}
