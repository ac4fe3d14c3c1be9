"""Threads: one item ahead of its use, and work spread over several while the results keep their order.

Both pay where the work releases the GIL, as kernels, Arrow, files and checksums do.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()
_THREADS = "qa-fast"
# Items beside those being worked on: read, or done and not taken yet; so that no thread waits for another's end.
_WAITING = 2


def processors() -> int:
    """How many this process may use: those it is bound to, or fewer where QA_FAST_PROCESSORS says so."""
    said = os.environ.get("QA_FAST_PROCESSORS", "")
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Ahead(Iterator[Item], Generic[Item]):
    """The items of an iterator, each made in another thread while the one before it is in use; the first at once.

    A few items wait at most, so memory stays bounded. An error in making an item is raised where that item would come.
    Whoever stops early must call `close`, which leaves no thread behind.

    Args:
        items: Its `next` is called by one other thread at a time.
        depth: How many items may wait.
    """

    def __init__(self, items: Iterator[Item], depth: int = 1) -> None:
        self._items, self._pool = items, ThreadPoolExecutor(1, _THREADS)
        self._coming = deque(self._pool.submit(next, items, _END) for _ in range(depth))

    def __next__(self) -> Item:
        item: Item = self._coming[0].result()
        if item is _END:
            self.close()
            raise StopIteration
        self._coming.popleft()
        self._coming.append(self._pool.submit(next, self._items, _END))
        return item

    def close(self) -> None:
        """Wait for the item that is being made, and make no more; it is not to be asked for another."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def in_order(work: Callable[[Item], Result], items: Iterator[Item], workers: int) -> Iterator[Result]:
    """The results of the work on each item, in the items' order.

    A few items more than `workers` are on their way at any time, so memory stays bounded. An error is raised where its
    result would come; a consumer that stops early leaves no thread behind.

    Args:
        work: Called by several threads at once.
        items: Its `next` is called by one other thread at a time; with one worker by this one.
        workers: Threads for the work; one reads the items beside them. With one worker there is no thread but this.
    """
    if workers == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers, _THREADS)
    try:
        with closing(items if isinstance(items, Ahead) else Ahead(items)) as coming:
            under_way: deque[Future[Result]] = deque()
            failed: Exception | None = None
            while failed is None:
                try:
                    under_way.append(pool.submit(work, next(coming)))
                except StopIteration:
                    break
                except Exception as error:  # in reading; what was read before comes first
                    failed = error
                if len(under_way) > workers + _WAITING:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
            if failed is not None:
                raise failed
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
