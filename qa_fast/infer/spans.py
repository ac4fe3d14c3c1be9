"""The one loop from features to best spans, for evaluation, validation, answers and serving.

Several jobs, each with documents, options and a decoder of its own, are predicted in one call: an engine that gains
from many windows gets them all, and every batch of logits is handed to the jobs whose windows it holds. Logits are
dropped as soon as they are decoded, so memory holds the candidates and two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_fast.buffers import offsets_of
from qa_fast.decode import DEFAULT_MAX_ANSWER_LENGTH, DEFAULT_N_BEST, BestSpans, LogitBatch, SpanDecoder, windows_of
from qa_fast.schema import Features, Int32s

Predict = Callable[[Sequence[Features]], Iterable[LogitBatch]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SpanJob:
    """Features of E examples, and what is needed to find their spans.

    Attributes:
        chunks: Features whose `example_index` counts over all chunks of the job; F together.
        document_first_token: int[E], index in the token arrays of the first token of each example's document.
        token_char_start: int32[T], first character of each token of the documents.
        token_char_end: int32[T], one past its last character.
        cls_position: int32[F], position of CLS in each feature; None means in front.
        n_best: Candidates kept for each example.
        max_answer_length: Longest answer in tokens.
    """

    chunks: Sequence[Features]
    document_first_token: npt.NDArray[np.integer]
    token_char_start: Int32s
    token_char_end: Int32s
    cls_position: Int32s | None = None
    n_best: int = DEFAULT_N_BEST
    max_answer_length: int = DEFAULT_MAX_ANSWER_LENGTH

    @property
    def windows(self) -> int:
        """F."""
        return sum(len(chunk) for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        """Tokens of all features, special ones included and padding not."""
        return sum(int(chunk.input_ids.offsets[-1] - chunk.input_ids.offsets[0]) for chunk in self.chunks)

    def decoder(self) -> SpanDecoder:
        """A decoder for its logits.

        Raises:
            UserError: n_best or max_answer_length is not positive.
        """
        windows = windows_of(self.chunks, self.document_first_token, self.cls_position)
        examples = len(self.document_first_token)
        bounds = self.token_char_start, self.token_char_end
        return SpanDecoder(windows, *bounds, examples, self.n_best, self.max_answer_length)


def best_spans(predict: Predict, jobs: Sequence[SpanJob], progress: Progress | None = None) -> list[BestSpans]:
    """Predict the windows of all jobs together, and decode each job's on its own.

    Args:
        predict: Features in chunks to batches of logits, in any order; rows count over the chunks. Not called where no
            job has a window.
        jobs: What to find spans for.
        progress: Called with windows done and windows in all.

    Returns:
        For each job its examples' candidates.

    Raises:
        UserError: A job's options are not usable, or logits are not finite.
        ValueError: `predict` did not give the logits of every feature once.
    """
    decoders = [job.decoder() for job in jobs]
    bounds = offsets_of(np.array([job.windows for job in jobs], np.int64))
    times = np.zeros(bounds[-1], np.int32)
    chunks = [chunk for job in jobs for chunk in job.chunks]
    done = 0
    for batch in predict(chunks) if chunks else ():
        rows = np.asarray(batch.rows, np.int64)
        # A row that no job has goes to the nearest one's decoder, which refuses it.
        owner = np.clip(np.searchsorted(bounds, rows, side="right") - 1, 0, len(jobs) - 1)
        for number in np.unique(owner).tolist():
            of = slice(None) if len(jobs) == 1 else owner == number
            decoders[number].add(rows[of] - bounds[number], batch.start_logits[of], batch.end_logits[of])
        np.add.at(times, rows, 1)
        done += len(rows)
        if progress is not None:
            progress(done, len(times))
    if (times != 1).any():
        raise ValueError(
            f"predict must give logits for every feature once; received {int((times == 1).sum())} of {len(times)}"
        )
    return [decoder.result() for decoder in decoders]
