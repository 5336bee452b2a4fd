"""Several files at a time: the answers stay in order, a fault is not lost, and progress sees every item."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence

import pytest

from protoseg.data.parallel import in_threads


@pytest.fixture(autouse=True)
def _four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


def test_no_more_threads_than_processors_that_may_be_used() -> None:
    """A cluster lends a few of a node's 64."""
    running, most = list[int](), list[int]()

    def look(item: int) -> None:
        running.append(item)
        time.sleep(0.02)
        most.append(len(running))
        running.remove(item)

    in_threads(look, range(16))
    assert max(most) <= 4


def test_answers_are_in_the_order_of_the_items_whichever_comes_first() -> None:
    def slowest_first(item: int) -> int:
        time.sleep(0.02 * (4 - item))
        return item**2

    assert in_threads(slowest_first, range(4)) == [0, 1, 4, 9]
    assert in_threads(slowest_first, ()) == []


def test_they_are_looked_at_together() -> None:
    together = threading.Barrier(4)
    assert len(set(in_threads(lambda _: together.wait(timeout=10), range(4)))) == 4


def test_a_fault_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 / item, [1, 0, 1])


def test_progress_sees_every_item() -> None:
    seen = list[int]()

    def track(items: Sequence[int]) -> Iterable[int]:
        for item in items:
            yield item
            seen.append(item)

    assert in_threads(str, range(5), track=track) == ["0", "1", "2", "3", "4"]
    assert seen == [0, 1, 2, 3, 4]
