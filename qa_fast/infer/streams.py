"""One window at a time, each at its own length, one single-threaded stream for each core.

On a CPU a batch only leaves the caches: a window alone needs no padding and no mask, and a core that computes a window
by itself waits for no other. Windows of all callers go to the same threads in the order in which they come, and a
caller has only a few there at a time, so that a long document does not keep the others waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from qa_fast.infer.engine import Floats, Prediction
from qa_fast.infer.shapes import blank
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.schema import Features, Int64s

# By their names int64[1, L] of ids and, where the model has them, of types; to float32[1, L] of start and end logits.
Inputs = dict[str, Int64s]
Compute = Callable[[Inputs], tuple[Floats, Floats]]
# Windows of one call that wait or run, for each stream.
_AHEAD = 2
# Windows that are handed on together, so that decoding them is not a call each.
_TOGETHER = 16


def window_of(chunk: Features, row: int, takes_types: bool) -> Inputs:
    """The inputs that a graph without padding has, for one feature."""
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
        self._count, self._ahead = count, _AHEAD * count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"{name}-stream")

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """See `Engine.predict`; rows come in order."""
        for chunk in chunks:
            check_length(self._config, int(chunk.input_ids.lengths.max(initial=0)))
        running: deque[tuple[int, Future[tuple[Floats, Floats]]]] = deque()
        done: list[tuple[int, tuple[Floats, Floats]]] = []
        try:
            windows = (window_of(chunk, row, self._config.takes_types) for chunk in chunks for row in range(len(chunk)))
            for row, window in enumerate(windows):
                running.append((row, self._threads.submit(self._compute, window)))
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
        window = window_of(blank(1, min(128, self._config.max_length)), 0, self._config.takes_types)
        list(self._threads.map(self._compute, [window] * self._count))


def _together(done: Sequence[tuple[int, tuple[Floats, Floats]]]) -> Prediction:
    rows = np.array([row for row, _ in done], np.int32)
    lengths = np.array([start.shape[1] for _, (start, _) in done], np.int32)
    starts, ends = (np.zeros((len(done), lengths.max()), np.float32) for _ in range(2))
    for at, (_, (start, end)) in enumerate(done):
        starts[at, : lengths[at]], ends[at, : lengths[at]] = start[0], end[0]
    return Prediction(rows, starts, ends, lengths)
