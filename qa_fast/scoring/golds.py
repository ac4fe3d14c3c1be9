"""What was asked and what would have been right: questions, gold answers, and where in their documents they stand.

Taken from a split's examples and windows, for scoring and for what is told beyond a score (`qa_fast.report`). Where
several gold answers are given, lengths and places are those of the first, which windows are labelled by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qa_fast.buffers import one_chunk, ragged_from
from qa_fast.schema import Features, Int32s, Int64s, Ragged
from qa_fast.shards import Split


@dataclass(frozen=True)
class Golds:
    """E questions and their right answers.

    Attributes:
        questions: The questions, as given.
        answers: Gold answers of each; empty where it cannot be answered.
        starts: First character of each gold answer in its document.
        document_tokens: int32[E], tokens of the document.
        answer_tokens: int32[E], tokens that the first gold answer touches; 0 without one.
        window: int32[E], number from 0 of the first window that holds the first gold answer whole; -1 without one.
    """

    questions: list[str]
    answers: list[list[str]]
    starts: list[list[int]]
    document_tokens: Int32s
    answer_tokens: Int32s
    window: Int32s

    def __len__(self) -> int:
        return len(self.questions)


def golds_of(split: Split, chosen: Int64s, chunks: Sequence[Features]) -> Golds:
    """The questions and answers of some examples.

    Args:
        split: A split with its examples and contexts.
        chosen: int64[E], rows of the examples.
        chunks: Their features, or those of all examples, whose `example_index` counts the split's examples.
    """
    assert split.examples is not None
    assert split.contexts is not None
    rows = pa.array(chosen)
    taken = one_chunk(split.examples["answers"]).take(rows)
    answers, starts = (taken.field(name).to_pylist() for name in ("text", "answer_start"))
    context_index = one_chunk(split.examples["context_index"]).to_numpy(zero_copy_only=False)[chosen]
    token_starts = ragged_from(one_chunk(split.contexts["token_char_start"]))
    token_ends = ragged_from(one_chunk(split.contexts["token_char_end"]))
    begins = np.array([places[0] if places else 0 for places in starts], np.int64)
    lengths = np.array([len(texts[0]) if texts else 0 for texts in answers], np.int64)
    return Golds(
        questions=one_chunk(split.examples["question"]).take(rows).to_pylist(),
        answers=answers,
        starts=starts,
        document_tokens=token_starts.lengths[context_index].astype(np.int32),
        answer_tokens=tokens_touched(token_starts, token_ends, context_index, begins, begins + lengths),
        window=_first_windows(chunks, len(split.examples))[chosen],
    )


def tokens_touched(
    token_char_start: Ragged,
    token_char_end: Ragged,
    document: npt.NDArray[np.integer],
    char_start: npt.NDArray[np.integer],
    char_end: npt.NDArray[np.integer],
) -> Int32s:
    """How many tokens each span of characters shares a character with.

    One binary search for each end of all spans: documents are laid one after the other on a line, far enough apart.

    Args:
        token_char_start: int32 Ragged[D], first character of each token; does not fall within a document.
        token_char_end: int32 Ragged[D], one past its last.
        document: int[E].
        char_start: int[E].
        char_end: int[E]; a span that is empty touches none.

    Returns:
        int32[E].
    """
    apart = int(max(token_char_end.values.max(initial=0), np.max(char_end, initial=0))) + 1
    line = np.repeat(np.arange(len(token_char_start)), token_char_start.lengths) * apart
    shift = np.asarray(document, np.int64) * apart
    begin, stop = token_char_start.offsets[0], token_char_start.offsets[-1]
    first = np.searchsorted(line + token_char_end.values[begin:stop], shift + char_start, side="right")
    last = np.searchsorted(line + token_char_start.values[begin:stop], shift + char_end, side="left")
    return np.where(char_end > char_start, np.maximum(last - first, 0), 0).astype(np.int32)


def _first_windows(chunks: Sequence[Features], examples: int) -> Int32s:
    """int32[E]: of each example the first window that is labelled with an answer; -1 where none is."""
    most = np.iinfo(np.int32).max
    found = np.full(examples, most, np.int32)
    for chunk in chunks:
        held = chunk.start_positions >= chunk.context_start
        np.minimum.at(found, chunk.example_index[held], chunk.window_index[held])
    return np.where(found == most, np.int32(-1), found).astype(np.int32)
