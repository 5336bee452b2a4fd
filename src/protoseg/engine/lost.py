"""What a run says when a process that it needs has died, another of its own or one that reads images, or memory ran out."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

import lightning as L
import torch
import torch.distributed as dist

from protoseg.words import shortened


class LostProcessError(RuntimeError):
    """A process has died or hangs, and the run cannot go on without it."""


UNREACHABLE = (ConnectionError, EOFError)
"""What is raised where a worker dies while it hands over a batch."""
_WORKER = (
    "a process that reads images has died ({}){}; the system ends processes where memory runs out, and fewer --workers need "
    "less of it"
)


def lost(
    error: Exception, started: Sequence[subprocess.Popen[bytes]] = (), *, in_hand: Mapping[int, str] | None = None
) -> LostProcessError | None:
    """What an error in training says of another process; None where it is about something else.

    Args:
        error: of PyTorch, or one of UNREACHABLE.
        started: the further processes of the run, where this one has started them.
        in_hand: number of each process that reads images -> the file that it has begun to read last.
    """
    text = " ".join(str(error).split())
    if text.startswith("DataLoader worker"):
        return LostProcessError(_WORKER.format(text.rstrip(". "), _files(text, in_hand or {})))
    if isinstance(error, UNREACHABLE):
        how = f"DataLoader worker: {text or type(error).__name__}"
        return LostProcessError(_WORKER.format(how, _files("", in_hand or {})))
    if text.startswith("DataLoader timed out"):
        last = _files("", in_hand or {})
        return LostProcessError(f"no image came from the data set any more ({text}){last}; look whether its drive answers")
    if isinstance(error, dist.DistError) or "gloo" in text:  # gloo's own are plain RuntimeErrors with the place in its source
        return LostProcessError(f"{_who(started)} ({text[:120]})")
    return None


class LastWord(L.Callback):
    """Leaves the time to say what has happened: Lightning looks every five seconds whether a process that it has started has
    died, and then kills this one without a word. Once an error is on its way, this one ends by itself."""

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                thread._child_processes = []  # type: ignore[attr-defined]  # it has nobody to look after any more


LESS_TO_TRAIN = "a run needs less with a smaller --batch, which --accumulate makes up for, or a smaller --crop"
LESS_TO_SEE = "--window 512 shows the network less of an image at a time, --batch 1 one window at a time"


def out_of_memory(error: BaseException, advice: str) -> str:
    """What an error says where memory ran out, of the machine or of a GPU, and what takes less of it; empty where it is about
    something else."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[-1 if "Traceback" in str(error) else 0]  # a DataLoader hands on what happened in a worker as its traceback
    if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in said for words in _NO_MEMORY)):
        return ""
    return f"memory ran out ({shortened(said, 120)}); {advice}"


_NO_MEMORY = ("out of memory", "can't allocate memory", "_ALLOC_FAILED")
"""In errors of a GPU's driver, of torch on a CPU, and of cuBLAS and cuDNN, which have no type of their own."""


def _files(text: str, in_hand: Mapping[int, str]) -> str:
    """What the processes have read last that a message names by their numbers; what all have, where it names none."""
    named = [in_hand[pid] for pid in map(int, re.findall(r"\d+", text)) if pid in in_hand]
    last = list(dict.fromkeys(named or in_hand.values()))
    return f"; read last: {', '.join(last)}" if last else ""


def _who(started: Sequence[subprocess.Popen[bytes]]) -> str:
    time.sleep(0.2)  # a process closes its connections before it counts as ended
    ended = [(rank, code) for rank, process in enumerate(started, 1) if (code := process.poll()) is not None]
    if not ended:
        return "another process of this run has died or is out of reach"
    rank, code = ended[0]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has stopped with status {code}"
    return f"process {rank + 1} of {len(started) + 1} {how}"
