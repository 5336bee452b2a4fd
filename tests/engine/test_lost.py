"""A process that dies takes the run down within seconds, with the reason and the way on."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from make_folder import TINY, cut_short, make_folder
from safetensors.torch import load_file

from protoseg import cli
from protoseg.cli import main
from protoseg.data import loader
from protoseg.data.in_hand import Slots, note
from protoseg.data.loader import LabeledCrops
from protoseg.engine.lost import lost, out_of_memory
from protoseg.engine.module import TrainingModule
from protoseg.engine.resumable import load_state
from protoseg.orphan import STARTED_BY
from second_process import second_process

TWO = ("--batch", "4", "--trainer.accelerator", "cpu", "--trainer.devices", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("lost") / "data", train=6, labeled=3, test=1)


def fill_with_noise(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


@pytest.mark.skipif(sys.platform == "win32", reason="its signals are others")
@pytest.mark.parametrize(
    ("error", "status"), [(True, 0), (False, -signal.SIGKILL)], ids=["with an error on its way", "without"]
)
def test_lightning_does_not_end_a_run_that_is_about_to_say_why(error: bool, status: int) -> None:
    """Its watch over the processes that the first one has started kills that one too, as soon as one of them has died."""
    code = f"""
import os, subprocess, sys, time
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from protoseg.engine.lost import LastWord
_ChildProcessObserver(os.getpid(), [subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])], sleep_period=2).start()
if {error}:
    LastWord().on_exception(None, None, RuntimeError())
time.sleep(6)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == status


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes as Linux shows them")
@pytest.mark.parametrize("which", ["second", pytest.param("first", marks=pytest.mark.slow)])
def test_a_killed_process_ends_all(data: Path, tmp_path: Path, which: str) -> None:
    out = tmp_path / "out"
    words = [*TINY, *TWO, "--steps", "2000", "--log-every", "1", "--checkpoint-every", "2", "--no-evaluate", "--out", str(out)]
    command = [sys.executable, "-m", "protoseg.cli", "train", str(data), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 600  # of a machine that is busy
        while not (out / "metrics.csv").is_file() or (out / "metrics.csv").read_text().count("\n") < 5:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = second_process(run.pid)
        variables = Path(f"/proc/{second}/environ").read_bytes().split(b"\0")
        assert f"{STARTED_BY}={run.pid}".encode() in variables  # so that it watches (test_orphan.py)
        os.kill(second if which == "second" else run.pid, signal.SIGKILL)
        began = time.monotonic()
        _, message = run.communicate(timeout=120)  # of both: the other one holds the pipe too
    assert time.monotonic() - began < 20  # 6 to 9 where five processes share two cores
    assert "Traceback" not in message
    if which == "second":
        assert "process 2 of 2 was ended by SIGKILL" in message or "terminated with code -9" in message
    else:
        assert "another process of this run has died" in message
    # Lightning's own line about the second one may come before it, after it, or in it.
    assert f"go on with protoseg train --resume {out}" in message, message
    assert load_state(out / "last.ckpt")["global_step"] >= 2


def test_a_killed_worker_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the system does it where memory runs out; the run goes on later."""
    read, calls = LabeledCrops.__getitem__, [0]

    def die_in_a_worker(self: LabeledCrops, draw: Any) -> dict[str, Any]:
        calls[0] += multiprocessing.parent_process() is not None
        if calls[0] > 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, draw)

    words = [
        "train",
        str(data),
        *TINY,
        "--steps",
        "8",
        "--checkpoint-every",
        "1",
        "--no-evaluate",
        "--out",
        str(tmp_path / "out"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(LabeledCrops, "__getitem__", die_in_a_worker)
        assert main([*words, "--workers", "1"]) == 1
    said = capfd.readouterr().err
    assert "a process that reads images has died (DataLoader worker" in said
    assert f"fewer --workers need less of it; go on with protoseg train --resume {tmp_path / 'out'}" in said
    assert main(["train", "--resume", str(tmp_path / "out"), "--workers", "0"]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a worker that is killed by a signal")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_a_dead_worker_read_last_is_known(start: Any) -> None:
    """However it was started; of a path that is too long, the end."""
    slots, path = Slots(2), Path(f"/{'x' * 2000}/ä.png")
    worker = multiprocessing.get_context(start).Process(target=read_and_die, args=(slots, 1, path))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    ((pid, last),) = slots.read().items()
    assert pid == worker.pid
    assert last.endswith("x/ä.png")
    assert str(path).endswith(last)


def read_and_die(slots: Slots, worker: int, path: Path) -> None:
    slots.take(worker)
    note(Path("another.png"))
    note(path)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_file_of_a_killed_worker_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An image that takes more memory than there is, for instance."""
    large, read, calls = data / "images/img_01.png", loader.read_image, [0]

    def die_of_one(path: Path, kind: Any) -> Any:
        calls[0] += multiprocessing.parent_process() is not None
        if path == large and calls[0] > 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, kind)

    monkeypatch.setattr(loader, "read_image", die_of_one)
    assert main(["train", str(data), *TINY, "--steps", "40", "--workers", "1", "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err
    assert f"; read last: {large}; the system ends processes where memory runs out" in said


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_a_batch(error: Exception) -> None:
    said = str(lost(error))
    assert said.startswith("a process that reads images has died (DataLoader worker: ")
    assert "fewer --workers" in said


def test_a_drive_that_does_not_answer_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("protoseg.data.loader._STALLED", 2)
    monkeypatch.setattr(LabeledCrops, "__getitem__", lambda self, draw: time.sleep(60))
    assert main(["train", str(data), *TINY, "--workers", "1", "--out", str(tmp_path / "out")]) == 1
    assert "no image came from the data set any more (DataLoader timed out after 2 seconds)" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["labelled", "unlabelled"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "does not exist"),
        (cut_short, "cannot be read as an image"),
        (fill_with_noise, "cannot be read as an image"),
    ],
    ids=["vanishes", "is cut short", "becomes noise"],
)
def test_a_file_that_is_lost_in_mid_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    harm: Callable[[Path], Any],
    told: str,
    suffix: str,
    kind: str,
) -> None:
    """An unlabelled one is left out and counted; without a labelled one the run would be another."""
    data = make_folder(tmp_path / "data", train=6, labeled=3, suffix=suffix)
    lost_file, step = data / f"images/img_0{1 if kind == 'labelled' else 4}{suffix}", TrainingModule.training_step

    def lose(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> Any:
        if self.global_step == 2:
            harm(lost_file)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", lose)
    words = ["train", str(data), *TINY, "--steps", "8", "--prototypes.per_class", "0", "--consistency.warmup_steps", "0"]
    status = main([*words, "--no-evaluate", "--out", str(tmp_path / "out")])
    if kind == "unlabelled":
        assert status == 0
        assert json.loads((tmp_path / "out/result.json").read_text())["skipped"] == [str(lost_file)]
    else:
        assert status == 2
        said = capfd.readouterr().err.splitlines()
        assert f"{lost_file} {told}" in said[-1]
        assert said[-1].endswith(f"; once that is mended, go on with protoseg train --resume {tmp_path / 'out'}")
        assert not any("Traceback" in line for line in said)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that does not answer is a pipe here")
@pytest.mark.parametrize("when", ["in training", "in scoring"])
def test_a_drive_that_goes_away_in_mid_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], when: str
) -> None:
    """Without workers too; when it is there again, the run ends where one ends that nothing has happened to."""
    data = make_folder(tmp_path / "data", train=6, labeled=3, test=1)
    words = ["train", str(data), *TINY, "--steps", "6", "--checkpoint-every", "1", "--consistency.warmup_steps", "1"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    lost_file = data / "images/img_01.png" if when == "in training" else next((data / "images/test").iterdir())
    pipe, kept, step = tmp_path / "pipe", tmp_path / "kept.png", TrainingModule.training_step
    os.mkfifo(pipe)

    def vanish(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> Any:
        if self.global_step == 2:
            lost_file.rename(kept)
            lost_file.symlink_to(pipe)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", vanish)
        patch.setattr("protoseg.data.patience._WAITS", (0.5, 2.5))
        capfd.readouterr()
        assert main([*words, "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"{lost_file} or its mask" in said
    assert "cannot be read (no answer for 3 seconds); look whether its drive is there" in said
    assert said.endswith(f"; go on with protoseg train --resume {tmp_path / 'out'}")
    lost_file.unlink()
    kept.rename(lost_file)
    assert main(["train", "--resume", str(tmp_path / "out")]) == 0
    whole, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "out"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # whoever still waits reads its end


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Connection closed by peer [::1]:1"), "another process of this run"),
        (dist.DistNetworkError("The client socket has timed out"), "another process of this run"),
        (RuntimeError("DataLoader timed out after 900 seconds"), "no image came from the data set"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "by signal: Killed); the system ends"),
    ],
)
def test_what_is_said(error: RuntimeError, message: str) -> None:
    assert message in str(lost(error))


def test_the_files_of_who_has_died_are_named() -> None:
    in_hand = {7: "/a.png", 8: "/b.png", 9: "/b.png"}
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert "Killed); read last: /a.png; the system" in str(lost(killed, in_hand=in_hand))
    several = RuntimeError("DataLoader worker (pid(s) 8, 7) exited unexpectedly")
    assert "unexpectedly); read last: /b.png, /a.png; " in str(lost(several, in_hand=in_hand))
    assert "EOFError); read last: /a.png, /b.png; the system" in str(lost(EOFError(), in_hand=in_hand))
    stalled = RuntimeError("DataLoader timed out after 7 seconds")
    assert "7 seconds); read last: /a.png, /b.png; look" in str(lost(stalled, in_hand=in_hand))


def test_other_errors_are_none_of_it() -> None:
    assert lost(RuntimeError("CUDA out of memory")) is None


TOO_MUCH = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation for memory management")


@pytest.mark.parametrize(
    ("error", "quoted"),
    [
        (TOO_MUCH, "CUDA out of memory. Tried to allocate 2.00 GiB."),
        (MemoryError(), "MemoryError"),
        (
            MemoryError("Caught MemoryError in worker.\nOriginal Traceback:\n  x\nMemoryError: Unable to allocate 3 GiB\n"),
            "MemoryError: Unable to allocate 3 GiB",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "[enforce fail] Default"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "CUDA error: CUBLAS"),
    ],
)
def test_what_is_said_of_memory(error: Exception, quoted: str) -> None:
    assert out_of_memory(error, "go on").startswith(f"memory ran out ({quoted}")
    assert "\n" not in out_of_memory(error, "go on")


def test_other_errors_are_not_about_memory() -> None:
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "go on")


@pytest.mark.parametrize("error", [TOO_MUCH, MemoryError()], ids=["GPU", "machine"])
def test_memory_that_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    """In mid-run with the way on; without one where no run has been started."""
    data, out = make_folder(tmp_path / "data", train=4, labeled=2), tmp_path / "out"

    def fail(*_: Any) -> None:
        raise error

    advice = "; a run needs less with a smaller --batch, which --accumulate makes up for, or a smaller --crop"
    words = ["train", str(data), *TINY, "--out", str(out)]
    monkeypatch.setattr(TrainingModule, "training_step", fail)
    for more, end in (
        (["--dry-run"], advice),
        ([], f"{advice}; if something else took it, go on with protoseg train --resume {out}"),
    ):
        capfd.readouterr()
        assert main([*words, *more]) == 1
        (said,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("protoseg train: "))
        assert said.startswith("protoseg train: memory ran out (")
        assert said.endswith(end)


@pytest.mark.parametrize(
    ("command", "advice"),
    [("predict", "; --window 512 shows the network less"), ("evaluate", "; --window 512"), ("doctor", "; end what else takes")],
)
def test_memory_that_runs_out_in_other_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, advice: str
) -> None:
    def fail(words: list[str]) -> None:
        raise {"x": TOO_MUCH, "y": RuntimeError("two shapes do not fit")}[words[0]]

    monkeypatch.setattr(cli, f"_{command}", fail)
    assert main([command, "x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"protoseg {command}: memory ran out (CUDA out of memory.")
    assert said.count("\n") == 1
    assert advice in said
    with pytest.raises(RuntimeError, match="two shapes"):
        main([command, "y"])


def test_the_process_that_ended_is_named() -> None:
    with subprocess.Popen(["sleep", "60"]) as alive, subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as ended:
        ended.wait()
        said = str(lost(RuntimeError("gloo"), [alive, ended]))
        alive.kill()
    assert "process 3 of 3 has stopped with status 3" in said
