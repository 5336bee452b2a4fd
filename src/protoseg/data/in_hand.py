"""Which file each worker reads, or has read last: where the system ends a worker, nothing else can tell."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

_LENGTH = 1024  # bytes of a note; of a longer path its end

_own: Any = None
"""The slot of this process, where it is a worker."""


class Slots:
    """One for each worker of a loader, in memory that it shares with this process: what stands there outlives the worker."""

    def __init__(self, workers: int) -> None:
        # Plain memory: a lock would be held for good by whoever is killed with it.
        self._shared = [multiprocessing.RawArray("c", _LENGTH) for _ in range(workers)]

    def take(self, worker: int) -> None:
        """Called in a worker: what it reads from now on is noted."""
        global _own
        _own = self._shared[worker]

    def read(self) -> dict[int, str]:
        """Number of a process -> the last file that it has begun to read."""
        notes = [os.fsdecode(slot.value).partition(" ") for slot in self._shared]
        return {int(pid): path for pid, _, path in notes if path}


def note(path: Path) -> None:
    """Say that this process reads a file from now on; nothing but a worker says it."""
    if _own is not None:
        pid = f"{os.getpid()} ".encode()
        _own.value = pid + os.fsencode(path)[len(pid) - _LENGTH :]
