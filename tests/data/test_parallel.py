"""Reading ahead and writing behind: in order, few at a time, and no error is lost."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from protoseg.data.parallel import WriteBehind, read_ahead


class TestReadAhead:
    def test_in_order(self) -> None:
        assert list(read_ahead(lambda item: item * 2, range(7))) == [0, 2, 4, 6, 8, 10, 12]
        assert list(read_ahead(lambda item: item, [])) == []

    def test_the_next_few_are_read_while_one_is_used(self) -> None:
        begun, second = list[int](), threading.Event()

        def read(item: int) -> int:
            begun.append(item)
            if item == 2:
                second.set()
            return item

        with closing(read_ahead(read, range(9), most=2)) as items:
            assert next(items) == 0
            assert second.wait(60)  # though nobody has asked for it
            time.sleep(0.1)
            assert begun == [0, 1, 2]  # and no more than two

    def test_what_takes_much_memory_is_read_alone(self) -> None:
        begun = list[int]()

        def read(item: int) -> int:
            begun.append(item)
            return item

        with closing(read_ahead(read, [0, 1, 50, 2, 3], alone=lambda item: item > 9)) as items:
            for expected in ([0, 1], [0, 1], [0, 1, 50], [0, 1, 50, 2, 3], [0, 1, 50, 2, 3]):
                next(items)
                time.sleep(0.1)
                assert begun == expected

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
