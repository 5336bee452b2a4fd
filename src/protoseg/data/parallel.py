"""Several files at a time."""

from __future__ import annotations

import os
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
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [result for _, result in zip(track(items), pool.map(look, items), strict=True)]
