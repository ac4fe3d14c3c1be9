"""Reports of a long task while it runs: messages, progress, and the time of its stages."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from qa_fast.errors import without_secrets

Item = TypeVar("Item")


@dataclass(frozen=True)
class Reporter:
    """Receives the reports of a build.

    Attributes:
        say: Called with each message.
        progress: Called with a split, the number of examples finished since the last call, and the total if known.
    """

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int | None], None] | None = None

    def __post_init__(self) -> None:
        say = self.say
        object.__setattr__(self, "say", lambda line: say(without_secrets(line)))


class StageClock:
    """Adds up the wall time of each stage over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the context to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed

    def each(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yield items, and add the time to make each of them to a stage."""
        while True:
            with self(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


class Log:
    """Reports a long task to a log: every half minute a line with its latest note and the time since its start.

    A thread writes the lines, so that they also appear while nothing new is noted. Use it in a `with`.

    Args:
        say: Receives the lines.
        seconds: Time between lines.

    Examples:
        >>> with Log(print) as log:
        ...     log.note("train: 12,000 of 88,524 examples")
    """

    def __init__(self, say: Callable[[str], None], seconds: float = 30.0) -> None:
        self._say, self._seconds, self._note = say, seconds, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def note(self, text: str) -> None:
        """Replace the text of the next line. There is no line before the first note."""
        self._note = text

    def _write(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(self._seconds):
            if self._note:
                self._say(f"{self._note} ({clock(time.monotonic() - started)} since the start)")

    def __enter__(self) -> Log:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def clock(seconds: float) -> str:
    """Return a duration as "4:07" or "1:04:07"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def on_stderr(line: str) -> None:
    """Print a message on standard error: the default of functions for Python users."""
    print(without_secrets(line), file=sys.stderr, flush=True)
