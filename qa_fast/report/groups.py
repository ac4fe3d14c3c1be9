"""Scores by kinds of questions, documents and answers.

A `Grouping` puts each question into one group or leaves it out. The report shows its rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_fast.schema import Int64s
from qa_fast.scoring.golds import Golds
from qa_fast.scoring.intervals import Float64s, mean_interval, wilson

QUESTION_WORDS = ("what", "who", "when", "where", "why", "how", "which", "how many", "other")
_WORDS = re.compile(r"\b(?:(how)\s+(many|much)|what|who|whom|whose|when|where|why|how|which)\b", re.IGNORECASE)
_DOCUMENT_GROUPS = 5
_PLACE_GROUPS = 5
# Largest number of tokens in each group of answers but the last.
_ANSWER_LENGTHS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Grouping:
    """E questions in groups.

    Attributes:
        key: Name in JSON.
        title: Name on a page.
        rule: How the group of a question is found.
        names: Names of the groups.
        group: int64[E], group of each question; -1 leaves it out.
    """

    key: str
    title: str
    rule: str
    names: tuple[str, ...]
    group: Int64s

    def rows(self) -> Iterator[tuple[str, Int64s]]:
        """Yield the name and the rows of each group that holds a question."""
        for number, name in enumerate(self.names):
            rows = np.flatnonzero(self.group == number)
            if len(rows):
                yield name, rows


@dataclass(frozen=True)
class Group:
    """Scores of a group of questions in percent, with their 95 % intervals.

    Attributes:
        name: Name of the group.
        count: Number of questions.
        exact_match: Exact match in percent.
        exact_interval: Wilson's interval.
        f1: F1 in percent.
        f1_interval: The interval of the bootstrap (`intervals.mean_interval`).
    """

    name: str
    count: int
    exact_match: float
    exact_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]


def group_of(name: str, exact: Float64s, overlap: Float64s, seed: int = 0) -> Group:
    """Return the scores of one group.

    Args:
        name: Name of the group.
        exact: float64[n], exact match of its questions, 0 or 1.
        overlap: float64[n], F1 of its questions in [0, 1].
        seed: Seed of the bootstrap.
    """
    exact_match, f1 = (float(np.mean(scores)) if len(scores) else 0.0 for scores in (exact, overlap))
    low, high = wilson(exact_match, len(exact))
    f1_low, f1_high = mean_interval(overlap, seed)
    return Group(
        name, len(exact), 100 * exact_match, (100 * low, 100 * high), 100 * f1, (100 * f1_low, 100 * f1_high)
    )  # fmt: skip


def grouped(grouping: Grouping, exact: Float64s, overlap: Float64s, seed: int = 0) -> list[Group]:
    """Return the scores of each group that holds a question.

    Args:
        grouping: A grouping of E questions.
        exact: float64[E], exact match, 0 or 1.
        overlap: float64[E], F1 in [0, 1].
        seed: Seed of the bootstrap.
    """
    return [group_of(name, exact[rows], overlap[rows], seed) for name, rows in grouping.rows()]


def question_word(question: str) -> str:
    """Return the first of `QUESTION_WORDS` in a question; "other" without one, as in languages other than English."""
    match = _WORDS.search(question)
    if match is None:
        return "other"
    if match[1]:
        return "how many"
    word = match[0].lower()
    return "who" if word in ("whom", "whose") else word


def groupings(golds: Golds, answerable: npt.NDArray[np.bool_], document_chars: Int64s) -> list[Grouping]:
    """Return the groupings of a report that hold a question.

    Args:
        golds: E questions and their answers.
        answerable: bool[E].
        document_chars: int64[E], length of the document in characters.
    """
    first_starts = np.array([starts[0] if starts else 0 for starts in golds.starts], np.int64)
    has_answer = answerable & (golds.answer_tokens > 0)
    made = [
        by_question_word(golds.questions),
        by_document_length(golds.document_tokens),
        by_answer_length(golds.answer_tokens, has_answer),
        by_place(first_starts, document_chars, has_answer),
        by_window(golds.window, has_answer),
    ]
    if not answerable.all():
        made.append(by_answerable(answerable))
    return [grouping for grouping in made if (grouping.group >= 0).any()]


def by_question_word(questions: Sequence[str]) -> Grouping:
    """Group questions by `question_word`."""
    number = {word: index for index, word in enumerate(QUESTION_WORDS)}
    return Grouping(
        "question_word",
        "Question word",
        "The first English question word anywhere in the question. Whom and whose count as who, how much as how many. "
        "Questions without such a word, and questions in other languages, are in the group other.",
        QUESTION_WORDS,
        np.array([number[question_word(question)] for question in questions], np.int64),
    )


def by_document_length(tokens: npt.NDArray[np.integer]) -> Grouping:
    """Group questions by the length of their document, divided at quantiles.

    Args:
        tokens: int[E]. Equal lengths are in one group, so few distinct lengths make fewer groups.
    """
    quantiles = np.arange(1, _DOCUMENT_GROUPS) / _DOCUMENT_GROUPS
    edges = np.unique(np.quantile(tokens, quantiles, method="inverted_cdf")) if len(tokens) else np.zeros(0)
    group = np.searchsorted(edges, tokens, side="left")
    # The last edge may be the longest length, with no group after it.
    lengths = [tokens[group == number] for number in range(int(group.max(initial=-1)) + 1)]
    return Grouping(
        "document_tokens",
        "Document length",
        "Tokens of the document, divided at quantiles so that each group holds about a fifth of the questions.",
        tuple(_span(int(held.min()), int(held.max())) for held in lengths),
        group.astype(np.int64),
    )


def by_answer_length(tokens: npt.NDArray[np.integer], has_answer: npt.NDArray[np.bool_]) -> Grouping:
    """Group questions by the tokens of the first gold answer.

    Args:
        tokens: int[E].
        has_answer: bool[E]; the other questions are left out.
    """
    lows = (1, *(last + 1 for last in _ANSWER_LENGTHS))
    names = [_span(low, high) for low, high in zip(lows, _ANSWER_LENGTHS, strict=False)]
    return Grouping(
        "answer_tokens",
        "Answer length",
        "Tokens of the first gold answer.",
        (*names, f"{lows[-1]} and more"),
        np.where(has_answer, np.searchsorted(_ANSWER_LENGTHS, tokens, side="left"), -1),
    )


def by_place(
    char_start: npt.NDArray[np.integer], document_chars: npt.NDArray[np.integer], has_answer: npt.NDArray[np.bool_]
) -> Grouping:
    """Group questions by the place of the first gold answer, in fifths of the document's characters.

    Args:
        char_start: int[E], first character of the answer.
        document_chars: int[E], length of the document.
        has_answer: bool[E]; the other questions are left out.
    """
    place = _PLACE_GROUPS * np.asarray(char_start, np.int64) // np.maximum(document_chars, 1)
    step = 100 // _PLACE_GROUPS
    return Grouping(
        "answer_place",
        "Place of the answer",
        "Position of the first character of the first gold answer, relative to the length of the document.",
        tuple(f"{step * number}–{step * (number + 1)} %" for number in range(_PLACE_GROUPS)),
        np.where(has_answer, np.minimum(place, _PLACE_GROUPS - 1), -1),
    )


def by_window(window: npt.NDArray[np.integer], has_answer: npt.NDArray[np.bool_]) -> Grouping:
    """Group questions by the first window that holds the whole first gold answer.

    Args:
        window: int[E], number of the window from 0; -1 for none.
        has_answer: bool[E]; the other questions are left out.
    """
    return Grouping(
        "answer_window",
        "Window of the answer",
        "The first window that holds the whole first gold answer. A long document is cut into several windows.",
        ("first", "second", "third or later", "none"),
        np.where(has_answer, np.where(window < 0, 3, np.minimum(window, 2)), -1),
    )


def by_answerable(answerable: npt.NDArray[np.bool_]) -> Grouping:
    """Group questions by whether they have an answer, bool[E]."""
    return Grouping(
        "answerable",
        "Answerable",
        "Whether the document answers the question.",
        ("answerable", "unanswerable"),
        np.where(answerable, 0, 1),
    )


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
