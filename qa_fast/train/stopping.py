"""Ending a run between two steps: Ctrl-C in one process stops all of its job, at the same step."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qa_fast.train.job import Job
from qa_fast.train.losses import BEHIND


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C (or SIGTERM) sets, so that a step is never cut in two; a second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopping:
    """Whether to stop, asked once a step by every process of a job.

    In a job the answers are added up by the devices and read some steps later, as losses are, so that nobody waits for
    anybody: all processes read the same sum at the same step, a few after the interrupt.

    Args:
        job: The processes.
        event: Of `interruptible`.
        behind: Steps after which an answer is read, in a job.
    """

    def __init__(self, job: Job, event: threading.Event, behind: int = BEHIND) -> None:
        self._job, self._event, self._behind = job, event, behind
        self._pending: deque[Any] = deque()

    def asked(self) -> bool:
        """After a step: whether all stop here."""
        self._pending.append(self._job.flag(self._event.is_set()))
        return self._read(self._behind if self._job.processes > 1 else 0)

    def asked_so_far(self) -> bool:
        """After the last step of an epoch: whether an interrupt is on its way still."""
        return self._read(0)

    def _read(self, keep: int) -> bool:
        stop = False
        while len(self._pending) > keep and not stop:
            stop = int(self._pending.popleft()) > 0
        return stop
