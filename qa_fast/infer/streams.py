"""Compute one window at a time, each at its own length, in one single-threaded stream for each core.

On a CPU a large batch has no advantage and leaves the caches: a single window is not padded to the length of others,
and cores need not wait for each other. Windows of all callers go to the same threads in order of arrival. A caller has
only a few windows there at a time, so that a long document does not block others. A call with many windows is not in a
hurry: an engine that gains from it gets them sorted by length, a few in each batch.

The only window of a call is computed with all cores if no other call is under way. This takes a function of its own,
which is made once it has a use: libraries arrange weights for it in memory a second time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.infer.engine import Floats, Prediction
from qa_fast.infer.shapes import blank
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.parallel import never_destroy, renew_after_fork
from qa_fast.schema import Features, Int64s

# Maps names to int64[1, L]: ids, and types if the model has them.
Inputs = dict[str, Int64s]
# Takes one or, where the engine wants batches, several windows as arguments. The result is start and end logits,
# float32[B, L]; L is at least the length of the longest window.
Compute = Callable[..., tuple[Floats, Floats]]
# Makes the function for a number of windows at a time, and for a number of threads that each window is computed in.
Maker = Callable[[int, int], Compute]
Opener = Callable[[], Maker]
# Batches of one call that wait or run, per stream.
_AHEAD = 2
# Windows that are returned together, to save calls of the decoder.
_TOGETHER = 16
# Windows of a call, per stream, from which on they may be computed in batches. Portions of `serve` rarely have as many.
_MANY = 32
# Single windows after which it pays to make the function that computes one with all cores.
_LONE_WINDOWS = 16
# Single windows that are computed so before it is used again after calls overlapped: under load, a call may be the only
# one for a moment, and would take all cores from the next.
_LONE_AGAIN = 4
# With more threads than this, waiting for each other costs a window more than they gain.
_MOST_THREADS = 8
# Bytes of the largest weights that are held a second time for it. A base model in float32 has 0.4 GB, a large one 1.3.
_MOST_BYTES = 500_000_000


def size_of(graph: Path) -> int:
    """Return the bytes of a graph's file and of the files beside it, which hold its weights."""
    return sum(path.stat().st_size for path in graph.parent.iterdir())


def window_of(chunk: Features, row: int, takes_types: bool) -> Inputs:
    """Return the inputs of a graph without padding for one feature."""
    ids = chunk.input_ids[row].astype(np.int64)[None]
    if not takes_types:
        return {"input_ids": ids}
    types = chunk.token_type_ids
    return {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids) if types is None else types[row].astype(np.int64)[None],
    }


class Streams:
    """An `Engine` around functions that compute one window, and may be called from several threads.

    A forked process opens the graph anew when it first predicts, and so does a process that receives a pickle.

    Args:
        name: The engine's name.
        precision: Precision of its products.
        config: The encoder's configuration.
        opener: Reads a graph; it can be pickled.
        count: Number of streams.
        size: Bytes of the graph with its weights.
        rows: Windows in each batch of a call with many windows.
    """

    def __init__(
        self, name: str, precision: str, config: EncoderConfig, opener: Opener, count: int, size: int = 0, rows: int = 1
    ) -> None:
        self.name, self.precision, self.at_once = name, precision, count + 1
        self._config, self._opener, self._size, self._rows = config, opener, size, rows
        self._count, self._ahead = count, _AHEAD * count
        self._make: Maker | None = None
        self._functions: dict[int, Compute] = {}
        self.renew()
        renew_after_fork(self)
        self._compute_with()

    def renew(self) -> None:
        """Make the threads anew; see `parallel.Renewed`."""
        if self._make is not None:
            never_destroy((self._make, self._functions))
        self._make, self._functions, self._lock = None, {}, threading.Lock()
        self._calls = self._lone = 0
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix=f"{self.name}-stream")
        self._alone = ThreadPoolExecutor(1, thread_name_prefix=f"{self.name}-alone")

    def __reduce__(self) -> tuple[Any, ...]:
        return Streams, (self.name, self.precision, self._config, self._opener, self._count, self._size, self._rows)

    def _compute_with(self, threads: int = 1) -> Compute:
        """Return the function that computes a window in a number of threads, made in this process."""
        with self._lock:
            if self._make is None:
                self._make = self._opener()
            if threads not in self._functions:
                self._functions[threads] = self._make(self._count if threads == 1 else 1, threads)
            return self._functions[threads]

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Yield logits as `Engine.predict`, in the order of the rows; those of many windows the longest first."""
        places = [(chunk, row) for chunk in chunks for row in range(len(chunk))]
        lengths = np.concatenate([np.zeros(0, np.int64), *(chunk.input_ids.lengths for chunk in chunks)])
        check_length(self._config, int(lengths.max(initial=0)))
        size, order = 1, np.arange(len(places))
        if self._rows > 1 and len(places) >= _MANY * self._count:
            size, order = self._rows, np.argsort(-lengths, kind="stable")
        with self._lock:
            self._calls += 1
        running: deque[tuple[Int64s, Future[tuple[Floats, Floats]]]] = deque()
        done: list[tuple[int, Floats, Floats]] = []
        try:
            compute, threads = self._chosen(len(places))
            for at in range(0, len(order), size):
                rows = order[at : at + size]
                windows = [
                    window_of(chunk, row, self._config.takes_types) for chunk, row in (places[each] for each in rows)
                ]
                running.append((rows, threads.submit(compute, *windows)))
                if len(running) > self._ahead:
                    first, logits = running.popleft()
                    done += zip(first.tolist(), *logits.result(), strict=True)
                if len(done) >= _TOGETHER:
                    yield _together(done, lengths)
                    done = []
            while running:
                first, logits = running.popleft()
                done += zip(first.tolist(), *logits.result(), strict=True)
            if done:
                yield _together(done, lengths)
        finally:
            for _, waiting in running:  # the caller has stopped early
                waiting.cancel()
            with self._lock:
                self._calls -= 1

    def _chosen(self, windows: int) -> tuple[Compute, ThreadPoolExecutor]:
        """Return the function for a call of so many windows, and the threads that call it."""
        most = min(self._count, _MOST_THREADS if self._size <= _MOST_BYTES else 1)
        with self._lock:
            if self._calls > 1:
                self._lone = min(self._lone, _LONE_WINDOWS - _LONE_AGAIN)
            elif windows == 1:
                self._lone += 1
            is_alone = windows == 1 and self._calls == 1 and self._lone > _LONE_WINDOWS
        if is_alone and most > 1:
            return self._compute_with(most), self._alone
        return self._compute_with(), self._threads

    def warm_up(self) -> None:
        """Run one window in every stream, and one with all cores."""
        window = window_of(blank(1, min(128, self._config.max_length)), 0, self._config.takes_types)
        list(self._threads.map(self._compute_with(), [window] * self._count))
        self._lone = _LONE_WINDOWS
        list(self.predict([blank(1, min(128, self._config.max_length))]))


def _together(done: Sequence[tuple[int, Floats, Floats]], lengths: Int64s) -> Prediction:
    rows = np.array([row for row, _, _ in done], np.int32)
    own = lengths[rows].astype(np.int32)
    starts, ends = (np.zeros((len(done), own.max()), np.float32) for _ in range(2))
    for at, (_, start, end) in enumerate(done):
        starts[at, : own[at]], ends[at, : own[at]] = start[: own[at]], end[: own[at]]
    return Prediction(rows, starts, ends, own)
