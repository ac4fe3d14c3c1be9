"""What is wrong about wrong answers, and which of them are worth reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_fast.report.intervals import Float64s
from qa_fast.schema import Int64s
from qa_fast.scoring.metrics import normalize_answer
from qa_fast.scoring.result import EvaluationResult

# Each question is of the first kind that fits.
RIGHT, SILENT, UNCALLED, LONG, SHORT, CROSSING, ELSEWHERE = range(7)
KINDS: dict[str, str] = {
    "right": "Exact match.",
    "no answer given": "The document has an answer, and none was predicted.",
    "answer to nothing": "The document has none, and one was predicted.",
    "too long": "The prediction holds a gold answer and more.",
    "too short": "The prediction is a part of a gold answer.",
    "crossing": "The prediction and a gold answer share a part, and each has more.",
    "elsewhere": "The prediction touches no gold answer.",
}


@dataclass(frozen=True)
class Candidate:
    """One of a question's candidates: its text ("" is no answer) and its probability."""

    text: str
    probability: float


def kinds_of(result: EvaluationResult, exact: Float64s, answerable: npt.NDArray[np.bool_]) -> Int64s:
    """int64[E]: how each prediction stands to the gold answers, an index into `KINDS`.

    Args:
        result: E predictions.
        exact: float64[E], 1 where right.
        answerable: bool[E].
    """
    silent = np.array([not text for text in result.predictions], bool)
    row = np.repeat(np.arange(len(exact)), [len(starts) for starts in result.golds.starts])
    gold_begin = np.array([start for starts in result.golds.starts for start in starts], np.int64)
    gold_end = gold_begin + np.array([len(text) for texts in result.golds.answers for text in texts], np.int64)
    begin, end = result.spans.char_start[row, 0], result.spans.char_end[row, 0]

    def some(fits: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.bincount(row[fits], minlength=len(exact)) > 0

    conditions = [
        exact > 0,
        silent & answerable,
        ~silent & ~answerable,
        some((begin <= gold_begin) & (gold_end <= end)),
        some((gold_begin <= begin) & (end <= gold_end)),
        some((begin < gold_end) & (gold_begin < end)),
    ]
    return np.select(conditions, [RIGHT, SILENT, UNCALLED, LONG, SHORT, CROSSING], ELSEWHERE).astype(np.int64)


def near_misses(kind: Int64s, overlap: Float64s, confidence: Float64s, most: int | None) -> Int64s:
    """Rows of wrong predictions that share a part or a word with a gold answer, surest first.

    Args:
        kind: int64[E], of `kinds_of`.
        overlap: float64[E], F1. In scripts without spaces it is 0 for a span that is wrong by a character.
        confidence: float64[E].
        most: How many; None gives all.
    """
    near = (kind != RIGHT) & ((overlap > 0) | ((kind >= LONG) & (kind <= CROSSING)))
    return _surest(near, confidence, most)


def confident_errors(kind: Int64s, overlap: Float64s, confidence: Float64s, most: int | None) -> Int64s:
    """Rows of predictions with F1 0 that are no near misses, surest first; of equal ones the earlier.

    Args:
        kind: int64[E], of `kinds_of`.
        overlap: float64[E], F1.
        confidence: float64[E].
        most: How many; None gives all.
    """
    wrong = (kind != RIGHT) & (overlap == 0) & ((kind < LONG) | (kind > CROSSING))
    return _surest(wrong, confidence, most)


def _surest(chosen: npt.NDArray[np.bool_], confidence: Float64s, most: int | None) -> Int64s:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-confidence[rows], kind="stable")][:most]


def right_within(
    result: EvaluationResult, exact: Float64s, answerable: npt.NDArray[np.bool_], counts: Sequence[int]
) -> list[tuple[int, float]]:
    """How often a right text is among a question's first candidates: what a better order of them could reach.

    Args:
        result: E predictions with N candidates each.
        exact: float64[E].
        answerable: bool[E]; only these count, and no answer is no candidate.
        counts: How many candidates are looked at; those above N are left out.

    Returns:
        (count, percent of the answerable questions) for each.
    """
    rows = np.flatnonzero(answerable)
    never = result.spans.score.shape[1]
    place = np.full(len(rows), never)
    for at, row in enumerate(rows.tolist()):
        wanted = {normalize_answer(text) for text in result.golds.answers[row]}
        if exact[row] and result.predictions[row]:
            place[at] = 0
            continue
        context = result.contexts[result.context_index[row]]
        spans = zip(result.spans.char_start[row].tolist(), result.spans.char_end[row].tolist(), strict=True)
        for number, (begin, end) in enumerate(list(spans)[: int(result.spans.count[row])]):
            if normalize_answer(context[begin:end]) in wanted:
                place[at] = number
                break
    return [
        (count, 100 * float(np.mean(place < count)) if len(rows) else 0.0) for count in counts if count <= never
    ]  # fmt: skip


def candidates_of(result: EvaluationResult, row: int, most: int) -> list[Candidate]:
    """A question's candidates, best first, no answer in its place where it may be predicted.

    Args:
        result: E predictions.
        row: Of the question.
        most: How many.
    """
    one = slice(row, row + 1)
    spans = type(result.spans)(**{name: column[one] for name, column in vars(result.spans).items()})
    shares, null_share = spans.probabilities(with_null=result.allow_no_answer)
    context = result.contexts[result.context_index[row]]
    found = [
        Candidate(context[spans.char_start[0, n] : spans.char_end[0, n]], float(shares[0, n]))
        for n in range(int(spans.count[0]))
    ]
    if result.allow_no_answer:
        found.insert(int(spans.null_rank()[0]), Candidate("", float(null_share[0])))
    return found[:most]
