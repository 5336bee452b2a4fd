"""Ctrl-C and SIGTERM end training after the step that it is in, so that a checkpoint of that step can be written."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from protoseg.engine.health import processes

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAIT = timedelta(days=1)
"""How long the processes of a run wait for one another. The first one scores while the others wait for it: that may take longer
than half an hour, which is how long torch waits by itself."""


class AskedError(Exception):
    """The run has been asked to end, and all its processes are between two steps: as a checkpoint of the last one has it."""


class Stop:
    """Whether this run, in any of its processes, has been asked to end.

    Attributes:
        signum: of the signal that asked; 0 for none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._at_once = False
        self._before: dict[int, Any] = {}
        self._group: Any = None  # of all processes; None for the one that is there anyway

    def watch(self) -> None:
        """Note signals from here on, instead of what they did before. Every process has to call it."""
        if processes() > 1 and dist.get_backend() != "gloo":
            # On the host: a word between GPUs would have to be waited for.
            self._group = dist.new_group(backend="gloo", timeout=WAIT)
        if threading.current_thread() is threading.main_thread():  # Python lets no other one do this
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}

    def release(self) -> None:
        """Leave signals to who had them."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def agreed(self) -> bool:
        """Whether any process was asked: all stop after the same step. Every process has to call it after each step."""
        if processes() > 1:
            asked = torch.tensor(self.signum)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self._group)
            self.signum = int(asked)
        return self.signum != 0

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What takes minutes, and can be done again: a signal does not wait for its end.

        Raises:
            KeyboardInterrupt: as soon as the process is asked, or where it has been.
        """
        self._at_once = True
        try:
            if self.signum:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def between_steps(self, parts: Iterable[T]) -> Iterator[T]:
        """What takes minutes before a step, part by part, and leaves nothing behind when it ends early. Every process has to
        go through the same number of parts.

        Raises:
            AskedError: any process was asked.
        """
        for part in parts:
            if self.agreed():
                raise AskedError
            yield part

    def _note(self, signum: int, frame: Any) -> None:
        impatient = signum == self.signum == signal.SIGINT
        self.signum = signum
        if self._at_once or impatient:
            raise KeyboardInterrupt
        os.write(2, b"\nstopping after this step; Ctrl-C once more stops at once\n")  # print is not safe in here
