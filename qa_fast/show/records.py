"""Records of everything that is shown; they are gathered once and drawn by the terminal and by the page.

Characters count in the context as given. Tokens count in the document; positions count in the feature. Spans are
half-open, except for labels, whose end is the last token (inclusive), as in the shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qa_fast.show.distribution import Distribution


class Positions(NamedTuple):
    """A label: positions in the feature of the answer's first and last token (inclusive)."""

    start: int
    end: int


@dataclass(frozen=True)
class Token:
    """One position of a feature.

    Attributes:
        position: Position in the feature.
        token_id: Id in the vocabulary.
        text: The token as the vocabulary writes it; byte-level tokens as characters.
        part: "special", "question" or "context".
        char_start: First character in the context; None outside the context, or if the context is not available.
        char_end: One past the last character.
    """

    position: int
    token_id: int
    text: str
    part: str
    char_start: int | None = None
    char_end: int | None = None


@dataclass(frozen=True)
class Window:
    """One feature. Attributes that need the texts are None if these are not available.

    Attributes:
        index: Number of the window within its example, from 0.
        token_start: First token of the document that the window holds.
        token_end: One past the last token.
        char_start: First character of the context that the window holds.
        char_end: One past the last character.
        tokens: All tokens of the feature.
        cls_position: Position that is labelled if the window holds no answer.
        label: The label that training uses.
        exact: The label of `--labels exact`.
        reference: The label of `--labels reference`.
        label_text: Text of the context at the label; None if the label is CLS.
        cause: Why `exact` and `reference` differ, one of `kernels.labels.CAUSES`; None if they are equal.
        kept: False if the window is left out because it does not hold the answer.
    """

    index: int
    token_start: int | None
    token_end: int | None
    char_start: int | None
    char_end: int | None
    tokens: tuple[Token, ...]
    cls_position: int
    label: Positions
    exact: Positions | None = None
    reference: Positions | None = None
    label_text: str | None = None
    cause: str | None = None
    kept: bool = True

    @property
    def holds_answer(self) -> bool:
        """True if the window is labelled with an answer."""
        return self.label.start != self.cls_position


@dataclass(frozen=True)
class ShownExample:
    """One example with its windows.

    Attributes:
        split: Name of the split.
        id: Id as given.
        question: Question as given, or decoded from tokens.
        context: Context as given; None if it is not available.
        answers: First character and text of each answer, as given.
        span: Characters of the first answer after the checks, without surrounding white space; None without an answer.
        rejected: Why the example is left out.
        notes: Remarks, in sentences.
        question_tokens: Number of tokens of the question.
        document_tokens: Number of tokens of the context; None if it is not available.
        windows: Its windows in order; empty if it is rejected.
    """

    split: str
    id: str
    question: str
    context: str | None
    answers: tuple[tuple[int | None, str | None], ...]
    span: tuple[int, int] | None = None
    rejected: str | None = None
    notes: tuple[str, ...] = ()
    question_tokens: int = 0
    document_tokens: int | None = None
    windows: tuple[Window, ...] = ()


def placed(context: str, answers: Iterable[tuple[int | None, str | None]]) -> Iterator[tuple[int, int]]:
    """Yield the spans of the answers whose text is in the context at their start."""
    for start, text in answers:
        if start is not None and text and start >= 0 and context.startswith(text, start):
            yield start, start + len(text)


@dataclass(frozen=True)
class RejectedExample:
    """An example that is left out: its split, its id and the reason."""

    split: str
    id: str
    reason: str

    @property
    def rule(self) -> str:
        """The rule that the example breaks, without the values received, so that equal rules can be counted."""
        return self.reason.partition("; received")[0].partition(" at answer_start=")[0]


@dataclass(frozen=True)
class RepairedExample:
    """An example whose first answer was repaired, or that is kept for scoring alone: cause of it, and the change."""

    split: str
    id: str
    cause: str
    reason: str


@dataclass(frozen=True)
class SplitStatistics:
    """Figures of a split. Counts of tokens and windows are empty if no tokenizer was used.

    Attributes:
        split: Name of the split.
        good: Number of examples that pass the checks. All figures below count these.
        rejected: Number of rejected examples, by rule.
        repaired: Number of first answers that were not at their start and were repaired.
        unplaced: Number of examples that are kept for scoring although their first answer has no certain place.
        unanswerable: Number of examples without an answer.
        distinct: Number of distinct "questions", "contexts" and "pairs" of both.
        shared: How many of those are in an earlier split too.
        distributions: Distributions by name, see `statistics.DISTRIBUTIONS`.
        tallies: How often each number occurs, for the numbers of windows and of answers of an example.
        windows: Number of features.
        windows_without_answer: Number of windows of answerable questions that do not hold the answer.
        cut_answers: Number of answerable questions whose answer is in no window as a whole.
        tokens: Number of tokens of all features, special tokens included.
        text_tokens: Number of tokens of the questions and contexts.
        unknown_tokens: Number of those that stand for text that the vocabulary cannot write.
        differences: Number of features that `exact` and `reference` label differently, by cause.
    """

    split: str
    good: int
    rejected: dict[str, int]
    repaired: int
    unplaced: int
    unanswerable: int
    distinct: dict[str, int]
    shared: dict[str, int]
    distributions: dict[str, Distribution]
    tallies: dict[str, dict[int, int]]
    windows: int | None = None
    windows_without_answer: int = 0
    cut_answers: int = 0
    tokens: int = 0
    text_tokens: int = 0
    unknown_tokens: int = 0
    differences: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Overview:
    """Everything that one command shows.

    Attributes:
        title: Name of the source or of the shards.
        facts: Facts about the whole, name -> value.
        notes: Remarks, in sentences.
        counts: Counts of each split by name, from the index of the shards or computed.
        statistics: Statistics of each split, if requested.
        examples: Examples in order.
        rejected: The first rejected examples; None if they were not requested.
        rejected_rules: Number of rejected examples in all, by rule.
        repaired: The first repaired examples; None if they were not requested.
        repaired_causes: Number of repaired examples in all, by cause.
    """

    title: str
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: tuple[SplitStatistics, ...] = ()
    examples: tuple[ShownExample, ...] = ()
    rejected: tuple[RejectedExample, ...] | None = None
    rejected_rules: dict[str, int] = field(default_factory=dict)
    repaired: tuple[RepairedExample, ...] | None = None
    repaired_causes: dict[str, int] = field(default_factory=dict)

    @property
    def rejected_count(self) -> int:
        """Number of rejected examples in all."""
        return sum(self.rejected_rules.values())
