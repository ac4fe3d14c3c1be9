"""Compute one window at a time, each at its own length, in one single-threaded stream for each core.

On a CPU a batch has no advantage and leaves the caches: a single window needs no padding and no mask, and cores need
not wait for each other. Windows of all callers go to the same threads in order of arrival. A caller has only a few
windows there at a time, so that a long document does not block others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from qa_fast.infer.engine import Floats, Prediction
from qa_fast.infer.shapes import blank
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.parallel import never_destroy, renew_after_fork
from qa_fast.schema import Features, Int64s

# Maps names to int64[1, L]: ids, and types if the model has them. The result is start and end logits, float32[1, L].
Inputs = dict[str, Int64s]
Compute = Callable[[Inputs], tuple[Floats, Floats]]
Opener = Callable[[], Compute]
# Windows of one call that wait or run, per stream.
_AHEAD = 2
# Windows that are returned together, to save calls of the decoder.
_TOGETHER = 16


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
    """An `Engine` around a function that computes one window in one thread, and may be called from several.

    A forked process opens the function anew when it first predicts, and so does a process that receives a pickle.

    Args:
        name: The engine's name.
        precision: Precision of its products.
        config: The encoder's configuration.
        opener: Returns the function; it can be pickled.
        count: Number of streams.
    """

    def __init__(self, name: str, precision: str, config: EncoderConfig, opener: Opener, count: int) -> None:
        self.name, self.precision, self.at_once = name, precision, count + 1
        self._config, self._opener = config, opener
        self._count, self._ahead = count, _AHEAD * count
        self._opened: Compute | None = None
        self.renew()
        renew_after_fork(self)
        self._compute_with()

    def renew(self) -> None:
        """Make the threads anew; see `parallel.Renewed`."""
        if self._opened is not None:
            never_destroy(self._opened)
        self._opened, self._lock = None, threading.Lock()
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix=f"{self.name}-stream")

    def __reduce__(self) -> tuple[Any, ...]:
        return Streams, (self.name, self.precision, self._config, self._opener, self._count)

    def _compute_with(self) -> Compute:
        """Return the function, opened in this process."""
        with self._lock:
            if self._opened is None:
                self._opened = self._opener()
            return self._opened

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Yield logits as `Engine.predict`, in the order of the rows."""
        for chunk in chunks:
            check_length(self._config, int(chunk.input_ids.lengths.max(initial=0)))
        running: deque[tuple[int, Future[tuple[Floats, Floats]]]] = deque()
        done: list[tuple[int, tuple[Floats, Floats]]] = []
        compute = self._compute_with()
        try:
            windows = (window_of(chunk, row, self._config.takes_types) for chunk in chunks for row in range(len(chunk)))
            for row, window in enumerate(windows):
                running.append((row, self._threads.submit(compute, window)))
                if len(running) > self._ahead:
                    first, logits = running.popleft()
                    done.append((first, logits.result()))
                if len(done) == _TOGETHER:
                    yield _together(done)
                    done = []
            while running:
                first, logits = running.popleft()
                done.append((first, logits.result()))
            if done:
                yield _together(done)
        finally:
            for _, waiting in running:  # the caller has stopped early
                waiting.cancel()

    def warm_up(self) -> None:
        """Run one window in every stream."""
        window = window_of(blank(1, min(128, self._config.max_length)), 0, self._config.takes_types)
        list(self._threads.map(self._compute_with(), [window] * self._count))


def _together(done: Sequence[tuple[int, tuple[Floats, Floats]]]) -> Prediction:
    rows = np.array([row for row, _ in done], np.int32)
    lengths = np.array([start.shape[1] for _, (start, _) in done], np.int32)
    starts, ends = (np.zeros((len(done), lengths.max()), np.float32) for _ in range(2))
    for row, (_, (start, end)) in enumerate(done):
        starts[row, : lengths[row]], ends[row, : lengths[row]] = start[0], end[0]
    return Prediction(rows, starts, ends, lengths)
