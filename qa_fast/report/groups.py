"""Scores by kinds of questions, documents and answers: which are easy for a model, and which are not.

A `Grouping` puts each question into one group or leaves it out; its rule is a sentence that the report shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_fast.report.intervals import Float64s, mean_interval, wilson
from qa_fast.schema import Int64s
from qa_fast.scoring.golds import Golds

QUESTION_WORDS = ("what", "who", "when", "where", "why", "how", "which", "how many", "other")
_WORDS = re.compile(r"\b(?:(how)\s+(many|much)|what|who|whom|whose|when|where|why|how|which)\b", re.IGNORECASE)
_DOCUMENT_PARTS = 5
_PLACES = 5
# Last token count of each group of answers.
_ANSWER_LENGTHS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Grouping:
    """E questions put into groups.

    Attributes:
        key: Its name in JSON.
        title: Its name on a page.
        rule: How a question comes into a group.
        names: Of the groups.
        group: int64[E], each question's group; -1 is left out.
    """

    key: str
    title: str
    rule: str
    names: tuple[str, ...]
    group: Int64s


@dataclass(frozen=True)
class Group:
    """What the questions of a group score, in percent, each with its 95 % interval.

    Attributes:
        name: Of the group.
        count: Questions in it.
        exact_match: In percent.
        exact_interval: Wilson's.
        f1: In percent.
        f1_interval: The bootstrap's (`intervals.mean_interval`).
    """

    name: str
    count: int
    exact_match: float
    exact_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]


def group_of(name: str, exact: Float64s, overlap: Float64s, seed: int = 0) -> Group:
    """The scores of one group.

    Args:
        name: Of the group.
        exact: float64[n], exact match of its questions, 0 or 1.
        overlap: float64[n], their F1 in [0, 1].
        seed: Of the bootstrap.
    """
    right, common = (float(np.mean(scores)) if len(scores) else 0.0 for scores in (exact, overlap))
    low, high = wilson(right, len(exact))
    f1_low, f1_high = mean_interval(overlap, seed)
    return Group(
        name, len(exact), 100 * right, (100 * low, 100 * high), 100 * common, (100 * f1_low, 100 * f1_high)
    )  # fmt: skip


def grouped(grouping: Grouping, exact: Float64s, overlap: Float64s, seed: int = 0) -> list[Group]:
    """The scores of the groups that hold a question, in the grouping's order.

    Args:
        grouping: Of E questions.
        exact: float64[E], 0 or 1.
        overlap: float64[E], F1 in [0, 1].
        seed: Of the bootstrap.
    """
    rows = [np.flatnonzero(grouping.group == number) for number in range(len(grouping.names))]
    return [
        group_of(name, exact[held], overlap[held], seed)
        for name, held in zip(grouping.names, rows, strict=True)
        if len(held)
    ]


def question_word(question: str) -> str:
    """The first of `QUESTION_WORDS` that stands in a question; "other" without one, as in any language but English."""
    found = _WORDS.search(question)
    if found is None:
        return "other"
    if found[1]:
        return "how many"
    word = found[0].lower()
    return "who" if word in ("whom", "whose") else word


def groupings(golds: Golds, answerable: npt.NDArray[np.bool_], document_chars: Int64s) -> list[Grouping]:
    """All ways that a report groups questions by, those left out that would hold one group of nothing.

    Args:
        golds: E questions and their answers.
        answerable: bool[E].
        document_chars: int64[E], characters of the document.
    """
    first = np.array([starts[0] if starts else 0 for starts in golds.starts], np.int64)
    answered = answerable & (golds.answer_tokens > 0)
    made = [
        by_question_word(golds.questions),
        by_document_length(golds.document_tokens),
        by_answer_length(golds.answer_tokens, answered),
        by_place(first, document_chars, answered),
        by_window(golds.window, answered),
    ]
    if not answerable.all():
        made.append(by_answerable(answerable))
    return [grouping for grouping in made if (grouping.group >= 0).any()]


def by_question_word(questions: Sequence[str]) -> Grouping:
    """By `question_word`."""
    number = {word: index for index, word in enumerate(QUESTION_WORDS)}
    return Grouping(
        "question_word",
        "Question word",
        "The first English question word in the question, wherever it stands. Whom and whose count as who, how much as "
        "how many. Questions without one, and those in other languages, are other.",
        QUESTION_WORDS,
        np.array([number[question_word(question)] for question in questions], np.int64),
    )


def by_document_length(tokens: npt.NDArray[np.integer]) -> Grouping:
    """By tokens of the document, cut at the quantiles: each group holds about a fifth of the questions.

    Args:
        tokens: int[E]. Equal lengths stay together, so that few distinct ones make fewer groups.
    """
    cuts = np.arange(1, _DOCUMENT_PARTS) / _DOCUMENT_PARTS
    edges = np.unique(np.quantile(tokens, cuts, method="inverted_cdf")) if len(tokens) else np.zeros(0)
    found = np.searchsorted(edges, tokens, side="left")
    # The last edge may be the longest length, with nothing beyond.
    groups = [tokens[found == number] for number in range(int(found.max(initial=-1)) + 1)]
    return Grouping(
        "document_tokens",
        "Document length",
        "Tokens of the document, cut at the quantiles so that each group holds about a fifth of the questions.",
        tuple(_span(int(held.min()), int(held.max())) for held in groups),
        found.astype(np.int64),
    )


def by_answer_length(tokens: npt.NDArray[np.integer], answered: npt.NDArray[np.bool_]) -> Grouping:
    """By tokens of the first gold answer, in fixed groups.

    Args:
        tokens: int[E].
        answered: bool[E]; the others are left out.
    """
    lows = (1, *(last + 1 for last in _ANSWER_LENGTHS))
    names = [_span(low, high) for low, high in zip(lows, _ANSWER_LENGTHS, strict=False)]
    found = np.searchsorted(_ANSWER_LENGTHS, tokens, side="left")
    return Grouping(
        "answer_tokens",
        "Answer length",
        "Tokens of the first gold answer, in fixed groups.",
        (*names, f"{lows[-1]} and more"),
        np.where(answered, found, -1),
    )


def by_place(
    char_start: npt.NDArray[np.integer], document_chars: npt.NDArray[np.integer], answered: npt.NDArray[np.bool_]
) -> Grouping:
    """By where in its document the first gold answer begins, in fifths of the document's characters.

    Args:
        char_start: int[E].
        document_chars: int[E].
        answered: bool[E]; the others are left out.
    """
    part = np.minimum(_PLACES * np.asarray(char_start, np.int64) // np.maximum(document_chars, 1), _PLACES - 1)
    step = 100 // _PLACES
    return Grouping(
        "answer_place",
        "Place of the answer",
        "How far into the document the first gold answer begins, in characters.",
        tuple(f"{step * number}–{step * (number + 1)} %" for number in range(_PLACES)),
        np.where(answered, part, -1),
    )


def by_window(window: npt.NDArray[np.integer], answered: npt.NDArray[np.bool_]) -> Grouping:
    """By the first window that holds the first gold answer whole.

    Args:
        window: int[E], from 0; -1 for none.
        answered: bool[E]; the others are left out.
    """
    return Grouping(
        "answer_window",
        "Window of the answer",
        "The first window of the document that holds the first gold answer whole. Long documents are read in several, "
        "which overlap.",
        ("first", "second", "third or later", "none"),
        np.where(answered, np.where(window < 0, 3, np.minimum(window, 2)), -1),
    )


def by_answerable(answerable: npt.NDArray[np.bool_]) -> Grouping:
    """By whether a question has an answer, bool[E]."""
    return Grouping(
        "answerable",
        "Answerable",
        "Whether the document answers the question.",
        ("answerable", "unanswerable"),
        np.where(answerable, 0, 1),
    )


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
