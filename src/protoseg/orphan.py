"""A process that the first one of a run has started ends soon after that one, whatever it waits for.

Where the first one is killed, the others get an error from the connection to it, say so and end. But on the way out they may
wait for a GPU that waits for the first one's: for a day, with the memory of that GPU.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from protoseg.settings import RUN_FOLDER

STARTED_BY = "PROTOSEG_STARTED_BY"
"""Variable that holds the number of the process that has started this one. What torchrun or SLURM starts has none: they look
after it themselves."""
_GRACE = 10  # seconds in which a process may end by itself, with its own message


@contextmanager
def ends_with_the_first() -> Iterator[None]:
    """Around a whole training, as a decorator: the processes that this one starts end with it; one that was started watches.

    One that goes through to the end is left alone: a script may have more to do. After an exception the watch goes on, because
    the wait may come when Python itself is about to end. On Windows, which does not say whether a parent has gone, nothing
    watches.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        os.environ[STARTED_BY] = str(os.getpid())
        try:
            yield
        finally:
            os.environ.pop(STARTED_BY, None)
    elif STARTED_BY in os.environ and sys.platform != "win32":
        parent = _Parent(int(os.environ[STARTED_BY]))
        ended = threading.Event()
        threading.Thread(target=_watch, args=(parent, ended), name="protoseg-orphan", daemon=True).start()
        try:
            yield
        except BaseException:
            if parent.has_gone():  # the thread may not come to see it any more: Python stops it before it ends itself
                _end_later()
            raise
        ended.set()
    else:
        yield


class _Parent:
    """Who has started this process.

    Args:
        started_by: its number.
    """

    def __init__(self, started_by: int) -> None:
        self.pid = os.getppid()
        # Another number: it has died already, or something between the two (a debugger) has started this one for it.
        self.was_gone = self.pid != started_by and not _exists(started_by)

    def has_gone(self) -> bool:
        return self.was_gone or os.getppid() != self.pid  # an orphan gets another parent


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _watch(parent: _Parent, ended: threading.Event) -> None:
    run = os.environ.get(RUN_FOLDER)
    while not ended.wait(1):
        if parent.has_gone():
            break
    else:
        return
    _end_later()
    if ended.wait(_GRACE):
        signal.alarm(0)
        return
    how = f"; go on with protoseg train --resume {run}" if run else ""
    text = f"protoseg train: another process of this run has died, the first one, and this one still waits for it{how}\n"
    os.write(2, text.encode(errors="replace"))  # the main thread may hold the lock of sys.stderr
    os._exit(1)  # nothing less gets past a main thread that waits; only the first process writes files


def _end_later() -> None:
    """Have the system end this process, which it does where Python runs no thread any more."""
    signal.alarm(_GRACE + 2)
