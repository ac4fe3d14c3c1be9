"""Stopping a run between two steps: Ctrl-C in one process stops all processes of its job, at the same step."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qa_fast import signals
from qa_fast.train.job import Job
from qa_fast.train.losses import BEHIND


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM or SIGHUP sets, so that no step is cut in two; a second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    heard = [number for number in signals.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        with signals.Patient():
            yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopping:
    """Decides after each step whether all processes of a job stop.

    The devices of a job add the requests up, and the sum is read a few steps later, as losses are, so that no process
    waits for another. All processes read the same sum at the same step, a few steps after the interrupt.

    Args:
        job: The processes.
        event: What `interruptible` yields.
        behind: Number of steps after which a sum is read, in a job.
    """

    def __init__(self, job: Job, event: threading.Event, behind: int = BEHIND) -> None:
        self._job, self._event = job, event
        self._behind = behind if job.processes > 1 else 0
        self._pending: deque[Any] = deque()

    def requested(self, *, last: bool = False) -> bool:
        """Return whether all processes stop here.

        Args:
            last: False once after each step; True after the last step of an epoch, to read the sums that are pending.
        """
        if not last:
            self._pending.append(self._job.flag(self._event.is_set()))
        keep = 0 if last else self._behind
        while len(self._pending) > keep:
            if int(self._pending.popleft()) > 0:
                return True
        return False
