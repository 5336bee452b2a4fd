"""A run that is killed and resumed ends where an uninterrupted one ends, to the last bit."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from make_folder import cut_short, make_folder
from safetensors.torch import load_file

from protoseg.engine.resumable import load_state
from protoseg.stored import DamagedError
from same_bits import differing, flat

STEPS = 8
# FPN has dropout, so that the global generator counts too.
SETTINGS = (
    f"--steps {STEPS} --crop 32 --log-every 1 --checkpoint-every 2 --evaluate-every 5 --seed 5 --optimizer.lr 1e-3 "
    "--consistency.warmup_steps 2 --consistency.threshold 0.1 --prototypes.grid 8 --model.arch fpn "
    "--model.encoder mobilenet_v2 --model.weights none --trainer.accelerator cpu"
).split()
Moment = str  # what a run is doing
TRAINING, SCORING, WRITING, EVALUATION = MOMENTS = ("training", "scoring in mid-run", "writing a checkpoint", "evaluation")
"""Scoring in mid-run is that of --evaluate-every, evaluation what follows after the last step."""
AFTER = {TRAINING: 0.1, SCORING: 0.0, WRITING: 0.1, EVALUATION: 0.02}  # seconds, at most, that the kill comes later
ONLY_TRAINS = {3, 5, 6}  # rows of the metrics; after 4 and 7 the run scores before it writes the next one
TRIES = 5  # of a kill that has to fall into such a moment


class Corner(NamedTuple):
    workers: int
    accumulate: int
    processes: int


MATRIX = [Corner(*numbers) for numbers in itertools.product((0, 2), (1, 4), (1, 2))]
# The last number is that of the workers of the run that goes on.
QUICK = [(Corner(2, 1, 2), TRAINING, 2), (Corner(0, 4, 1), WRITING, 2), (Corner(2, 1, 1), EVALUATION, 0)]
STATE = {
    "prototype": ("method.student.", "method.teacher.", "method.prototypes.head.prototype"),
    "u2pl": ("method.student.", "method.teacher.", "method.contrast.queue"),
    "prevmatch": ("method.student.", "method.teacher.", "method.snapshots.kept.7."),
}
"""What the checkpoint of a method has to hold."""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "protoseg.cli", "train", *words]


def start(data: Path, corner: Corner, out: Path, method: str = "prototype") -> list[str]:
    numbers = {
        "--workers": corner.workers,
        "--accumulate": corner.accumulate,
        "--trainer.devices": corner.processes,
        "--batch": 2 * corner.processes,  # BatchNorm needs two images in each
    }
    words = [word for option, number in numbers.items() for word in (option, str(number))]
    return command(str(data), *SETTINGS, *words, "--method", method, "--out", str(out))


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an unlabelled image that cannot be read: another one takes its place, and the run goes on exactly all the same."""
    folder = make_folder(tmp_path_factory.mktemp("data") / "set", test=4)
    cut_short(folder / "images/img_05.png")
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Future[Path]]]:
    """The uninterrupted run that ends as those of a corner should; the number of workers does not count.

    It begins where a test first names it, beside what that test does next.
    """
    done: dict[tuple[int, int, str], Future[Path]] = {}

    def train(corner: Corner, method: str) -> Path:
        out = tmp_path_factory.mktemp("whole") / "run"
        run(start(data, corner._replace(workers=0), out, method))
        return out

    with ThreadPoolExecutor() as threads:

        def of(corner: Corner, method: str = "prototype") -> Future[Path]:
            key = (corner.accumulate, corner.processes, method)
            if key not in done:
                done[key] = threads.submit(train, corner, method)
            return done[key]

        yield of


def kill(words: list[str], out: Path, moment: Moment, rng: random.Random, image: Path) -> None:
    """Start a run and SIGKILL all its processes while it does something; again from where it was, if the kill came too late."""
    before = out.with_name("before")
    if out.exists():
        shutil.copytree(out, before)
    for _ in range(TRIES):
        if kill_once(words, out, moment, rng, image):
            shutil.rmtree(before, ignore_errors=True)
            return
        shutil.rmtree(out)
        if before.exists():
            shutil.copytree(before, out)
    raise AssertionError(f"none of {TRIES} kills fell into {moment}")


def kill_once(words: list[str], out: Path, moment: Moment, rng: random.Random, image: Path) -> bool:
    """Whether the run was doing that when it was killed, as what it has left shows.

    Args:
        words: that start the run.
        out: its folder, where an earlier part of the run may have left files.
        moment: what it should do.
        rng: where in it.
        image: one that it scores.
    """
    step, began, waits = rng.randrange(3, STEPS - 2), time.time_ns(), rng.uniform(0, AFTER[moment])

    def is_new(name: str) -> bool:
        try:
            return (out / name).stat().st_mtime_ns > began
        except FileNotFoundError:
            return False

    def is_doing_it() -> bool:
        if moment == EVALUATION:
            return is_new("model.safetensors") and not (out / "evaluation.npz").exists()
        if not is_new("metrics.csv") or is_new("model.safetensors"):
            return False
        if moment == SCORING:
            return is_asked_for()
        rows, writes = len(timed_rows(out)), is_new("last.ckpt.partial")
        return rows >= step and (writes if moment == WRITING else rows in ONLY_TRAINS and not writes)

    with (
        silent(image) as is_asked_for,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as process,
    ):
        deadline = time.monotonic() + 240
        while not is_doing_it():
            if process.poll() is not None:
                assert process.returncode == 0, process.communicate()[1].decode()[-500:]
                return False
            assert time.monotonic() < deadline, f"there was no {moment}"
            time.sleep(0.001)
        time.sleep(waits)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return process.returncode == -signal.SIGKILL and is_doing_it() and not (out / "result.json").exists()


@contextmanager
def silent(image: Path) -> Iterator[Callable[[], bool]]:
    """An image whose content does not come, from the first call on: whether somebody waits for it."""
    content, pipe = image.read_bytes(), image.with_name("pipe")
    held = list[int]()  # open, so that who waits for the content waits on

    def is_asked_for() -> bool:
        if not held:
            if not image.is_fifo():
                os.mkfifo(pipe)
                pipe.replace(image)
            with suppress(OSError):  # nobody has opened it to read
                held.append(os.open(image, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held)

    try:
        yield is_asked_for
    finally:
        if image.is_fifo():
            pipe.write_bytes(content)
            pipe.replace(image)
        for descriptor in held:
            os.close(descriptor)


def timed_rows(out: Path) -> list[str]:
    return (out / "metrics.csv").read_text().splitlines()[1:]


def kill_at(moments: tuple[Moment, ...], words: list[str], out: Path, *, workers: int, data: Path, seed: str) -> list[str]:
    """Kill a run at each of the moments, one after the other, and give the rows of its metrics up to its checkpoint."""
    rng = random.Random(seed)
    scored = sorted((data / "images/test").iterdir())
    for moment in moments:
        kill(words, out, moment, rng, rng.choice(scored))
        words = resume(out, workers)
        rows = timed_rows(out)[: steps_done(out)]
        assert 0 < len(rows) <= STEPS
    return rows


def go_on(out: Path, *, workers: int, done: list[str]) -> None:
    """Let a killed run end."""
    run(resume(out, workers))
    assert timed_rows(out)[: len(done)] == done, "it went on from the checkpoint, it did not start again"


def resume(out: Path, workers: int) -> list[str]:
    return command("--resume", str(out), "--workers", str(workers))


def steps_done(out: Path) -> int:
    """Of the newest whole checkpoint."""
    for name in ("last.ckpt", "previous.ckpt"):
        try:
            return int(load_state(out / name)["global_step"])
        except DamagedError:
            continue
    return 0


def assert_same_end(expected: Path, resumed: Path, method: str = "prototype") -> None:
    """Weights, teacher, prototypes or what else a method keeps, optimizer, metrics and scores."""
    models = [load_file(folder / "model.safetensors") for folder in (expected, resumed)]
    assert differing(*models) == []
    states = [load_state(folder / "last.ckpt") for folder in (expected, resumed)]
    for part in STATE[method]:
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
    assert all(results[0][key] == results[1][key] for key in ("miou", "iou", "steps", "evaluated", "skipped"))
    assert [Path(name).name for name in results[0]["skipped"]] == ["img_05.png"]


@pytest.mark.parametrize(("corner", "moment", "workers"), QUICK, ids=lambda value: str(value).removeprefix("Corner"))
def test_killed_run_ends_bit_exactly(
    data: Path, whole: Callable[..., Future[Path]], tmp_path: Path, corner: Corner, moment: Moment, workers: int
) -> None:
    out = tmp_path / "run"
    done = kill_at((moment,), start(data, corner, out), out, workers=workers, data=data, seed=str((corner, moment)))
    expected = whole(corner)
    go_on(out, workers=workers, done=done)
    assert_same_end(expected.result(), out)


@pytest.mark.slow
@pytest.mark.parametrize("corner", MATRIX, ids=lambda corner: str(corner).removeprefix("Corner"))
def test_run_killed_three_times_ends_bit_exactly(
    data: Path, whole: Callable[..., Future[Path]], tmp_path: Path, corner: Corner
) -> None:
    """24 kills over the whole matrix; after each the other number of workers goes on."""
    out, moments = tmp_path / "run", (TRAINING, WRITING, EVALUATION)
    done = kill_at(moments, start(data, corner, out), out, workers=2 - corner.workers, data=data, seed=str(corner))
    expected = whole(corner)
    go_on(out, workers=2 - corner.workers, done=done)
    assert_same_end(expected.result(), out)


@pytest.mark.slow
@pytest.mark.parametrize("method", STATE)
def test_run_killed_four_times_ends_bit_exactly(
    data: Path, whole: Callable[..., Future[Path]], tmp_path: Path, method: str
) -> None:
    """At every moment, with two workers before and after; two of the methods remember earlier crops, or earlier networks."""
    out, corner = tmp_path / "run", Corner(2, 1, 1)
    done = kill_at(MOMENTS, start(data, corner, out, method), out, workers=2, data=data, seed=method)
    expected = whole(corner, method)
    go_on(out, workers=2, done=done)
    assert_same_end(expected.result(), out, method)


def test_resuming_a_finished_run_changes_nothing(data: Path, whole: Callable[..., Future[Path]]) -> None:
    out = whole(QUICK[2][0]).result()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    run(command("--resume", str(out)))
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
