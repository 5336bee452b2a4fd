"""Ctrl-C and SIGTERM: the run stops after its step, with a checkpoint of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder
from safetensors.torch import load_file

from protoseg.cli import main
from protoseg.engine.callbacks import Checkpoint
from protoseg.engine.datamodule import StreamModule
from protoseg.engine.resumable import load_state
from protoseg.engine.stop import Stop
from same_bits import differing, flat

WORDS = [*TINY, "--steps", "400", "--log-every", "1", "--consistency.warmup_steps", "2", "--no-evaluate"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("stop") / "data", train=4, labeled=2, test=1)


def wait_for_step(metrics: Path, process: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") > step:
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


TWO = ("--trainer.accelerator", "cpu", "--trainer.devices", "2")


@pytest.mark.parametrize(
    ("signum", "whom", "status", "more"),
    [
        pytest.param(signal.SIGINT, os.killpg, 130, (), id="Ctrl-C"),
        pytest.param(signal.SIGTERM, os.killpg, 143, (), id="SLURM"),
        pytest.param(signal.SIGTERM, os.kill, 143, (), id="kill"),
        pytest.param(signal.SIGTERM, os.kill, 143, TWO, id="kill the first of two", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, os.killpg, 130, TWO, id="Ctrl-C to two", marks=pytest.mark.slow),
    ],
)
def test_stops_with_a_checkpoint_of_its_step(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, signum: int, whom, status: int, more: tuple[str, ...]
) -> None:
    """No periodic checkpoint is near: the first one would be of step 400. A terminal and SLURM signal the workers too."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "protoseg.cli", "train", str(data), *WORDS, *more, "--workers", "2", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        wait_for_step(out / "metrics.csv", run, 3)
        whom(run.pid, signum)
        began = time.monotonic()
        _, message = run.communicate(timeout=120)
    assert run.returncode == status, message
    assert time.monotonic() - began < 60  # seconds where the machine is free
    assert message.splitlines()[-1] == f"stopped; go on with protoseg train --resume {out}"
    assert "Traceback" not in message
    rows = (out / "metrics.csv").read_text().splitlines()
    assert load_state(out / "last.ckpt")["global_step"] == len(rows) - 1
    assert 3 <= len(rows) - 1 < 400


def test_goes_on_exactly(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", str(data), *WORDS, "--steps", "8"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_step", asked_in_step(4))
        assert main([*words, "--out", str(tmp_path / "out")]) == 130
    assert load_state(tmp_path / "out/last.ckpt")["global_step"] == 4
    assert main(["train", "--resume", str(tmp_path / "out")]) == 0
    whole, resumed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "out"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def asked_in_step(number: int):  # type: ignore[no-untyped-def]
    """A `Checkpoint.on_step` before which the process sends itself Ctrl-C."""
    on_step = Checkpoint.on_step

    def ask(self: Checkpoint, trainer: Any, module: Any, step: int) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGINT)
        on_step(self, trainer, module, step)

    return ask


@pytest.mark.parametrize(
    ("warmup", "every", "left"),
    [(0, 400, {"last.ckpt": 0}), (3, 400, {"last.ckpt": 3}), (4, 2, {"last.ckpt": 4, "previous.ckpt": 2})],
)
def test_the_start_of_the_prototypes_does_not_have_to_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warmup: int, every: int, left: dict[str, int]
) -> None:
    """It reads every labelled image: minutes, between two steps. A checkpoint of the last one may be there, or be far away."""
    words = ["train", str(data), *TINY, "--steps", "8", "--log-every", "1", "--no-evaluate", "--checkpoint-every", str(every)]
    words += ["--consistency.warmup_steps", str(warmup)]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    labeled_pass, taken, out = StreamModule.labeled_pass, [0], tmp_path / "out"

    def ask(self: StreamModule, step: int) -> Iterator[dict[str, Any]]:
        assert step == warmup
        for batch in labeled_pass(self, step):
            taken[0] += 1
            if taken[0] == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(StreamModule, "labeled_pass", ask)
        assert main([*words, "--out", str(out)]) == 130
    assert taken[0] == 3
    assert {path.name: load_state(path)["global_step"] for path in out.glob("*.ckpt")} == left
    assert main(["train", "--resume", str(out)]) == 0
    states = [load_state(run / "last.ckpt") for run in (tmp_path / "whole", out)]
    assert differing(*(state["state_dict"] for state in states)) == []
    assert differing(*(flat(state["optimizer_states"]) for state in states)) == []
    assert differing(*(flat(state["lr_schedulers"]) for state in states)) == []
    assert (out / "health.jsonl").read_text() == (tmp_path / "whole/health.jsonl").read_text()


def test_scoring_does_not_have_to_end(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    out = tmp_path / "out"
    words = ["train", str(data), *TINY, "--steps", "6", "--evaluate-every", "4", "--checkpoint-every", "2", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("protoseg.stage.evaluate", score)
        assert main(words) == 143
    assert load_state(out / "last.ckpt")["global_step"] == 2
    assert main(["train", "--resume", str(out)]) == 0


class TestStop:
    def test_a_second_ctrl_c_does_not_wait(self, capfd: pytest.CaptureFixture[str]) -> None:
        stop = Stop()
        stop.watch()
        try:
            signal.raise_signal(signal.SIGINT)
            assert stop.agreed()
            assert "once more stops at once" in capfd.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        finally:
            stop.release()

    def test_beside_gpus_the_processes_wait_as_long_for_a_word_as_for_a_gradient(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first one scores meanwhile, which may take longer than torch would wait."""
        asked: dict[str, dict[str, Any]] = {}

        def strategy(**options: Any) -> None:
            asked["gradients"] = options
            raise RuntimeError("before any process starts")

        data = make_folder(tmp_path / "data")
        words = ["train", str(data), *TINY, *TWO, "--batch", "4", "--no-evaluate", "--out", str(tmp_path / "out")]
        with monkeypatch.context() as patch:
            patch.setattr("protoseg.engine.train.DDPStrategy", strategy)
            with pytest.raises(RuntimeError, match="before any"):
                main(words)
            patch.setattr("protoseg.engine.stop.processes", lambda: 2)
            patch.setattr("protoseg.engine.stop.dist.get_backend", lambda: "nccl")
            patch.setattr("protoseg.engine.stop.dist.new_group", lambda **options: asked.update(words=options))
            stop = Stop()
            stop.watch()
            stop.release()
        assert asked["words"]["backend"] == "gloo"
        assert asked["gradients"]["broadcast_buffers"] is False
        assert asked["words"]["timeout"] == asked["gradients"]["timeout"] >= timedelta(hours=12)

    def test_gives_signals_back(self) -> None:
        before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
        stop = Stop()
        stop.watch()
        stop.release()
        assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
        assert not stop.agreed()
