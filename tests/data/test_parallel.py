"""Several files at a time, read ahead or written behind: answers stay in order, no fault is lost, progress sees every item."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing

import pytest

from protoseg.data.parallel import WriteBehind, in_threads, read_ahead


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


def assert_becomes(found: list[int], expected: list[int]) -> None:
    """And stays: nothing more comes soon after."""
    end = time.monotonic() + 60
    while found != expected and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert found == expected


class TestReadAhead:
    def test_in_order(self) -> None:
        assert list(read_ahead(lambda item: item * 2, range(7))) == [0, 2, 4, 6, 8, 10, 12]
        assert list(read_ahead(lambda item: item, [])) == []

    def test_the_next_few_are_read_while_one_is_used(self) -> None:
        begun = list[int]()

        def read(item: int) -> int:
            begun.append(item)
            return item

        with closing(read_ahead(read, range(9), most=2)) as items:
            assert next(items) == 0
            assert_becomes(begun, [0, 1, 2])  # though nobody has asked for them

    def test_what_takes_much_memory_is_read_alone(self) -> None:
        begun = list[int]()

        def read(item: int) -> int:
            begun.append(item)
            return item

        with closing(read_ahead(read, [0, 1, 50, 2, 3], alone=lambda item: item > 9)) as items:
            for expected in ([0, 1], [0, 1], [0, 1, 50], [0, 1, 50, 2, 3], [0, 1, 50, 2, 3]):
                next(items)
                assert_becomes(begun, expected)

    def test_an_error_is_raised_when_its_item_is_due(self) -> None:
        items = read_ahead(lambda item: 1 // item, [1, 1, 0, 1])
        assert [next(items), next(items)] == [1, 1]
        with pytest.raises(ZeroDivisionError):
            next(items)

    def test_its_thread_ends_with_it(self) -> None:
        before = threading.active_count()
        with closing(read_ahead(lambda item: item, range(100))) as items:
            next(items)
        assert threading.active_count() == before


class TestWriteBehind:
    def test_in_order_and_all_done_at_the_end(self) -> None:
        done = list[int]()
        with WriteBehind() as behind:
            for i in range(5):
                behind(done.append, i)
        assert done == [0, 1, 2, 3, 4]

    def test_the_caller_goes_on_until_a_few_wait(self) -> None:
        gate, sixth = threading.Event(), threading.Event()

        def ask() -> None:
            with WriteBehind(most=2) as behind:
                behind(gate.wait)
                behind(lambda: None)
                asked.set()
                behind(lambda: None)
                sixth.set()

        asked = threading.Event()
        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(60)
        assert not sixth.wait(0.2)
        gate.set()
        assert sixth.wait(60)
        thread.join()

    def test_an_error_is_carried_over(self) -> None:
        with pytest.raises(OSError, match="disk is full"), WriteBehind() as behind:
            behind(self.fail)
        done = list[int]()

        def fail_then_go_on() -> None:
            with WriteBehind(most=1) as behind:
                behind(self.fail)
                behind(done.append, 1)

        with pytest.raises(OSError, match="disk is full"):
            fail_then_go_on()
        assert not done

    @staticmethod
    def fail() -> None:
        raise OSError("disk is full")

    def test_after_ctrl_c_what_has_begun_ends_and_the_rest_is_dropped(self) -> None:
        done, begun = list[str](), threading.Event()

        def slow() -> None:
            begun.set()
            time.sleep(0.2)
            done.append("begun")

        def interrupted() -> None:
            with WriteBehind() as behind:
                behind(slow)
                behind(done.append, "dropped")
                begun.wait(60)
                raise KeyboardInterrupt

        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert done == ["begun"]
        assert threading.active_count() == before
