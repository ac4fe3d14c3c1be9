"""Prediction for a process that lives long: few shapes, known in advance, and no pipeline to set up for each call.

`Predictor` chooses widths for the features it is given and cuts batches in a `tf.data` pipeline, which is right for a
data set; for one question, setting that up took as long as the model did. And with few shapes, compiling pays: on a
CPU the compiled parts take 80 microseconds a token of MiniLM where plain TensorFlow takes 130.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np

from qa_fast.batches import BatchCutter
from qa_fast.model.config import check_length
from qa_fast.model.encoder import SpanModel
from qa_fast.model.precision import on_cpu
from qa_fast.predict import Prediction, Predictor
from qa_fast.predict import _fetched as fetched
from qa_fast.schema import Features, Int32s, Int64s, Ragged

# In tokens; most paragraphs with their question have 100 to 250, and a window of a long document has 384.
WIDTHS = (64, 128, 160, 192, 256, 384)
# On a CPU more tokens at a time only leave the caches: 1536 take least time a token.
BATCH_TOKENS_CPU = 2048
BATCH_ROWS_CPU = 8
# Where a GPU runs compiled shapes (JAX), each of them is compiled at the start, too.
BATCH_ROWS_COMPILED_GPU = 32
# Compiled parts run on one core each: a batch of 8 by 192 kept 1.2 of 2 cores busy.
AT_A_TIME_CPU = 2


class FixedShapes(Predictor):
    """A `Predictor` whose batches have one of a few widths, and where shapes are compiled, 1, 2, 4, 8 … rows.

    Args:
        model: The model.
        batch_tokens: Padded tokens a batch, at most; chosen by the device if None.
    """

    def __init__(self, model: SpanModel, batch_tokens: int | None = None) -> None:
        super().__init__(model, batch_tokens or (BATCH_TOKENS_CPU if on_cpu() else None))
        # TensorFlow on a GPU would compile the whole model for each shape, many seconds each; it runs well without.
        self.compiles = on_cpu() or keras.backend.backend() != "tensorflow"
        self._at_a_time = AT_A_TIME_CPU if on_cpu() else 1
        self._threads = ThreadPoolExecutor(self._at_a_time, thread_name_prefix="batches")
        longest = model.config.max_length
        self.widths: Int32s = np.array([width for width in WIDTHS if width < longest] + [longest], np.int32)

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """See `Predictor.predict`."""
        cutter = BatchCutter(chunks, self.model.config.pad_id)
        lengths = cutter.lengths[: sum(len(chunk) for chunk in chunks)]
        check_length(self.model.config, int(lengths.max(initial=0)))
        compute = self._function(many=self.compiles)
        bucket = np.searchsorted(self.widths, lengths)

        def predict_rows(rows: Int64s, width: int) -> Prediction:
            batch = cutter.cut(rows, width)
            return fetched(batch, compute(batch.input_ids, batch.lengths, batch.token_type_ids))

        running: deque[Future[Prediction]] = deque()
        for index, width in enumerate(self.widths.tolist()):
            for rows in self._batches(np.flatnonzero(bucket == index), width):
                running.append(self._threads.submit(predict_rows, rows, width))
                if len(running) > self._at_a_time:
                    yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def warm_up(self) -> None:
        """Run every shape of windows up to 384 tokens once; longer ones come only where they are asked for."""
        for width in self.widths[self.widths <= WIDTHS[-1]].tolist():
            for rows in (1 << power for power in range(self._most_rows(width).bit_length() if self.compiles else 1)):
                for _ in self.predict([_blank(rows, width)]):
                    pass

    def _most_rows(self, width: int) -> int:
        most = max(1, self.batch_tokens // width)
        if not self.compiles:
            return most
        return min(BATCH_ROWS_CPU if on_cpu() else BATCH_ROWS_COMPILED_GPU, 1 << most.bit_length() - 1)

    def _batches(self, rows: Int64s, width: int) -> Iterator[Int64s]:
        """The rows in parts; where shapes are compiled, 13 go as 8 + 4 + 1 and not padded to 16."""
        most = self._most_rows(width)
        while len(rows):
            size = min(most, len(rows))
            if self.compiles:
                size = 1 << size.bit_length() - 1
            yield rows[:size]
            rows = rows[size:]


def _blank(rows: int, width: int) -> Features:
    """So many features of so many padding tokens."""
    tokens = rows * width
    offsets = np.arange(rows + 1, dtype=np.int64) * width
    zeros = np.zeros(rows, np.int32)
    return Features(
        input_ids=Ragged(np.zeros(tokens, np.int32), offsets),
        token_type_ids=Ragged(np.zeros(tokens, np.int8), offsets),
        start_positions=zeros,
        end_positions=zeros,
        example_index=np.arange(rows, dtype=np.int32),
        window_index=zeros,
        context_start=zeros,
        context_end=zeros + width,
        document_token_start=zeros,
    )
