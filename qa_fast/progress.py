"""What a build says of itself while it runs: lines, examples done, and where the time goes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Reporter:
    """Where a build says what it does: a line, or so many more examples of a split done, of a total if it is known."""

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int | None], None] | None = None


class StageClock:
    """Adds up wall time by stage, of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time within to the stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - begun
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + took

    def each(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items, the time to make each one counted to the stage."""
        while True:
            with self(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def on_stderr(line: str) -> None:
    """Say a line on standard error: the default of functions that Python users call."""
    print(line, file=sys.stderr, flush=True)
