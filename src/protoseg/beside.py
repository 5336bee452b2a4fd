"""The labels-only model of a run, trained in a process of its own beside the other one: two small trainings with half of a
CPU's threads each end sooner than one after the other with all of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console

from protoseg.engine.lost import LostProcessError
from protoseg.launch import num_processes
from protoseg.methods.base import Method
from protoseg.report.gather import BASELINE, RESULT
from protoseg.settings import TrainConfig
from protoseg.stage import stored_json, uses_cuda

_PATIENCE = 60  # seconds that a training asked to stop may take for its step and its checkpoint


def trains_beside(config: TrainConfig, method: Method) -> bool:
    """Whether the labels-only model of a run gets a process of its own: on a CPU that gives torch two threads or more, unless
    the run trains several models one after the other, or in several processes. The same for a run that goes on: the number of
    threads decides how sums are rounded."""
    device = config.trainer.get("accelerator", "auto")
    alone = num_processes(config.trainer) == 1 and not method.needs_labeler
    on_cpu = not uses_cuda(config) and (device == "cpu" or (device == "auto" and not torch.backends.mps.is_available()))
    return config.baseline and method.uses_unlabeled and alone and on_cpu and torch.get_num_threads() > 1


@contextmanager
def labels_only_beside(config: TrainConfig, out: Path, console: Console) -> Iterator[Callable[[], dict[str, Any]]]:
    """Train the labels-only model of a run elsewhere, for as long as this lasts, and leave half of the threads to it.

    Args:
        config: of the run; resolved, and written into its folder.
        out: run folder, held by this process.
        console: for what the other process says: warnings alone where this one shows a progress bar.

    Yields:
        What waits for its end and returns its result. Raises LostProcessError where it has failed, and can be gone on with.
    """
    if (out / BASELINE / RESULT).is_file():
        with _half_of_the_threads():
            yield lambda: stored_json(out / BASELINE / RESULT)
        return
    with _half_of_the_threads() as threads:
        words = ["--workers", str(config.workers), "--checkpoint-every", str(config.checkpoint_every)]
        for name, value in (("--logger", config.logger), ("--cache", config.cache)):
            words += [name, value] if value else []
        quiet = ["--quiet"] if console.is_terminal or console.quiet else []
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "protoseg.labels_only", str(out), str(threads), *quiet, *words],
            stdin=subprocess.PIPE,  # it ends as soon as this is closed, whatever closes it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is this process's, which tells it
        )
        said, ending = list[str](), threading.Event()
        reader = threading.Thread(target=_pass_on, args=(process.stdout, console, said, ending), daemon=True)
        reader.start()

        def result() -> dict[str, Any]:
            with console.status("waiting for the labels-only model"):
                status = process.wait()
            reader.join()
            if status:
                last = said[-1] if said else "it said nothing"
                raise LostProcessError(f"training on labels only, beside this one, ended with status {status}: {last}")
            return stored_json(out / BASELINE / RESULT)

        try:
            yield result
        finally:
            ending.set()
            _end(process)
            reader.join()


@contextmanager
def _half_of_the_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(before // 2)
    try:
        yield before // 2
    finally:
        torch.set_num_threads(before)


def _pass_on(lines: IO[str], console: Console, said: list[str], ending: threading.Event) -> None:
    """Print what the other process prints: above the progress bar, where there is one; not how it ends when it is told to."""
    for line in lines:
        if line.strip() and not ending.is_set():
            said.append(line.rstrip())
            console.print(said[-1], highlight=False)


def _end(process: subprocess.Popen[str]) -> None:
    """Have it write a checkpoint and end, or end at once where that takes too long or this process is not let wait."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
