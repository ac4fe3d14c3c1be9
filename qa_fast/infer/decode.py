"""Decode logits to the best answer spans of each example, batch by batch.

`SpanDecoder.add` takes a batch of logits, with windows in any order, merges its spans into arrays of fixed size (E
examples by `n_best` candidates) and keeps no logits, so that memory does not grow with the number of windows.
`qa_fast.kernels.spans` defines candidates and their order. The result has the same bits for every order of windows,
division into batches and number of threads.

The score of no answer is start + end at CLS, as in BERT's run_squad, in the window where it is least: most windows of a
long document do not contain the answer. Probabilities are a softmax over an example's candidates and no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.kernels.spans import order_spans, search_spans
from qa_fast.parallel import processors
from qa_fast.schema import DEFAULT_MAX_ANSWER_LENGTH, Features, Int32s, Int64s

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]

DEFAULT_N_BEST = 20
# With fewer windows per thread (4 microseconds each), starting a thread costs more than it saves.
_WINDOWS_A_THREAD = 64
# Examples whose candidates a thread sorts at a time.
_EXAMPLES_A_THREAD = 2048


class LogitBatch(Protocol):
    """A batch of `Engine.predict`: the features' rows and their logits."""

    @property
    def rows(self) -> npt.NDArray[np.integer]:
        """Return the rows, int[B]."""

    @property
    def start_logits(self) -> npt.NDArray[np.floating]:
        """Return the start logits, float[B, L]."""

    @property
    def end_logits(self) -> npt.NDArray[np.floating]:
        """Return the end logits, float[B, L]."""


@dataclass(frozen=True)
class ContextWindows:
    """The columns of F features that decoding needs.

    Attributes:
        example: int32[F], row of the example.
        context_start: int32[F], position in the feature of its first context token.
        context_end: int32[F], one past the position of its last context token.
        cls_position: int32[F], position of the token that means no answer.
        first_token: int64[F], index in the flat token arrays of the feature's first context token.
    """

    example: Int32s
    context_start: Int32s
    context_end: Int32s
    cls_position: Int32s
    first_token: Int64s

    def __len__(self) -> int:
        return len(self.example)


def windows_of(
    chunks: Sequence[Features],
    document_first_token: npt.NDArray[np.integer],
    cls_position: npt.NDArray[np.integer] | None = None,
) -> ContextWindows:
    """Return the windows of features, in the order of the chunks.

    Args:
        chunks: Features whose `example_index` counts over all chunks.
        document_first_token: int[E], index in the flat token arrays of the first token of each example's document.
        cls_position: int[F], position of CLS in each feature; None means the first (see `find_cls`).
    """
    example = _concatenate([chunk.example_index for chunk in chunks], np.int32)
    document_token_start = _concatenate([chunk.document_token_start for chunk in chunks], np.int64)
    return ContextWindows(
        example=example,
        context_start=_concatenate([chunk.context_start for chunk in chunks], np.int32),
        context_end=_concatenate([chunk.context_end for chunk in chunks], np.int32),
        cls_position=np.zeros(len(example), np.int32) if cls_position is None else cls_position.astype(np.int32),
        first_token=document_token_start + np.asarray(document_first_token, np.int64)[example],
    )


def find_cls(features: Features, cls_token_id: int) -> Int32s:
    """Return the first position of the CLS token in each feature, int32[F]; 0 if it has none."""
    ids, offsets = features.input_ids.values, features.input_ids.offsets
    starts = offsets[:-1]
    if (ids[starts] == cls_token_id).all():  # as in most families
        return np.zeros(len(features), np.int32)
    positions = np.flatnonzero(ids[offsets[0] : offsets[-1]] == cls_token_id) + offsets[0]
    nearest = np.append(positions, offsets[-1])[np.searchsorted(positions, starts)]
    return np.where(nearest < offsets[1:], nearest - starts, 0).astype(np.int32)


@dataclass(frozen=True)
class BestSpans:
    """The candidates of E examples, best first, in N slots each; slots at and beyond `count` are 0.

    Attributes:
        score: float32[E, N], start logit + end logit.
        start_logit: float32[E, N].
        end_logit: float32[E, N].
        char_start: int32[E, N], first character in the document.
        char_end: int32[E, N], one past the last character in the document.
        count: int32[E], candidates found; no two of an example cover the same characters.
        null_start_logit: float32[E], start logit at CLS in the window where start + end there is least.
        null_end_logit: float32[E].
        windows: int32[E], number of decoded windows.
    """

    score: Float32s
    start_logit: Float32s
    end_logit: Float32s
    char_start: Int32s
    char_end: Int32s
    count: Int32s
    null_start_logit: Float32s
    null_end_logit: Float32s
    windows: Int32s

    def __len__(self) -> int:
        return len(self.count)

    @property
    def null_score(self) -> Float32s:
        """Return the least start + end logit at CLS over an example's windows, float32[E]."""
        return self.null_start_logit + self.null_end_logit

    def null_margin(self) -> Float64s:
        """Return the null score minus the best span's score, float64[E]; infinity if there is no span."""
        best = np.where(self.count > 0, self.score[:, 0], -np.inf)
        return self.null_score.astype(np.float64) - best

    def null_rank(self, null_threshold: float = 0.0) -> Int64s:
        """Return how many candidates come before no answer, int64[E]; see `answer.options.AnswerRules`.

        Args:
            null_threshold: A candidate comes before no answer unless the null score exceeds its own by more than this.
        """
        used = np.arange(self.score.shape[1])[None, :] < self.count[:, None]
        # The same subtraction as in `null_margin`, so that the first candidate is judged alike to the last bit.
        margins = self.null_score.astype(np.float64)[:, None] - self.score
        return (used & (margins <= null_threshold)).sum(axis=1)

    def probabilities(self, null_threshold: float = 0.0) -> tuple[Float64s, Float64s]:
        """Return the softmax over each example's candidates and no answer.

        Candidates beyond the best `DEFAULT_N_BEST` are compared with the same sum, so that the probability of a span
        does not depend on how many are kept.

        Args:
            null_threshold: Is subtracted from the null score first, so that the order is that of `null_rank`.

        Returns:
            Probabilities of candidates, float64[E, N] (0 in unused slots), and of no answer, float64[E]. Those of the
            best `DEFAULT_N_BEST` candidates and of no answer add up to 1.
        """
        scores = self.score.astype(np.float64)
        scores[np.arange(scores.shape[1])[None, :] >= self.count[:, None]] = -np.inf
        null = self.null_score.astype(np.float64) - null_threshold
        highest = np.maximum(scores[:, 0], null)
        scores = np.exp(scores - highest[:, None])
        null = np.exp(null - highest)
        total = scores[:, :DEFAULT_N_BEST].sum(axis=1) + null
        return scores / total[:, None], null / total


class SpanDecoder:
    """Keeps the best spans of each example while batches of logits are added.

    Args:
        windows: All windows.
        token_char_start: int32[T], first character of each context token, over all documents.
        token_char_end: int32[T], one past its last character.
        examples: E, number of examples.
        n_best: Candidates kept for each example.
        max_answer_length: Longest answer in tokens.
        threads: Threads for large batches; None means one for each processor of this process.

    Raises:
        UserError: n_best or max_answer_length is not positive.
        ValueError: A window points outside the examples, the tokens or itself.
    """

    def __init__(
        self,
        windows: ContextWindows,
        token_char_start: npt.NDArray[np.integer],
        token_char_end: npt.NDArray[np.integer],
        examples: int,
        n_best: int = DEFAULT_N_BEST,
        max_answer_length: int = DEFAULT_MAX_ANSWER_LENGTH,
        threads: int | None = None,
    ) -> None:
        for name, value in (("n_best", n_best), ("max_answer_length", max_answer_length)):
            if value < 1:
                raise UserError(f"{name} must be at least 1; received {name}={value}: give a positive number")
        self.windows = windows
        self.max_answer_length = max_answer_length
        self.threads = threads or processors()
        self._char_start = np.ascontiguousarray(token_char_start, np.int32)
        self._char_end = np.ascontiguousarray(token_char_end, np.int32)
        self._check_windows(examples)
        # Pages of a large `np.zeros` take memory only once they are written.
        self._score, self._start_logit, self._end_logit = (np.zeros((examples, n_best), np.float32) for _ in range(3))
        self._key = np.zeros((examples, n_best), np.int64)
        self._count, self._windows_seen = (np.zeros(examples, np.int32) for _ in range(2))
        self._null_logits = np.zeros((examples, 2), np.float32)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads)

    def add(
        self,
        rows: npt.NDArray[np.integer],
        start_logits: npt.NDArray[np.floating],
        end_logits: npt.NDArray[np.floating],
    ) -> None:
        """Merge one batch.

        Args:
            rows: int[B], the feature of each row of the batch.
            start_logits: float[B, L]; only CLS and context positions are read, so padding may hold anything.
            end_logits: float[B, L].

        Raises:
            ValueError: The shapes do not fit each other, or a feature is longer than L.
        """
        features = np.ascontiguousarray(rows, np.int64)
        starts = np.ascontiguousarray(start_logits, np.float32)
        ends = np.ascontiguousarray(end_logits, np.float32)
        if starts.ndim != 2 or starts.shape != ends.shape or len(features) != len(starts):
            raise ValueError(
                f"logits must be [B, L] with one row for each feature; received rows {features.shape}, "
                f"start_logits {starts.shape}, end_logits {ends.shape}"
            )
        if not len(features):
            return
        if features.min() < 0 or features.max() >= len(self.windows):
            raise ValueError(f"rows must be in [0, {len(self.windows)}); received {features.min()} to {features.max()}")
        longest = max(self.windows.context_end[features].max(), self.windows.cls_position[features].max() + 1)
        if longest > starts.shape[1]:
            raise ValueError(f"logits must cover their features; received L={starts.shape[1]} for {longest} positions")

        example = self.windows.example[features]
        threads = min(self.threads, len(features) // _WINDOWS_A_THREAD)
        if threads < 2:
            self._search(starts, ends, np.arange(len(features)), features)
            return
        # Threads own disjoint examples: rows are sorted by example and divided between examples.
        order = np.argsort(example, kind="stable")
        wanted = np.linspace(0, len(order), threads + 1)[1:-1].astype(np.int64)
        cuts = np.unique(np.searchsorted(example[order], example[order][wanted]))
        own, *others = np.split(order, cuts)
        under_way = [self._pool.submit(self._search, starts, ends, part, features) for part in others]
        self._search(starts, ends, own, features)
        for done in under_way:
            done.result()

    def result(self) -> BestSpans:
        """Return the candidates found so far.

        Raises:
            UserError: A window's logits at CLS are not finite, so the model's output cannot be trusted.
        """
        broken = np.flatnonzero(~np.isfinite(self._null_logits).all(axis=1))
        if len(broken):
            raise UserError(
                f"logits must be finite; received NaN or infinity at CLS for {len(broken)} of {len(self._count)} "
                "examples: predict with precision float32; if that does not help, the weights are broken: train again"
            )
        examples = len(self._count)
        parts = min(self.threads, examples // _EXAMPLES_A_THREAD)
        score, start_logit, end_logit = (np.empty(self._key.shape, np.float32) for _ in range(3))
        char_start, char_end = (np.empty(self._key.shape, np.int32) for _ in range(2))

        def order(begin: int, end: int) -> None:
            rows = slice(begin, end)
            order_spans(
                self._score[rows], self._start_logit[rows], self._end_logit[rows], self._key[rows], self._count[rows],
                np.empty(self._key.shape[1], np.int32), score[rows], start_logit[rows], end_logit[rows],
                char_start[rows], char_end[rows],
            )  # fmt: skip

        if parts > 1:
            cuts = np.linspace(0, examples, parts + 1).astype(np.int64).tolist()
            list(self._pool.map(order, cuts[:-1], cuts[1:]))
        else:  # few examples, as of one request
            order(0, examples)
        return BestSpans(
            score=score,
            start_logit=start_logit,
            end_logit=end_logit,
            char_start=char_start,
            char_end=char_end,
            count=self._count.copy(),
            null_start_logit=self._null_logits[:, 0].copy(),
            null_end_logit=self._null_logits[:, 1].copy(),
            windows=self._windows_seen.copy(),
        )

    def _search(self, starts: Float32s, ends: Float32s, batch_rows: Int64s, features: Int64s) -> None:
        search_spans(
            starts,
            ends,
            batch_rows,
            features,
            self.windows.example,
            self.windows.context_start,
            self.windows.context_end,
            self.windows.cls_position,
            self.windows.first_token,
            self._char_start,
            self._char_end,
            self.max_answer_length,
            np.empty(starts.shape[1], np.float32),
            np.empty(2 * starts.shape[1], np.float32),
            self._score,
            self._start_logit,
            self._end_logit,
            self._key,
            self._count,
            self._null_logits,
            self._windows_seen,
        )

    def _check_windows(self, examples: int) -> None:
        """Check all indices once, since the kernel reads without bounds checks."""
        windows = self.windows
        if len(self._char_start) != len(self._char_end):
            raise ValueError(
                f"token_char_start and token_char_end must have one length; received {len(self._char_start)} and "
                f"{len(self._char_end)}"
            )
        if not len(windows):
            return
        if windows.example.min() < 0 or windows.example.max() >= examples:
            raise ValueError(
                f"windows must belong to examples [0, {examples}); received {windows.example.min()} to "
                f"{windows.example.max()}"
            )
        lengths = windows.context_end - windows.context_start
        if min(windows.context_start.min(), lengths.min(), windows.cls_position.min()) < 0:
            raise ValueError("windows must have 0 <= context_start <= context_end and cls_position >= 0")
        if windows.first_token.min() < 0 or (windows.first_token + lengths).max() > len(self._char_start):
            raise ValueError(
                f"windows must be inside the {len(self._char_start)} context tokens; received tokens "
                f"{windows.first_token.min()} to {(windows.first_token + lengths).max()}"
            )


def _concatenate(parts: list[npt.NDArray[Any]], dtype: type[np.integer]) -> npt.NDArray[Any]:
    if not parts:
        return np.zeros(0, dtype)
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), dtype)
