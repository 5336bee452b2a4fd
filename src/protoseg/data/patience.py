"""Reading from a drive that is away for a while: it answers with an error that passes, or not at all."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from protoseg.data.io import UnreadableImageError

T = TypeVar("T")

_NAMES = (
    *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EREMOTEIO"),
    *("ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
    *("ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),  # those of drives by FUSE: sshfs, s3fs, gcsfuse
)
_PASSING = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}  # no platform has them all
"""What a network drive answers while it is away for a moment."""
_PAUSES = (1, 10, 60)  # seconds before a file is tried again

_WAITS = (60.0, 240.0)
"""Seconds without an answer after which a file is asked for once more, and after which its drive is taken for lost. Linux
itself asks a silent file server again after 60 seconds; and two files in a row end before a DataLoader gives up."""


class AwayError(UnreadableImageError):
    """A file that its drive does not give now, and may give later; the message names it."""


def patiently(read: Callable[[], T], what: object) -> T:
    """What a function reads from a file, read again where its drive is away; any other error is final.

    Args:
        read: reads the same each time. It is called in another thread, because one that waits for a drive cannot be called off.
        what: it reads, for the message.

    Raises:
        AwayError: the drive gave errors to the last try, or no answer.
    """
    pauses = iter(_PAUSES)
    while True:
        try:
            return _answer(read, what)
        except (UnreadableImageError, OSError) as error:
            passing = _passing(error)
            if passing is None:
                raise
            pause = next(pauses, None)
            if pause is None:
                tries = f"{passing.strerror}, {1 + len(_PAUSES)} times"
                raise AwayError(f"{what} cannot be read ({tries}); look whether its drive is there") from error
        time.sleep(pause)


def is_passing(error: OSError) -> bool:
    """Whether a drive answers so while it is away for a moment."""
    return error.errno in _PASSING


def _passing(error: BaseException | None) -> OSError | None:
    """The error of a drive that is away, from which another comes."""
    while error is not None:
        if isinstance(error, OSError) and is_passing(error):
            return error
        error = error.__cause__
    return None


class _Answer(NamedTuple):
    value: Any
    error: BaseException | None = None


def _answer(read: Callable[[], T], what: object) -> T:
    """The first answer to some calls of a function, made one after the other while none answers."""
    answers, asked = SimpleQueue[_Answer](), list[_Reader]()
    answer = None
    for seconds in _WAITS:
        asked.append(_free_reader())
        asked[-1].tasks.put((read, answers))
        try:
            answer = answers.get(timeout=seconds)
            break
        except Empty:
            continue
        except BaseException:  # Ctrl-C
            _dismiss(asked)
            raise
    if answer is not None and len(asked) == 1:
        _free.append(asked[0])
    else:
        _dismiss(asked)
    if answer is None:
        raise AwayError(f"{what} cannot be read (no answer for {sum(_WAITS):g} seconds); look whether its drive is there")
    if answer.error is not None:
        raise answer.error
    return answer.value  # type: ignore[no-any-return]


class _Reader:
    """A thread that reads one file after the other. It ends with the process, whatever it waits for.

    One thread for many files, because handing it a file takes less time than starting another.
    """

    def __init__(self) -> None:
        self.tasks = SimpleQueue[tuple[Callable[[], Any], SimpleQueue[_Answer]] | None]()
        threading.Thread(target=self._work, name="protoseg reader", daemon=True).start()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            read, answers = task
            answers.put(_try(read))
            del task, read, answers  # or the image would be held until the next one


def _try(read: Callable[[], Any]) -> _Answer:
    try:
        return _Answer(read())
    except BaseException as error:  # of which the caller knows what to make
        return _Answer(None, error)


_free = list[_Reader]()
"""Those that wait for a file: one for each thread that reads at the same time."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free.clear)  # a new process has none of the threads


def _free_reader() -> _Reader:
    try:
        return _free.pop()
    except IndexError:
        return _Reader()


def _dismiss(readers: list[_Reader]) -> None:
    """Let readers end: those that still wait for a drive do it when it answers."""
    for reader in readers:
        reader.tasks.put(None)
