"""One window at a time, each at its own length, one single-threaded stream for each core.

On a CPU a batch only leaves the caches: a window alone needs no padding and no mask, and a core that computes a window
by itself waits for no other. Windows of all callers go to the same threads in the order in which they come, and a
caller has only a few there at a time, so that a long document does not keep the others waiting.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from qa_fast.infer.engine import Floats, Prediction
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.schema import Features, Int64s

# int64[1, L] of ids and of types (None where the model has none) to float32[1, L] of start and end logits.
Compute = Callable[[Int64s, Int64s | None], tuple[Floats, Floats]]
# Windows of one call that wait or run, for each stream.
_AHEAD = 2
# Windows that are handed on together, so that decoding them is not a call each.
_TOGETHER = 16


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Streams:
    """An `Engine` around a function that computes one window in one thread, and may be called from several.

    Args:
        name: The engine's name.
        precision: Of its products.
        config: The model's parts.
        compute: The function.
        count: Streams.
    """

    def __init__(self, name: str, precision: str, config: EncoderConfig, compute: Compute, count: int) -> None:
        self.name, self.precision, self.at_once = name, precision, count + 1
        self._config, self._compute = config, compute
        self._ahead = _AHEAD * count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"{name}-stream")

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """See `Engine.predict`; rows come in order."""
        for chunk in chunks:
            check_length(self._config, int(chunk.input_ids.lengths.max(initial=0)))
        running: deque[tuple[int, Future[tuple[Floats, Floats]]]] = deque()
        done: list[tuple[int, tuple[Floats, Floats]]] = []
        try:
            for row, (ids, types) in enumerate(self._windows(chunks)):
                running.append((row, self._threads.submit(self._compute, ids, types)))
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
            for _, waiting in running:  # the caller has had enough
                waiting.cancel()

    def warm_up(self) -> None:
        """Run one window in every stream."""
        length = min(128, self._config.max_length)
        ids = np.full((1, length), self._config.pad_id, np.int64)
        types = np.zeros_like(ids) if self._config.takes_types else None
        list(self._threads.map(lambda _: self._compute(ids, types), range(self.at_once - 1)))

    def _windows(self, chunks: Sequence[Features]) -> Iterator[tuple[Int64s, Int64s | None]]:
        for chunk in chunks:
            given = chunk.token_type_ids if self._config.takes_types else None
            for row in range(len(chunk)):
                ids = chunk.input_ids[row].astype(np.int64)[None]
                types = None
                if self._config.takes_types:
                    types = np.zeros_like(ids) if given is None else given[row].astype(np.int64)[None]
                yield ids, types


def _together(done: Sequence[tuple[int, tuple[Floats, Floats]]]) -> Prediction:
    rows = np.array([row for row, _ in done], np.int32)
    lengths = np.array([start.shape[1] for _, (start, _) in done], np.int32)
    starts, ends = (np.zeros((len(done), lengths.max()), np.float32) for _ in range(2))
    for at, (_, (start, end)) in enumerate(done):
        starts[at, : lengths[at]], ends[at, : lengths[at]] = start[0], end[0]
    return Prediction(rows, starts, ends, lengths)
