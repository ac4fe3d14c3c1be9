"""Kinds of mistakes, and the mistakes that are worth reading."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qa_fast.schema import Int64s
from qa_fast.scoring.intervals import Float64s
from qa_fast.scoring.result import EvaluationResult
from qa_fast.scoring.rules import RULES

# A question is of the first kind that fits.
RIGHT, MISSING, UNWANTED, LONG, SHORT, OVERLAPPING, ELSEWHERE = range(7)
KINDS: dict[str, str] = {
    "right": "The prediction is an exact match.",
    "missing": "The question is answerable, but no answer was predicted.",
    "unwanted": "The question is unanswerable, but an answer was predicted.",
    "too long": "The prediction holds a gold answer and more.",
    "too short": "The prediction is a part of a gold answer.",
    "overlapping": "The prediction and a gold answer overlap, and each holds more.",
    "elsewhere": "The prediction overlaps no gold answer.",
}


def kinds_of(result: EvaluationResult, exact: Float64s, answerable: npt.NDArray[np.bool_]) -> Int64s:
    """Return int64[E]: the kind of each prediction, an index into `KINDS`.

    Args:
        result: E predictions.
        exact: float64[E], 1 if the prediction is right.
        answerable: bool[E].
    """
    is_empty = np.array([not text for text in result.predictions], bool)
    row = np.repeat(np.arange(len(exact)), [len(starts) for starts in result.golds.starts])
    gold_begin = np.array([start for starts in result.golds.starts for start in starts], np.int64)
    gold_end = gold_begin + np.array([len(text) for texts in result.golds.answers for text in texts], np.int64)
    begin, end = result.spans.char_start[row, 0], result.spans.char_end[row, 0]

    def for_any_gold(fits: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.bincount(row[fits & (gold_begin >= 0)], minlength=len(exact)) > 0

    conditions = [
        exact > 0,
        is_empty & answerable,
        ~is_empty & ~answerable,
        for_any_gold((begin <= gold_begin) & (gold_end <= end)),
        for_any_gold((gold_begin <= begin) & (end <= gold_end)),
        for_any_gold((begin < gold_end) & (gold_begin < end)),
    ]
    return np.select(conditions, [RIGHT, MISSING, UNWANTED, LONG, SHORT, OVERLAPPING], ELSEWHERE).astype(np.int64)


def touches_gold(kind: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return whether predictions of these kinds are wrong and overlap a gold answer."""
    return (kind >= LONG) & (kind <= OVERLAPPING)


def near_misses(kind: Int64s, overlap: Float64s, confidence: Float64s) -> Int64s:
    """Return rows of wrong predictions that share characters or a word with a gold answer, most confident first.

    Args:
        kind: int64[E], see `kinds_of`.
        overlap: float64[E], F1. SQuAD's is 0 in scripts without spaces for a span that is wrong by one character.
        confidence: float64[E].
    """
    return _most_confident((kind != RIGHT) & ((overlap > 0) | touches_gold(kind)), confidence)


def confident_errors(kind: Int64s, overlap: Float64s, confidence: Float64s) -> Int64s:
    """Return rows of wrong predictions with F1 0 that are no near misses, most confident first.

    Args:
        kind: int64[E], see `kinds_of`.
        overlap: float64[E], F1.
        confidence: float64[E].
    """
    return _most_confident((kind != RIGHT) & (overlap == 0) & ~touches_gold(kind), confidence)


def _most_confident(is_chosen: npt.NDArray[np.bool_], confidence: Float64s) -> Int64s:
    rows = np.flatnonzero(is_chosen)
    return rows[np.argsort(-confidence[rows], kind="stable")]


def right_within(
    result: EvaluationResult, exact: Float64s, answerable: npt.NDArray[np.bool_], counts: Sequence[int]
) -> list[tuple[int, float]]:
    """Return how often a right text is among the first candidates, which a better order of them could reach.

    Args:
        result: E predictions with N candidates each.
        exact: float64[E], 1 if the prediction is right.
        answerable: bool[E]; only these questions count.
        counts: Numbers of candidates to look at; numbers above N are left out.

    Returns:
        Each number, and the percentage of the answerable questions.
    """
    rows = np.flatnonzero(answerable)
    most = result.spans.score.shape[1]
    rank = np.full(len(rows), most)
    for at, row in enumerate(rows.tolist()):
        if exact[row] and result.predictions[row]:
            rank[at] = 0
            continue
        normalized = RULES[result.question_metrics[row]].key
        answers = {normalized(text) for text in result.golds.answers[row]}
        context = result.contexts[result.context_index[row]]
        count = int(result.spans.count[row])
        begins, ends = result.spans.char_start[row, :count].tolist(), result.spans.char_end[row, :count].tolist()
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            if normalized(context[begin:end]) in answers:
                rank[at] = number
                break
    return [
        (count, 100 * float(np.mean(rank < count)) if len(rows) else 0.0) for count in counts if count <= most
    ]  # fmt: skip
