"""Labels of all answers of questions that have several, for training.

A question may have been answered by several people, or its answer may stand in several places. All of them are right.
With the label of the first answer alone, training would teach that the others are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from qa_fast.buffers import list_lengths, offsets_of
from qa_fast.features.examples import check_spans
from qa_fast.features.windows import EncodedExamples, Labels, Windows
from qa_fast.kernels import labels as label_kernels
from qa_fast.kernels import text
from qa_fast.schema import FeatureConfig, Int32s, Int64s, Ragged

Further = Callable[[EncodedExamples, Windows, Labels], Labels]


def labels_of_further(config: FeatureConfig, *, training: bool) -> Further | None:
    """Return how the further answers of a split are labelled; None where only the first ones are.

    `reference` labels have the first answers alone, as in the tutorial; other splits than train are for scoring.
    """
    return label_all if config.labels == "exact" and training else None


def label_all(encoded: EncodedExamples, windows: Windows, labels: Labels) -> Labels:
    """Add the labels of the further answers to the `exact` labels of the first ones.

    A window with several distinct labels keeps them in `further`. A window that lacks the first answer, but holds
    another one, gets the label of that one. Answers that are not at their start are left out and counted.

    Args:
        encoded: E examples.
        windows: F windows.
        labels: What `windows.label` returned.

    Returns:
        The labels; `labels` itself if no question has several answers. Cost: O(E), and O(F) if there are some.
    """
    examples = encoded.examples
    counts = list_lengths(examples.answers.field("text"))
    more = np.where(examples.span_start >= 0, np.maximum(counts - 1, 0), 0)  # further answers of each example
    if not more.any():
        return labels
    first, last, misplaced = _tokens_of_answers(encoded, more)

    # Each window of an example meets each of its further answers.
    window, answer = _pairs(more[windows.example_index], offsets_of(more)[windows.example_index])
    first, last = first[answer], last[answer]
    inside = (first >= windows.token_start[window]) & (last < windows.token_end[window])
    window, first, last = window[inside], first[inside], last[inside]
    shift = windows.context_start[window] - windows.token_start[window]
    found = np.stack([window, first + shift, last + shift], axis=1)

    # The label of the first answer comes first, and each label once.
    own = np.unique(window)
    own = own[labels.start_positions[own] != windows.cls_position[own]]
    every = np.concatenate([np.stack([own, labels.start_positions[own], labels.end_positions[own]], axis=1), found])
    every = every[np.sort(np.unique(every, axis=0, return_index=True)[1])]
    every = every[np.argsort(every[:, 0], kind="stable")]
    leads = np.diff(every[:, 0], prepend=-1) != 0
    starts, ends = labels.start_positions.copy(), labels.end_positions.copy()
    starts[every[leads, 0]], ends[every[leads, 0]] = every[leads, 1], every[leads, 2]
    rest = every[~leads]
    changed = np.union1d(rest[:, 0], np.flatnonzero(starts != labels.start_positions))
    further = None
    if len(rest):
        offsets = offsets_of(2 * np.bincount(rest[:, 0], minlength=len(windows)))
        further = Ragged(rest[:, 1:].astype(np.int32).reshape(-1), offsets)
    return replace(
        labels,
        start_positions=starts,
        end_positions=ends,
        differences=labels.differences | ({"further_answer": len(changed)} if len(changed) else {}),
        further=further,
        several=len(np.unique(windows.example_index[changed])),
        misplaced=misplaced,
    )


def _tokens_of_answers(encoded: EncodedExamples, more: Int64s) -> tuple[Int32s, Int32s, int]:
    """Return the first and last token of each further answer in its document, int32; -1 and a large number: none.

    The third result is the number of answers with a text that is not at their start.
    """
    examples, contexts = encoded.examples, encoded.contexts
    texts, starts = examples.answers.field("text"), examples.answers.field("answer_start")
    rows, _ = _pairs(more, more)
    context_index = examples.context_index[rows]
    chosen = [pa.array(_pairs(more, lists.offsets.to_numpy()[:-1] + 1)[1]) for lists in (texts, starts)]
    char_starts = starts.values.take(chosen[1]).to_numpy(zero_copy_only=False).astype(np.int64)
    status, span_start, span_end = check_spans(
        examples.contexts, context_index, texts.values.take(chosen[0]), char_starts
    )
    span_start[(status != text.ANSWER_OK) | (char_starts < 0)] = -1
    misplaced = int(((span_start < 0) & (status != text.ANSWER_EMPTY)).sum())
    is_sorted = np.empty(len(contexts), np.uint8)
    label_kernels.find_sorted(contexts.char_start, contexts.char_end, contexts.offsets, is_sorted)
    first, last = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
    label_kernels.find_answer_tokens(
        contexts.char_start, contexts.char_end, contexts.offsets, encoded.leading_chars, is_sorted,
        context_index, span_start, span_end, first, last,
    )  # fmt: skip
    last[first < 0] = np.iinfo(np.int32).max  # in no window
    return first, last, misplaced


def _pairs(counts: Int64s, begins: Int64s) -> tuple[Int64s, Int64s]:
    """Return for each row i, `counts[i]` times, i and the numbers from `begins[i]` on: int64[sum] each."""
    offsets = offsets_of(counts)
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(offsets[-1]) + (begins[: len(counts)] - offsets[:-1])[rows]
