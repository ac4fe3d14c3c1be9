"""All that a report tells of a result, computed once, before anything is drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.report.compare import Comparison, Difference, compare, compare_group, most_different
from qa_fast.report.groups import Group, Grouping, group_of, grouped, groupings
from qa_fast.report.intervals import Float64s
from qa_fast.report.mistakes import KINDS, confident_errors, kinds_of, near_misses, right_within
from qa_fast.report.risk import Calibration, RiskCoverage, calibration, confidence_of, risk_coverage
from qa_fast.schema import Int64s
from qa_fast.scoring.metrics import answerable_of, question_scores
from qa_fast.scoring.result import EvaluationResult

# Questions of each kind that are shown; a page of these with their documents stays below half a megabyte.
MOST_SHOWN = 20
COVERAGES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
_WITHIN = (1, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class Other:
    """Another model's answers to the same E questions.

    Attributes:
        name: What it is called.
        predictions: Its answers; "" is no answer.
        source: Where they come from, for the reader.
    """

    name: str
    predictions: list[str]
    source: str = ""


@dataclass(frozen=True)
class GroupDifference:
    """How much better a result is than another in one group: None in groups of less than 30 questions."""

    name: str
    count: int
    f1: Difference | None


@dataclass(frozen=True)
class Against:
    """A result beside another model's answers.

    Attributes:
        other: The other model.
        exact: float64[E], its exact match.
        overlap: float64[E], its F1 in [0, 1].
        scores: Its scores over all questions.
        comparison: The result's scores less these.
        groups: Each grouping with the differences in its groups.
        better: Rows where the result is better, the largest difference first.
        worse: Rows where the other is.
    """

    other: Other
    exact: Float64s
    overlap: Float64s
    scores: Group
    comparison: Comparison
    groups: list[tuple[Grouping, list[GroupDifference]]]
    better: Int64s
    worse: Int64s


@dataclass(frozen=True)
class Analysis:
    """A result of E questions, looked at from all sides.

    Attributes:
        result: What was scored.
        exact: float64[E], exact match, 0 or 1.
        overlap: float64[E], F1 in [0, 1].
        answerable: bool[E].
        confidence: float64[E], of `risk.confidence_of`.
        overall: Scores of all questions.
        groups: Each grouping with the scores of its groups.
        risk: What is lost of F1 where only the surest questions are answered.
        risk_exact: The same of exact match.
        calibration: Confidence against exact match.
        kind: int64[E], of `mistakes.kinds_of`.
        within: (count, percent): answerable questions with a right text among so many candidates.
        errors: Rows of the surest errors.
        near: Rows of the surest near misses.
        errors_in_all: How many errors there are.
        near_in_all: How many near misses.
        against: The comparison with another model, if one was asked for.
    """

    result: EvaluationResult
    exact: Float64s
    overlap: Float64s
    answerable: npt.NDArray[np.bool_]
    confidence: Float64s
    overall: Group
    groups: list[tuple[Grouping, list[Group]]]
    risk: RiskCoverage
    risk_exact: RiskCoverage
    calibration: Calibration
    kind: Int64s
    within: list[tuple[int, float]]
    errors: Int64s
    near: Int64s
    errors_in_all: int
    near_in_all: int
    against: Against | None

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready values: overall, groups, risk_coverage, calibration, mistakes, comparison."""
        figures: dict[str, Any] = {
            "overall": dataclasses.asdict(self.overall),
            "groups": {
                grouping.key: {"rule": grouping.rule, "groups": [dataclasses.asdict(group) for group in found]}
                for grouping, found in self.groups
            },
            "risk_coverage": {
                "aurc": self.risk.aurc,
                "excess_aurc": self.risk.excess,
                "aurc_exact": self.risk_exact.aurc,
                "excess_aurc_exact": self.risk_exact.excess,
                "points": [
                    {
                        "coverage": coverage,
                        "questions": count,
                        "least_confidence": least,
                        "f1": 100 * (1 - risk),
                        "exact_match": 100 * (1 - exact),
                    }
                    for (coverage, count, least, risk), (*_, exact) in zip(
                        self.risk.at(COVERAGES), self.risk_exact.at(COVERAGES), strict=True
                    )
                ],
            },
            "calibration": {
                "expected_calibration_error": self.calibration.error,
                "bins": [
                    {"questions": count, "confidence": confidence, "exact_match": 100 * accuracy}
                    for count, confidence, accuracy in zip(
                        self.calibration.count.tolist(),
                        self.calibration.confidence.tolist(),
                        self.calibration.accuracy.tolist(),
                        strict=True,
                    )
                ],
            },
            "mistakes": {
                "kinds": dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True)),
                "confident_errors": [self.result.ids[row] for row in self.errors],
                "near_misses": [self.result.ids[row] for row in self.near],
                "right_within": {str(count): share for count, share in self.within},
            },
        }
        if self.against is not None:
            figures["comparison"] = comparison_dict(self.result, self.against)
        return figures


def analyse(result: EvaluationResult, other: Other | None = None, *, most: int = MOST_SHOWN, seed: int = 0) -> Analysis:
    """Look at a result from all sides.

    Args:
        result: What `scoring.evaluate` gave.
        other: Another model's answers to the same questions.
        most: Questions shown of each kind.
        seed: Of the bootstraps.
    """
    exact, overlap, answerable, confidence = _scores(result)
    made = _groupings(result, answerable)
    kind = kinds_of(result, exact, answerable)
    errors, near = (choose(kind, overlap, confidence, None) for choose in (confident_errors, near_misses))
    return Analysis(
        result=result,
        exact=exact,
        overlap=overlap,
        answerable=answerable,
        confidence=confidence,
        overall=group_of("all", exact, overlap, seed),
        groups=[(grouping, grouped(grouping, exact, overlap, seed)) for grouping in made],
        risk=risk_coverage(confidence, 1 - overlap),
        risk_exact=risk_coverage(confidence, 1 - exact),
        calibration=calibration(confidence, exact),
        kind=kind,
        within=right_within(result, exact, answerable, _WITHIN),
        errors=errors[:most],
        near=near[:most],
        errors_in_all=len(errors),
        near_in_all=len(near),
        against=None if other is None else _against(result, other, exact, overlap, confidence, made, most, seed),
    )


def set_against(result: EvaluationResult, other: Other, *, most: int = MOST_SHOWN, seed: int = 0) -> Against:
    """Compare a result with another model's answers to the same questions.

    Args:
        result: E predictions.
        other: As many.
        most: Questions shown of each kind.
        seed: Of the bootstraps.

    Raises:
        ValueError: The answers are not as many as the questions.
    """
    exact, overlap, answerable, confidence = _scores(result)
    return _against(result, other, exact, overlap, confidence, _groupings(result, answerable), most, seed)


def _scores(result: EvaluationResult) -> tuple[Float64s, Float64s, npt.NDArray[np.bool_], Float64s]:
    """Exact match, F1, whether there is an answer, confidence, each [E]."""
    scores = question_scores(result.predictions, result.golds.answers, no_answer=result.as_v2)
    return *scores, answerable_of(result.golds.answers), confidence_of(result)


def _groupings(result: EvaluationResult, answerable: npt.NDArray[np.bool_]) -> list[Grouping]:
    lengths = np.array([len(context) for context in result.contexts], np.int64)[result.context_index]
    return groupings(result.golds, answerable, lengths)


def _against(
    result: EvaluationResult,
    other: Other,
    exact: Float64s,
    overlap: Float64s,
    confidence: Float64s,
    made: list[Grouping],
    most: int,
    seed: int,
) -> Against:
    other_exact, other_overlap = question_scores(other.predictions, result.golds.answers, no_answer=result.as_v2)
    better, worse = most_different(overlap, other_overlap, confidence, most)
    groups = [
        (
            grouping,
            [
                GroupDifference(name, len(rows), compare_group(overlap[rows], other_overlap[rows], seed))
                for number, name in enumerate(grouping.names)
                if len(rows := np.flatnonzero(grouping.group == number))
            ],
        )
        for grouping in made
    ]
    return Against(
        other=other,
        exact=other_exact,
        overlap=other_overlap,
        scores=group_of(other.name, other_exact, other_overlap, seed),
        comparison=compare(exact, overlap, other_exact, other_overlap, seed=seed),
        groups=groups,
        better=better,
        worse=worse,
    )


def comparison_dict(result: EvaluationResult, against: Against) -> dict[str, Any]:
    """A comparison as JSON-ready values: the other model, its scores, the differences in points."""
    return {
        "other": against.other.name,
        "other_exact_match": against.scores.exact_match,
        "other_f1": against.scores.f1,
        **dataclasses.asdict(against.comparison),
        "groups": {
            grouping.key: [dataclasses.asdict(difference) for difference in found] for grouping, found in against.groups
        },
        "most_better": [result.ids[row] for row in against.better],
        "most_worse": [result.ids[row] for row in against.worse],
    }
