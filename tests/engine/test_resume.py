"""A run that is killed and resumed ends where an uninterrupted one ends, to the last bit."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from make_folder import make_folder
from safetensors.torch import load_file

from protoseg.engine.resumable import DamagedError, load_state
from same_bits import differing, flat

STEPS = 8
# FPN has dropout, so that the global generator counts too.
SETTINGS = (
    f"--steps {STEPS} --crop 32 --log-every 1 --checkpoint-every 2 --evaluate-every 5 --seed 5 --optimizer.lr 1e-3 "
    "--consistency.warmup_steps 2 --consistency.threshold 0.1 --prototypes.grid 8 --model.arch fpn "
    "--model.encoder mobilenet_v2 --model.weights none --trainer.accelerator cpu"
).split()
Moment = str  # what a run is doing
MOMENTS: tuple[Moment, ...] = ("training", "writing a checkpoint", "evaluation")


class Corner(NamedTuple):
    workers: int
    accumulate: int
    processes: int


MATRIX = [Corner(*numbers) for numbers in itertools.product((0, 2), (1, 4), (1, 2))]
QUICK = [(Corner(0, 1, 2), MOMENTS[0]), (Corner(2, 4, 1), MOMENTS[1]), (Corner(0, 1, 1), MOMENTS[2])]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "protoseg.cli", "train", *words]


def start(data: Path, corner: Corner, out: Path) -> list[str]:
    numbers = {
        "--workers": corner.workers,
        "--accumulate": corner.accumulate,
        "--trainer.devices": corner.processes,
        "--batch": 2 * corner.processes,  # BatchNorm needs two images in each
    }
    words = [word for option, number in numbers.items() for word in (option, str(number))]
    return command(str(data), *SETTINGS, *words, "--out", str(out))


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "set", test=4)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Corner], Path]:
    """The uninterrupted run that ends as those of a corner should; the number of workers does not count."""
    done: dict[tuple[int, int], Path] = {}

    def of(corner: Corner) -> Path:
        key = (corner.accumulate, corner.processes)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("whole") / "run"
            run(start(data, corner._replace(workers=0), done[key]))
        return done[key]

    return of


def kill(words: list[str], out: Path, moment: Moment, rng: random.Random) -> None:
    """Start a run and SIGKILL all its processes at some point of what it does."""
    step = rng.randrange(3, STEPS - 2)

    def has_come() -> bool:
        if moment == "evaluation":
            return (out / "model.safetensors").is_file()
        passed = (out / "metrics.csv").is_file() and len(timed_rows(out)) >= step
        return passed and (moment == "training" or (out / "last.ckpt.partial").is_file())

    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 240
        while not has_come():
            assert process.poll() is None, f"it ended before it could be killed: {process.communicate()[1].decode()[-500:]}"
            assert time.monotonic() < deadline, f"there was no {moment}"
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3 if moment == "training" else 0.01))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert not (out / "result.json").exists()


def timed_rows(out: Path) -> list[str]:
    return (out / "metrics.csv").read_text().splitlines()[1:]


def kill_and_go_on(words: list[str], out: Path, corner: Corner, moments: tuple[Moment, ...]) -> None:
    """Kill a run at each of the moments, one after the other, and let it end."""
    rng = random.Random(str((corner, moments)))
    resume = command("--resume", str(out), "--workers", str(2 - corner.workers))
    for moment in moments:
        kill(words, out, moment, rng)
        words = resume
        before, last = timed_rows(out), steps_done(out)
        assert 0 < last <= STEPS
    run(resume)
    assert timed_rows(out)[:last] == before[:last], "it went on from the checkpoint, it did not start again"


def steps_done(out: Path) -> int:
    """Of the newest whole checkpoint."""
    for name in ("last.ckpt", "previous.ckpt"):
        try:
            return int(load_state(out / name)["global_step"])
        except DamagedError:
            continue
    return 0


def assert_same_end(expected: Path, resumed: Path) -> None:
    """Weights, teacher, prototypes, optimizer, metrics and scores."""
    models = [load_file(folder / "model.safetensors") for folder in (expected, resumed)]
    assert differing(*models) == []
    states = [load_state(folder / "last.ckpt") for folder in (expected, resumed)]
    for part in ("method.student.", "method.teacher.", "method.prototypes.head.prototype"):
        assert any(name.startswith(part) for name in states[0]["state_dict"]), part
    assert differing(*(state["state_dict"] for state in states)) == []  # with the student, which the model file does not hold
    moments = [flat(state["optimizer_states"]) for state in states]
    assert differing(*moments) == []
    assert len(moments[0]) > 100
    timing = {"seconds", "images_per_second"}
    rows = [list(csv.DictReader((folder / "metrics.csv").open(newline=""))) for folder in (expected, resumed)]
    ours, theirs = ([{key: value for key, value in row.items() if key not in timing} for row in table] for table in rows)
    assert ours == theirs
    assert len(ours) == STEPS
    assert (expected / "health.jsonl").read_text() == (resumed / "health.jsonl").read_text()
    results = [json.loads((folder / "result.json").read_text()) for folder in (expected, resumed)]
    assert all(results[0][key] == results[1][key] for key in ("miou", "iou", "steps", "evaluated"))


@pytest.mark.parametrize(("corner", "moment"), QUICK, ids=lambda value: str(value).removeprefix("Corner"))
def test_killed_run_ends_bit_exactly(
    data: Path, whole: Callable[[Corner], Path], tmp_path: Path, corner: Corner, moment: Moment
) -> None:
    out = tmp_path / "run"
    kill_and_go_on(start(data, corner, out), out, corner, (moment,))
    assert_same_end(whole(corner), out)


@pytest.mark.slow
@pytest.mark.parametrize("corner", MATRIX, ids=lambda corner: str(corner).removeprefix("Corner"))
def test_run_killed_three_times_ends_bit_exactly(
    data: Path, whole: Callable[[Corner], Path], tmp_path: Path, corner: Corner
) -> None:
    """24 kills over the whole matrix: in training, while a checkpoint is written, and in evaluation."""
    out = tmp_path / "run"
    kill_and_go_on(start(data, corner, out), out, corner, MOMENTS)
    assert_same_end(whole(corner), out)


def test_resuming_a_finished_run_changes_nothing(data: Path, whole: Callable[[Corner], Path]) -> None:
    out = whole(QUICK[2][0])
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    run(command("--resume", str(out)))
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
