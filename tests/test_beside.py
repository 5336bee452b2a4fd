"""The labels-only model trains beside the other one, in a process of its own, and nothing about either changes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder
from safetensors.torch import load_file

import protoseg.beside
from protoseg.arguments import parse_train
from protoseg.beside import trains_beside
from protoseg.files import LOCK, locked
from protoseg.run import _all_under_way

STEPS = 200
SETTINGS = [*TINY, "--steps", str(STEPS), "--log-every", "10", "--checkpoint-every", "20", "--trainer.accelerator", "cpu"]
SETTINGS += ["--consistency.warmup_steps", "40", "--consistency.threshold", "0.3", "--prototypes.grid", "8", "--baseline"]
MODELS = (".", "baseline")


def start(*words: str, threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "protoseg.cli", "train", *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "set", test=3)


@pytest.fixture(scope="module")
def in_turn(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one thread: one model after the other."""
    out = tmp_path_factory.mktemp("in-turn") / "run"
    status, said, err = end(start(str(data), *SETTINGS, "--out", str(out), threads=1))
    assert status == 0, err
    assert "beside" not in said
    return out


def assert_same(expected: Path, found: Path) -> None:
    """Both models, their curves and scores, to the last bit."""
    for model in MODELS:
        tensors = [load_file(run / model / "model.safetensors") for run in (expected, found)]
        assert tensors[0].keys() == tensors[1].keys()
        assert [name for name, value in tensors[0].items() if not torch.equal(value, tensors[1][name])] == []
        rows = [list(csv.DictReader((run / model / "metrics.csv").open(newline=""))) for run in (expected, found)]
        for row in (*rows[0], *rows[1]):
            del row["seconds"], row["images_per_second"]
        assert rows[0] == rows[1]
        assert len(rows[0]) == STEPS // 10
    results = [json.loads((run / "result.json").read_text()) for run in (expected, found)]
    assert results[0]["gain"] == results[1]["gain"]
    assert results[0]["baseline"]["iou"] == results[1]["baseline"]["iou"]


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert process is None or process.poll() is None, f"it has ended before: {end(process)}"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def both_train(run: Path) -> Callable[[], bool]:
    """Whether both models have a checkpoint; neither may be finished."""

    def now() -> bool:
        assert not any((run / model / "result.json").is_file() for model in MODELS)
        return all((run / model / "last.ckpt").is_file() for model in MODELS)

    return now


def pid_beside(run: Path) -> int:
    """The process that holds, or held, the folder of the labels-only model; 0 for none yet."""
    lock = run / "baseline" / LOCK
    found = re.match(r"process (\d+)", lock.read_text()) if lock.is_file() else None
    return int(found[1]) if found else 0


def is_free(folder: Path) -> bool:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, warn=pytest.fail))
        except FileExistsError:
            return False
        return True


def test_killed_and_moved_it_ends_like_one_after_the_other(data: Path, in_turn: Path, tmp_path: Path) -> None:
    run, here, there = tmp_path / "run", tmp_path / "here", tmp_path / "there"
    shutil.copytree(data, here)
    # With a worker: a forked one must not wait for what the other process listens to.
    process = start(str(here), *SETTINGS, "--workers", "1", "--out", str(run), threads=2)
    wait_for(both_train(run), process)
    os.kill(process.pid, signal.SIGKILL)  # by its own number: nobody tells the other one
    process.communicate()
    wait_for(lambda: is_free(run / "baseline"), seconds=10)
    assert not (run / "result.json").exists()

    here.rename(there)
    status, said, err = end(start(str(there), "--resume", str(run), threads=2))
    assert status == 0, err
    assert "labels only beside it, half of the threads each" in " ".join(said.split())
    assert f"labels only: {STEPS} steps in " in said
    assert_same(in_turn, run)


@pytest.mark.slow
def test_stopped_and_left_alone_it_ends_like_one_after_the_other(data: Path, in_turn: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(str(data), *SETTINGS, "--out", str(run), threads=2)
    wait_for(both_train(run), process)
    os.kill(process.pid, signal.SIGTERM)  # as above: the other one has to be told
    status, said, err = end(process)
    assert status == 143, err
    assert "stopping after this step" not in said  # what the other one says to it
    assert f"go on with protoseg train --resume {run}" in err
    assert is_free(run / "baseline")

    earlier = pid_beside(run)
    process = start("--resume", str(run), "--quiet", threads=2)
    wait_for(lambda: pid_beside(run) not in {0, earlier}, process)
    os.kill(pid_beside(run), signal.SIGKILL)
    status, said, err = end(process)
    assert status == 1
    told = "training on labels only, beside this one, has ended with status -9"
    assert f"warning: {told}" in said
    assert told in err
    assert f"go on with protoseg train --resume {run}" in err

    status, _, err = end(start("--resume", str(run), threads=2))
    assert status == 0, err
    assert_same(in_turn, run)


@pytest.mark.slow
def test_what_breaks_beside_is_told(in_turn: Path, tmp_path: Path) -> None:
    """The run is whole but for its labels-only model, whose checkpoint is damaged."""
    run = tmp_path / "run"
    shutil.copytree(in_turn, run)
    for name in ("result.json", "baseline/result.json"):
        (run / name).unlink()
    (run / "baseline" / "last.ckpt").write_bytes(b"nothing")
    status, _, err = end(start("--resume", str(run), threads=2))
    assert status == 1
    assert "status 2: labels only: " in err
    assert "last.ckpt" in err


@pytest.mark.parametrize(
    ("words", "threads", "beside"),
    [
        ([], 2, True),
        ([], 16, True),
        ([], 1, False),
        (["--no-baseline"], 2, False),
        (["--method", "supervised"], 2, False),
        (["--method", "self_training"], 2, False),
        (["--trainer.devices", "2"], 2, False),
        (["--trainer.accelerator", "gpu"], 2, False),
    ],
    ids=str,
)
def test_when_it_trains_beside(words: list[str], threads: int, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(protoseg.beside, "uses_cuda", lambda config: False)
    config = parse_train(["data", "--baseline", *words])
    assert trains_beside(config, method_like(config)) is beside


def method_like(config: Any) -> Any:
    """What is asked of a method, without its network."""
    from protoseg.config import method_class

    found = method_class(config.method)
    return SimpleNamespace(uses_unlabeled=found.uses_unlabeled, needs_labeler=found.needs_labeler)


@pytest.mark.parametrize(
    ("files", "words", "under_way"),
    [
        ([], [], False),
        (["last.ckpt"], [], True),
        (["last.ckpt"], ["--baseline"], False),
        (["baseline/last.ckpt"], ["--baseline"], False),
        (["last.ckpt", "baseline/previous.ckpt"], ["--baseline"], True),
        (["last.ckpt", "baseline/result.json"], ["--baseline"], True),
        (["last.ckpt"], ["--baseline", "--method", "supervised"], True),
    ],
    ids=str,
)
def test_start_weights_are_needed_until_each_model_has_a_checkpoint(
    files: list[str], words: list[str], under_way: bool, tmp_path: Path
) -> None:
    (tmp_path / "baseline").mkdir()
    for name in files:
        (tmp_path / name).touch()
    config = parse_train(["data", *words])
    config.resume = str(tmp_path)
    assert _all_under_way(config) is under_way
    config.resume = None
    assert not _all_under_way(config)
