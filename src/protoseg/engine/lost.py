"""What a run says when a process that it needs has died: another of its own, or one that reads images."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

import torch.distributed as dist


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
