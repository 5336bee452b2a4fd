"""Several files at a time."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    look: Callable[[Item], Result], items: Sequence[Item], *, track: Callable[[Sequence[Item]], Iterable[Item]] = iter
) -> list[Result]:
    """What a function says about each item, in their order. Threads are enough: decoding leaves Python's lock.

    Args:
        look: reads one file or a few.
        items: to look at.
        track: wraps the items, to show progress.
    """
    with ThreadPoolExecutor(_usable_cpus()) as pool:
        return [result for _, result in zip(track(items), pool.map(look, items), strict=True)]


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, most: int = 2, alone: Callable[[Item], bool] = lambda item: False
) -> Generator[Result, None, None]:
    """What a function returns for each item, in their order; while one is used, the next few are read in a thread.

    Args:
        read: what it raises is raised when its item is due.
        items: to read.
        most: that are read and wait.
        alone: whether an item takes so much memory that no other is read while it is used.
    """
    rest, waiting = deque(items), deque[tuple[Item, Future[Result]]]()
    pool = ThreadPoolExecutor(1)
    try:
        while rest or waiting:
            if not waiting:
                waiting.append((rest[0], pool.submit(read, rest.popleft())))
            item, reading = waiting.popleft()
            result = reading.result()
            while rest and len(waiting) < most and not alone(item) and not alone(rest[0]):
                waiting.append((rest[0], pool.submit(read, rest.popleft())))
            yield result
            del result, reading  # or the image would be held while the next one is read
    finally:
        pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Calls a function in a thread, in the order in which it was asked to, while the caller goes on.

    What a call raises is raised by a later one, or at the end. After another error, or Ctrl-C, calls that have not begun are
    dropped; one that has begun ends first, so that no file is left half.

    Args:
        most: calls that wait; whoever asks for one more waits for the first of them.
    """

    def __init__(self, *, most: int = 2) -> None:
        self.most, self.waiting, self.pool = most, deque[Future[None]](), ThreadPoolExecutor(1)

    def __enter__(self) -> WriteBehind:
        return self

    def __call__(self, write: Callable[..., None], *given: Any) -> None:
        self.wait(most=self.most - 1)
        self.waiting.append(self.pool.submit(write, *given))

    def wait(self, *, most: int = 0) -> None:
        """Until no more than so many calls are left."""
        while len(self.waiting) > most:
            self.waiting.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self.pool.shutdown(cancel_futures=True)


def _usable_cpus() -> int:
    """Those that this process may run on: a cluster lends a few of a node's many."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
