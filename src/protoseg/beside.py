"""The labels-only model of a run, trained in a process of its own beside the other one: two small trainings with half of a
CPU's threads each end sooner than one after the other with all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from protoseg.arguments import resume_words
from protoseg.engine.lost import LostProcessError
from protoseg.launch import num_processes
from protoseg.methods.base import Method
from protoseg.report.gather import BASELINE, RESULT
from protoseg.settings import TrainConfig
from protoseg.stage import stored_json, uses_cuda

_TAIL = 5  # of its last lines say why it has failed
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
    with _half_of_the_threads() as threads:
        if any((out / name).is_file() for name in (RESULT, f"{BASELINE}/{RESULT}")):
            yield lambda: stored_json(out / BASELINE / RESULT)
            return
        quiet = ["--quiet"] if console.is_terminal or console.quiet else []
        words = [str(out), str(threads), str(os.getpid()), *quiet, *resume_words(config)]
        process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "protoseg.labels_only", *words],  # not what lies in the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is this process's, which tells it
        )
        said, ending = deque[str](maxlen=_TAIL), threading.Event()
        reader = threading.Thread(target=_pass_on, args=(process, console, said, ending), daemon=True)
        reader.start()

        def result() -> dict[str, Any]:
            with console.status("waiting for the labels-only model"):
                status = process.wait()
            reader.join(_PATIENCE)
            if status:
                raise LostProcessError(_how_it_ended(status, said))
            return stored_json(out / BASELINE / RESULT)

        try:
            yield result
        finally:
            ending.set()
            _end(process)
            reader.join(_PATIENCE)


@contextmanager
def _half_of_the_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(before // 2)
    try:
        yield before // 2
    finally:
        torch.set_num_threads(before)


def _pass_on(process: subprocess.Popen[str], console: Console, said: deque[str], ending: threading.Event) -> None:
    """Print what the other process prints, above the progress bar where there is one; not how it ends when it is told to."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() and not ending.is_set():
            said.append(line.rstrip())
            try:
                console.print(said[-1], highlight=False, markup=False)
            except (OSError, ValueError):  # nobody reads it, or it cannot be written there: no reason to let the other one wait
                continue
    status = process.wait()
    if status and not ending.is_set():
        console.print(f"warning: {_how_it_ended(status, said)}; this one goes on to its end", highlight=False, markup=False)


def _how_it_ended(status: int, said: Iterable[str]) -> str:
    return f"training on labels only, beside this one, has ended with status {status}: {' | '.join(said) or 'it said nothing'}"


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
        if process.poll() is None:
            process.kill()
            process.wait()
