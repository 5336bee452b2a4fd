"""Several files at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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


def _usable_cpus() -> int:
    """Those that this process may run on: a cluster lends a few of a node's many."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
