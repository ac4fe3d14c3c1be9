"""Threads that keep the order of their results."""

from __future__ import annotations

import threading
import time

import pytest

from qa_fast.parallel import Ahead, in_order


def assert_no_threads_left() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qa-fast")]


def test_ahead_gives_every_item_in_order_and_the_error_in_its_place() -> None:
    def items():
        yield 1
        yield 2
        raise ValueError("third")

    assert list(Ahead(iter(range(100)))) == list(range(100))
    stream = Ahead(iter(range(3)), depth=2)
    assert list(stream) == [0, 1, 2]
    assert list(stream) == []  # an iterator that has ended stays so
    stream = Ahead(items())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(stream)
    stream.close()
    assert_no_threads_left()


def test_ahead_makes_one_item_while_another_is_used() -> None:
    made = threading.Event()

    def items():
        yield "first"
        made.set()
        yield "second"

    stream = Ahead(items())
    assert next(stream) == "first"
    assert made.wait(5)
    stream.close()
    assert_no_threads_left()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))  # later items finish earlier
        return item * item

    assert list(in_order(work, iter(range(40)), workers)) == [item * item for item in range(40)]
    assert list(in_order(work, iter(()), workers)) == []
    assert_no_threads_left()


def test_several_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2, timeout=60)
    assert list(in_order(lambda item: both.wait() * 0 + item, iter(range(4)), 2)) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_in_its_place(workers: int) -> None:
    def work(item: int) -> int:
        if item == 7:
            raise ValueError("item 7")
        return item

    def items():
        yield from range(12)
        raise OSError("no more")

    results = in_order(work, items(), workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="item 7"):
        next(results)
    with pytest.raises(OSError, match="no more"):
        list(in_order(lambda item: item, items(), workers))
    assert_no_threads_left()


def test_items_are_read_a_few_ahead_and_no_thread_outlives_the_consumer() -> None:
    read = []

    def items():
        for item in range(1000):
            read.append(item)
            yield item

    results = in_order(lambda item: item, items(), 2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(read) <= 7
    results.close()
    assert_no_threads_left()
