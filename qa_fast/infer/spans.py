"""The loop from features to best spans, for evaluation, validation, answers and serving.

Several jobs, each with its own documents, options and decoder, are predicted in one call: the engine gets all windows
at once, and each batch of logits goes to the jobs whose windows it holds. A job may be divided into parts, so that
other jobs run in between. Logits are released as soon as they are decoded, so that memory holds the candidates and two
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.buffers import offsets_of
from qa_fast.infer.decode import (
    DEFAULT_N_BEST,
    BestSpans,
    LogitBatch,
    SpanDecoder,
    windows_of,
)
from qa_fast.schema import DEFAULT_MAX_ANSWER_LENGTH, Features, Int32s, Int64s
from qa_fast.scripts import whole_clusters

Predict = Callable[[Sequence[Features]], Iterable[LogitBatch]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SpanJob:
    """Features of E examples of D documents, with what is needed to find their spans.

    The places of tokens are widened to whole grapheme clusters here, for every way of answering and scoring.

    Attributes:
        chunks: F features whose `example_index` counts over all chunks of the job.
        document_first_token: int[E], index in the token arrays of the first token of each example's document.
        token_char_start: int32[T], first character of each token of the documents.
        token_char_end: int32[T], one past its last character.
        documents: The texts of the D documents.
        token_offsets: int64[D + 1], the tokens of each document.
        cls_position: int32[F], position of CLS in each feature; None means the first.
        n_best: Candidates kept for each example.
        max_answer_length: Longest answer in tokens.
    """

    chunks: Sequence[Features]
    document_first_token: npt.NDArray[np.integer]
    token_char_start: Int32s
    token_char_end: Int32s
    documents: InitVar[Sequence[str]]
    token_offsets: InitVar[Int64s]
    cls_position: Int32s | None = None
    n_best: int = DEFAULT_N_BEST
    max_answer_length: int = DEFAULT_MAX_ANSWER_LENGTH

    def __post_init__(self, documents: Sequence[str], token_offsets: Int64s) -> None:
        starts, ends = whole_clusters(documents, token_offsets, self.token_char_start, self.token_char_end)
        object.__setattr__(self, "token_char_start", starts)
        object.__setattr__(self, "token_char_end", ends)

    @property
    def windows(self) -> int:
        """Return F, the number of features."""
        return sum(len(chunk) for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        """Return the number of tokens of all features, including special tokens and without padding."""
        return _tokens(self.chunks)

    def decoder(self) -> SpanDecoder:
        """Return a decoder for the job's logits.

        Raises:
            UserError: n_best or max_answer_length is not positive.
        """
        windows = windows_of(self.chunks, self.document_first_token, self.cls_position)
        examples = len(self.document_first_token)
        bounds = self.token_char_start, self.token_char_end
        return SpanDecoder(windows, *bounds, examples, self.n_best, self.max_answer_length)


class SpanSearch:
    """Holds the spans found for a job while its features are computed.

    Args:
        job: The job.

    Raises:
        UserError: The job's options are invalid.
    """

    def __init__(self, job: SpanJob) -> None:
        self._job = job
        self._decoder = job.decoder()
        self._decoded = np.zeros(job.windows, np.int32)

    def parts(self, most_tokens: int | None = None) -> list[SpanPart]:
        """Divide the job into parts of at most `most_tokens` tokens, or of one longer feature; None gives one part."""
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
        """Return the candidates of all features.

        Raises:
            UserError: Logits are not finite.
            ValueError: Not every feature was computed exactly once.
        """
        if (self._decoded != 1).any():
            raise ValueError(
                f"predict must give logits for every feature once; received {int((self._decoded == 1).sum())} of "
                f"{len(self._decoded)}"
            )
        return self._decoder.result()

    def _begin(self, first: int, windows: int) -> None:
        # A part may be repeated after a failure: the decoder ignores candidates that it already has.
        self._decoded[first : first + windows] = 0

    def _add(self, rows: Int64s, start_logits: npt.NDArray[Any], end_logits: npt.NDArray[Any]) -> None:
        self._decoder.add(rows, start_logits, end_logits)
        np.add.at(self._decoded, rows, 1)


@dataclass(frozen=True)
class SpanPart:
    """Features of a job that are computed together.

    Attributes:
        search: The job's search.
        chunks: The features.
        first: Row of the first feature within the job.
    """

    search: SpanSearch
    chunks: Sequence[Features]
    first: int

    @property
    def windows(self) -> int:
        """Return the number of features."""
        return sum(len(chunk) for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        """Return the number of tokens, including special tokens and without padding."""
        return _tokens(self.chunks)


def read_parts(predict: Predict, parts: Sequence[SpanPart], progress: Progress | None = None) -> None:
    """Predict parts of jobs together, and pass each batch of logits to the searches whose features it holds.

    Args:
        predict: See `best_spans`.
        parts: Parts of one or several jobs.
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
        # A row beyond all parts goes to the nearest part's search, whose decoder refuses it.
        owner = np.clip(np.searchsorted(bounds, rows, side="right") - 1, 0, len(parts) - 1)
        for number in np.unique(owner).tolist():
            own = slice(None) if len(parts) == 1 else owner == number
            part = parts[number]
            part.search._add(rows[own] - bounds[number] + part.first, batch.start_logits[own], batch.end_logits[own])
        done += len(rows)
        if progress is not None:
            progress(done, int(bounds[-1]))


def best_spans(predict: Predict, jobs: Sequence[SpanJob], progress: Progress | None = None) -> list[BestSpans]:
    """Predict the windows of all jobs together, and decode each job separately.

    Args:
        predict: Maps chunks of features to batches of logits, in any order; rows count over the chunks. It is not
            called if no job has a window.
        jobs: The jobs.
        progress: Called with the numbers of finished windows and of all windows.

    Returns:
        The candidates of each job's examples.

    Raises:
        UserError: A job's options are invalid, or logits are not finite.
        ValueError: `predict` did not return the logits of every feature exactly once.
    """
    searches = [SpanSearch(job) for job in jobs]
    read_parts(predict, [part for search in searches for part in search.parts()], progress)
    return [search.result() for search in searches]


def _tokens(chunks: Sequence[Features]) -> int:
    return sum(int(chunk.input_ids.offsets[-1] - chunk.input_ids.offsets[0]) for chunk in chunks)
