"""Questions, gold answers and the places of the answers in their documents.

They are read from a split's examples and windows, for scoring and for reports (`qa_fast.report`). If an example has
several gold answers, lengths and places are those of the first, by which windows are labelled. An answer that is not
at its start has no place: scoring needs its text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qa_fast.buffers import list_lengths, one_chunk, ragged_from
from qa_fast.schema import Features, Int32s, Int64s, Ragged
from qa_fast.shards import Split


@dataclass(frozen=True)
class Golds:
    """E questions and their gold answers.

    Attributes:
        questions: The questions as given.
        answers: The gold answers of each question; empty if it is unanswerable.
        starts: First character of each gold answer in its document; -1 if it is not at its start.
        document_tokens: int32[E], number of tokens of the document.
        answer_tokens: int32[E], number of tokens that the first gold answer touches; 0 without one that has a place.
        window: int32[E], number from 0 of the first window that holds the whole first gold answer; -1 without one.
    """

    questions: list[str]
    answers: list[list[str]]
    starts: list[list[int]]
    document_tokens: Int32s
    answer_tokens: Int32s
    window: Int32s

    def __len__(self) -> int:
        return len(self.questions)


def has_unanswerable(split: Split) -> bool:
    """Return whether an example of a split has no answer."""
    if split.examples is None or not len(split.examples):
        return False
    return not list_lengths(one_chunk(split.examples["answers"]).field("text")).all()


def golds_of(split: Split, chosen: Int64s, chunks: Sequence[Features]) -> Golds:
    """Read the questions and answers of some examples.

    Args:
        split: A split with its examples and contexts.
        chosen: int64[E], rows of the examples.
        chunks: Features of at least these examples, whose `example_index` counts all examples of the split.
    """
    assert split.examples is not None
    assert split.contexts is not None
    rows = pa.array(chosen)
    gold = one_chunk(split.examples["answers"]).take(rows)
    answers, starts = (gold.field(name).to_pylist() for name in ("text", "answer_start"))
    context_index = one_chunk(split.examples["context_index"]).to_numpy(zero_copy_only=False)[chosen]
    token_starts = ragged_from(one_chunk(split.contexts["token_char_start"]))
    token_ends = ragged_from(one_chunk(split.contexts["token_char_end"]))
    documents = one_chunk(split.contexts["context"]).to_pylist()
    starts = [
        [
            start if start >= 0 and documents[row].startswith(text, start) else -1
            for start, text in zip(*each, strict=True)
        ]
        for row, *each in zip(context_index.tolist(), starts, answers, strict=True)
    ]
    begins = np.array([places[0] if places else -1 for places in starts], np.int64)
    lengths = np.array([len(texts[0]) if texts else 0 for texts in answers], np.int64) * (begins >= 0)
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
    """Count the tokens that share a character with each span.

    The documents are placed one after the other on one axis, so that a single binary search finds the ends of all
    spans.

    Args:
        token_char_start: int32 Ragged[D], first character of each token; not decreasing within a document.
        token_char_end: int32 Ragged[D], one past the last character.
        document: int[E], row of the document.
        char_start: int[E], first character of the span.
        char_end: int[E], one past the last character; an empty span touches no token.

    Returns:
        int32[E].
    """
    distance = int(max(token_char_end.values.max(initial=0), np.max(char_end, initial=0))) + 1
    token_shift = np.repeat(np.arange(len(token_char_start)), token_char_start.lengths) * distance
    span_shift = np.asarray(document, np.int64) * distance
    begin, stop = token_char_start.offsets[0], token_char_start.offsets[-1]
    first = np.searchsorted(token_shift + token_char_end.values[begin:stop], span_shift + char_start, side="right")
    last = np.searchsorted(token_shift + token_char_start.values[begin:stop], span_shift + char_end, side="left")
    return np.where(char_end > char_start, np.maximum(last - first, 0), 0).astype(np.int32)


def _first_windows(chunks: Sequence[Features], examples: int) -> Int32s:
    """Return int32[E]: the first window of each example that is labelled with an answer; -1 without one."""
    none = np.iinfo(np.int32).max
    window = np.full(examples, none, np.int32)
    for chunk in chunks:
        is_labelled = chunk.start_positions >= chunk.context_start
        np.minimum.at(window, chunk.example_index[is_labelled], chunk.window_index[is_labelled])
    return np.where(window == none, np.int32(-1), window).astype(np.int32)
