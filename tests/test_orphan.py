"""A process that the first one has started does not outlive it, and is left alone in every other case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protoseg.launch import is_first
from protoseg.orphan import STARTED_BY, ends_with_the_first
from protoseg.run import train
from protoseg.settings import RUN_FOLDER, TrainConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say whether a parent has gone")

CHILD = """
import ctypes, os, sys, time
from protoseg.orphan import ends_with_the_first

def block():
    print("blocked", flush=True)
    sleep(40)

class Stuck:
    def __del__(self):
        block()

sleep = {"in Python": time.sleep}.get(sys.argv[1], ctypes.CDLL(None).sleep)  # the latter as a device is waited for

@ends_with_the_first()
def train():
    if sys.argv[1] == "when Python ends":
        global stuck
        stuck, parent = Stuck(), os.getppid()
        print("blocked", flush=True)  # from here on the parent may be killed
        while os.getppid() == parent:
            time.sleep(0.001)
        raise RuntimeError("connection closed")
    if sys.argv[1] == "is through":
        return
    block()

train()
if sys.argv[1] == "is through":
    print("blocked", flush=True)
    time.sleep(14)
    print("was left alone", flush=True)
"""

PARENT = """
import os, subprocess, sys, time
from protoseg.orphan import ends_with_the_first

@ends_with_the_first()
def train():
    subprocess.Popen([sys.executable, *sys.argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
    time.sleep(40)

train()
"""


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LOCAL_RANK", STARTED_BY):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv(RUN_FOLDER, "runs/x")
    return monkeypatch


def after_the_first(how: str) -> tuple[str, str, float]:
    """What a child says whose parent is killed, on both streams, and for how many seconds it outlives it."""
    command = [sys.executable, "-c", PARENT, "-c", CHILD, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "blocked\n"
        first.kill()
        began = time.monotonic()
        said, errors = first.communicate(timeout=60)  # of both: the child holds the pipes too
    return said, errors, time.monotonic() - began


@pytest.mark.parametrize("how", [pytest.param("in Python", marks=pytest.mark.slow), "in C"])
def test_a_child_that_waits_for_ever_ends_after_the_first(env: pytest.MonkeyPatch, how: str) -> None:
    _, errors, seconds = after_the_first(how)
    assert 9 < seconds < 20  # it has had time to end by itself
    (line,) = errors.splitlines()
    assert line.startswith("protoseg train: another process of this run has died, the first one")
    assert line.endswith("; go on with protoseg train --resume runs/x")


def test_a_child_that_waits_while_python_ends(env: pytest.MonkeyPatch) -> None:
    """Where no thread of Python runs any more."""
    said, errors, seconds = after_the_first("when Python ends")
    assert said == "blocked\n"
    assert errors.splitlines()[-1] == "RuntimeError: connection closed"
    assert 9 < seconds < 20


def test_a_child_that_is_through_may_go_on(env: pytest.MonkeyPatch) -> None:
    said, errors, _ = after_the_first("is through")
    assert said == "was left alone\n"
    assert not errors


@pytest.fixture
def watched(env: pytest.MonkeyPatch) -> list[int]:
    """Seconds of every alarm that is set."""
    alarms: list[int] = []
    env.setattr(signal, "alarm", alarms.append)
    return alarms


def test_a_parent_that_had_gone_before_counts_as_gone(env: pytest.MonkeyPatch, watched: list[int]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    env.setenv("LOCAL_RANK", "1")
    env.setenv(STARTED_BY, str(gone.pid))
    with ends_with_the_first():
        deadline = time.monotonic() + 8
        while not watched:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    time.sleep(0.2)
    assert watched[-1] == 0  # it went through in time


@pytest.mark.parametrize("started_by", ["parent", "something else that lives", "torchrun"])
def test_nothing_happens_while_the_first_lives(env: pytest.MonkeyPatch, watched: list[int], started_by: str) -> None:
    env.setenv("LOCAL_RANK", "1")
    if started_by != "torchrun":
        env.setenv(STARTED_BY, str(os.getppid() if started_by == "parent" else os.getpid()))
    with ends_with_the_first():
        time.sleep(2.5)
    assert watched == []


def test_ctrl_c_sets_no_alarm_while_the_first_lives(env: pytest.MonkeyPatch, watched: list[int]) -> None:
    env.setenv("LOCAL_RANK", "1")
    env.setenv(STARTED_BY, str(os.getppid()))
    env.setattr("protoseg.orphan._watch", lambda *_: None)  # which would go on, and look after pytest
    with pytest.raises(KeyboardInterrupt), ends_with_the_first():
        raise KeyboardInterrupt
    assert watched == []


def test_the_first_names_itself_while_it_trains(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    env.setattr("protoseg.run.join_slurm", lambda options: seen.append(os.environ.get(STARTED_BY)))
    env.setattr("protoseg.run.settle", lambda *_, **__: 1 / 0)
    assert is_first()
    with pytest.raises(ZeroDivisionError):
        train(TrainConfig(), console=None)  # type: ignore[arg-type]
    assert seen == [str(os.getpid())]
    assert STARTED_BY not in os.environ
