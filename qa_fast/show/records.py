"""What there is to show, gathered once and drawn by the terminal and the page alike.

Characters count in the context as given, tokens in the document or, where a name says position, in the feature; spans
are half-open but for labels, whose end is the last token (inclusive), as in the shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Positions(NamedTuple):
    """A label: positions in the feature of the answer's first and last token (inclusive)."""

    start: int
    end: int


@dataclass(frozen=True)
class Token:
    """One position of a feature.

    Attributes:
        position: In the feature.
        token_id: In the vocabulary.
        text: As the vocabulary writes it.
        part: "special", "question" or "context".
        char_start: First character in the context, or None where the token is none of it or that is not known.
        char_end: One past the last.
    """

    position: int
    token_id: int
    text: str
    part: str
    char_start: int | None = None
    char_end: int | None = None


@dataclass(frozen=True)
class Window:
    """One feature.

    Attributes:
        index: 0 for an example's first.
        token_start: First context token, in the document; None where that is not known.
        token_end: One past the last.
        char_start: First character of the context that it holds; None where that is not known.
        char_end: One past the last.
        tokens: All its positions.
        cls_position: Where "no answer" is labelled.
        label: What training sees.
        exact: The label of `--labels exact`; None where it cannot be computed.
        reference: That of `--labels reference`.
        label_text: What of the context the label reads as; None at CLS.
        reference_text: The same of `reference`.
        cause: Why the two differ, one of `kernels.labels.CAUSES`; None where they do not.
        kept: False where it was or would be left out because it does not hold its answer.
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
    reference_text: str | None = None
    cause: str | None = None
    kept: bool = True

    @property
    def holds_answer(self) -> bool:
        """Whether it is labelled with an answer."""
        return self.label.start != self.cls_position


@dataclass(frozen=True)
class Shown:
    """One example, up to what a model is trained on.

    Attributes:
        split: Its split.
        id: As given.
        question: As given, or decoded from tokens.
        context: As given; None where it could not be had.
        answers: (first character, text) of each, as given.
        span: Characters of the first answer without white space at its ends, as checked; None: there is none.
        rejected: Why it was or would be left out.
        notes: What else to know, in sentences.
        question_tokens: Tokens of the question.
        document_tokens: Tokens of the context; None where not known.
        windows: In order; none where it is rejected.
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
    """The characters of the answers that stand in the context where they say they do."""
    for start, text in answers:
        if start is not None and text and start >= 0 and context.startswith(text, start):
            yield start, start + len(text)


@dataclass(frozen=True)
class Rejected:
    """An example left out: its split, id and why."""

    split: str
    id: str
    reason: str

    @property
    def rule(self) -> str:
        """The rule it broke, without what was received: as many of one kind have it."""
        return self.reason.partition("; received")[0].partition(" at answer_start=")[0]


@dataclass(frozen=True)
class Distribution:
    """How some numbers are spread.

    Attributes:
        name: What they are.
        unit: What they count.
        count: How many numbers.
        least: The smallest; 0 where there is none, as for the others.
        median: Half are below.
        mean: Their mean.
        p95: 95 of 100 are at most this.
        p99: 99 of 100.
        most: The largest.
        edges: N + 1 edges of bins.
        counts: Numbers in each of N bins.
        overflow: Numbers beyond the last edge.
    """

    name: str
    unit: str
    count: int
    least: float
    median: float
    mean: float
    p95: float
    p99: float
    most: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    overflow: int


@dataclass(frozen=True)
class SplitStatistics:
    """A split in numbers. Where no tokenizer was asked, what counts tokens or windows is empty.

    Attributes:
        split: Its name.
        rows: Examples read, the rejected ones included.
        good: Examples that pass the checks; all below counts these.
        rejected: How many broke which rule.
        repaired: First answers that were put where their text stands.
        unanswerable: Examples without an answer.
        distinct: Distinct "questions", "contexts" and "pairs" of both.
        shared: Of those, how many an earlier split has too.
        distributions: By name, see `statistics`.
        tallies: By name, how often each small number comes: windows of an example, answers of an example.
        windows: Features.
        windows_without_answer: Of answerable questions, those that do not hold the answer.
        cut_answers: Answerable questions that no window holds the whole answer of.
        tokens: Of all features, special ones included.
        differences: Features labelled differently by `exact` and `reference`, by cause.
    """

    split: str
    rows: int
    good: int
    rejected: dict[str, int]
    repaired: int
    unanswerable: int
    distinct: dict[str, int]
    shared: dict[str, int]
    distributions: dict[str, Distribution]
    tallies: dict[str, dict[int, int]]
    windows: int | None = None
    windows_without_answer: int = 0
    cut_answers: int = 0
    tokens: int = 0
    differences: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """All that one command shows.

    Attributes:
        title: What was looked at.
        facts: About all of it, name -> value.
        notes: What else to know, in sentences.
        counts: Split -> its counts by name: read off an index, or computed.
        statistics: Of each split, where they were asked for.
        examples: In order.
        rejected: Examples left out, where they were asked for; None where not.
        rejected_total: How many there are in all.
        rejected_rules: How many broke which rule.
    """

    title: str
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: tuple[SplitStatistics, ...] = ()
    examples: tuple[Shown, ...] = ()
    rejected: tuple[Rejected, ...] | None = None
    rejected_total: int = 0
    rejected_rules: dict[str, int] = field(default_factory=dict)
