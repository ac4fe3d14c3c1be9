"""The one loop from features to best spans, for evaluation, validation, answers and serving.

Several jobs, each with documents, options and a decoder of its own, are predicted in one call: an engine that gains
from many windows gets them all, and every batch of logits is handed to the jobs whose windows it holds. A job may be
read in parts, between which others have their turn. Logits are dropped as soon as they are decoded, so memory holds the
candidates and two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.buffers import offsets_of
from qa_fast.infer.decode import (
    DEFAULT_MAX_ANSWER_LENGTH,
    DEFAULT_N_BEST,
    BestSpans,
    LogitBatch,
    SpanDecoder,
    windows_of,
)
from qa_fast.schema import Features, Int32s, Int64s

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
        return _tokens(self.chunks)

    def decoder(self) -> SpanDecoder:
        """A decoder for its logits.

        Raises:
            UserError: n_best or max_answer_length is not positive.
        """
        windows = windows_of(self.chunks, self.document_first_token, self.cls_position)
        examples = len(self.document_first_token)
        bounds = self.token_char_start, self.token_char_end
        return SpanDecoder(windows, *bounds, examples, self.n_best, self.max_answer_length)


class SpanSearch:
    """Owns what is known of a job's spans while its features are read, in whatever parts.

    Args:
        job: What to find spans for.

    Raises:
        UserError: Its options are not usable.
    """

    def __init__(self, job: SpanJob) -> None:
        self._job = job
        self._decoder = job.decoder()
        self._times = np.zeros(job.windows, np.int32)

    def parts(self, most_tokens: int | None = None) -> list[SpanPart]:
        """The job in parts of at most so many tokens, or of a single feature that has more; None gives one part."""
        if most_tokens is None:
            return [SpanPart(self, self._job.chunks, 0)] if self._job.windows else []
        parts, first = [], 0
        for chunk in self._job.chunks:
            ends, begin = chunk.input_ids.offsets[1:], 0
            while begin < len(chunk):
                most = chunk.input_ids.offsets[begin] + most_tokens
                end = max(begin + 1, int(np.searchsorted(ends, most, side="right")))
                parts.append(SpanPart(self, [chunk.part(begin, end)], first + begin))
                begin = end
            first += len(chunk)
        return parts

    def result(self) -> BestSpans:
        """The candidates of all its features.

        Raises:
            UserError: Logits are not finite.
            ValueError: Not every feature was read once.
        """
        if (self._times != 1).any():
            raise ValueError(
                f"predict must give logits for every feature once; received {int((self._times == 1).sum())} of "
                f"{len(self._times)}"
            )
        return self._decoder.result()

    def _begin(self, first: int, windows: int) -> None:
        # A part that is read again, after a failure, is as if it were read for the first time: what the decoder has of
        # it already is found equal to what comes.
        self._times[first : first + windows] = 0

    def _add(self, rows: Int64s, start_logits: npt.NDArray[Any], end_logits: npt.NDArray[Any]) -> None:
        self._decoder.add(rows, start_logits, end_logits)
        np.add.at(self._times, rows, 1)


@dataclass(frozen=True)
class SpanPart:
    """Features of a job that are read together.

    Attributes:
        search: Whose.
        chunks: The features.
        first: Row of the first of them among all of the job.
    """

    search: SpanSearch
    chunks: Sequence[Features]
    first: int

    @property
    def windows(self) -> int:
        """Features of the part."""
        return sum(len(chunk) for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        """Tokens of its features, special ones included and padding not."""
        return _tokens(self.chunks)


def read_parts(predict: Predict, parts: Sequence[SpanPart], progress: Progress | None = None) -> None:
    """Predict parts of jobs together, and hand each batch of logits to the searches whose features it holds.

    Args:
        predict: See `best_spans`.
        parts: Of different jobs, or of one.
        progress: See `best_spans`.
    """
    sizes = np.array([part.windows for part in parts], np.int64)
    bounds = offsets_of(sizes)
    for part, size in zip(parts, sizes.tolist(), strict=True):
        part.search._begin(part.first, size)
    chunks = [chunk for part in parts for chunk in part.chunks]
    done = 0
    for batch in predict(chunks) if chunks else ():
        rows = np.asarray(batch.rows, np.int64)
        # A row that no part has goes to the nearest one's search, whose decoder refuses it.
        owner = np.clip(np.searchsorted(bounds, rows, side="right") - 1, 0, len(parts) - 1)
        for number in np.unique(owner).tolist():
            of = slice(None) if len(parts) == 1 else owner == number
            part = parts[number]
            part.search._add(rows[of] - bounds[number] + part.first, batch.start_logits[of], batch.end_logits[of])
        done += len(rows)
        if progress is not None:
            progress(done, int(bounds[-1]))


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
    searches = [SpanSearch(job) for job in jobs]
    read_parts(predict, [part for search in searches for part in search.parts()], progress)
    return [search.result() for search in searches]


def _tokens(chunks: Sequence[Features]) -> int:
    return sum(int(chunk.input_ids.offsets[-1] - chunk.input_ids.offsets[0]) for chunk in chunks)
