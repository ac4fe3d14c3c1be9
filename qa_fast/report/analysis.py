"""All figures of a report, computed before anything is drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.report.compare import Comparison, GroupDifference, Other, compare, compare_groups, most_different
from qa_fast.report.groups import Group, Grouping, group_of, grouped, groupings
from qa_fast.report.mistakes import KINDS, confident_errors, kinds_of, near_misses, right_within
from qa_fast.report.risk import Calibration, RiskCoverage, calibration, confidence_of, risk_coverage
from qa_fast.schema import Int64s
from qa_fast.scoring.intervals import Float64s
from qa_fast.scoring.metrics import answerable_of
from qa_fast.scoring.result import EvaluationResult

# Questions shown of each kind. With their documents, a page stays below half a megabyte.
MOST_SHOWN = 20
COVERAGES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
_CANDIDATE_COUNTS = (1, 2, 3, 5, 10, 20)


@dataclass(frozen=True)
class QuestionScores:
    """The scores of each of the E questions of a result.

    Attributes:
        result: The result.
        exact: float64[E], exact match, 0 or 1.
        overlap: float64[E], F1 in [0, 1].
        answerable: bool[E].
        confidence: float64[E], see `risk.confidence_of`.
        groupings: The groupings of the questions.
    """

    result: EvaluationResult
    exact: Float64s
    overlap: Float64s
    answerable: npt.NDArray[np.bool_]
    confidence: Float64s
    groupings: list[Grouping]

    @classmethod
    def of(cls, result: EvaluationResult) -> QuestionScores:
        """Score each question of a result."""
        exact, overlap = result.scores_of(result.predictions)
        answerable = answerable_of(result.golds.answers)
        document_chars = np.array([len(context) for context in result.contexts], np.int64)[result.context_index]
        made = groupings(result.golds, answerable, document_chars)
        return QuestionScores(result, exact, overlap, answerable, confidence_of(result), made)


@dataclass(frozen=True)
class Against:
    """The comparison of a result with another model's answers.

    Attributes:
        other: The other model.
        overlap: float64[E], its F1 in [0, 1].
        scores: Its scores over all questions.
        comparison: Scores of the result less those of the other model.
        groups: Each grouping with the differences in its groups.
        better: Rows on which the result is better, the largest difference first.
        worse: Rows on which the other model is better.
    """

    other: Other
    overlap: Float64s
    scores: Group
    comparison: Comparison
    groups: list[tuple[Grouping, list[GroupDifference]]]
    better: Int64s
    worse: Int64s

    def to_dict(self, ids: list[str]) -> dict[str, Any]:
        """Return the figures as JSON-ready values: the other model, its scores, differences in points.

        Args:
            ids: Ids of the E questions.
        """
        return {
            "other": self.other.name,
            "other_exact_match": self.scores.exact_match,
            "other_f1": self.scores.f1,
            **dataclasses.asdict(self.comparison),
            "groups": {
                grouping.key: [dataclasses.asdict(difference) for difference in differences]
                for grouping, differences in self.groups
            },
            "most_better": [ids[row] for row in self.better],
            "most_worse": [ids[row] for row in self.worse],
        }


@dataclass(frozen=True)
class Analysis(QuestionScores):
    """All figures of a report about a result of E questions.

    Attributes:
        overall: Scores of all questions.
        groups: Each grouping with the scores of its groups.
        risk: Loss of F1 if only the most confident predictions are given.
        risk_exact: The same for exact match.
        calibration: Confidence against exact match.
        uncalibrated: The same without the model's calibration; None if it has none.
        kind: int64[E], see `mistakes.kinds_of`.
        right_within: For some numbers of candidates, the percentage of answerable questions with a right text among
            so many candidates.
        errors: Rows of errors, the most confident first.
        near: Rows of near misses, the most confident first.
        most: Questions to list of each kind.
        against: The comparison with another model, if there is one.
    """

    overall: Group
    groups: list[tuple[Grouping, list[Group]]]
    risk: RiskCoverage
    risk_exact: RiskCoverage
    calibration: Calibration
    uncalibrated: Calibration | None
    kind: Int64s
    right_within: list[tuple[int, float]]
    errors: Int64s
    near: Int64s
    most: int
    against: Against | None

    def coverage_points(self) -> list[dict[str, float]]:
        """Return points of the risk-coverage curves: coverage, questions, least_confidence, f1, exact_match."""
        return [
            {
                "coverage": coverage,
                "questions": count,
                "least_confidence": least,
                "f1": 100 * (1 - risk),
                "exact_match": 100 * (1 - risk_exact),
            }
            for (coverage, count, least, risk), (*_, risk_exact) in zip(
                self.risk.at(COVERAGES), self.risk_exact.at(COVERAGES), strict=True
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready figures: overall, groups, risk_coverage, calibration, mistakes, comparison."""
        ids = self.result.ids
        figures: dict[str, Any] = {
            "overall": dataclasses.asdict(self.overall),
            "groups": {
                grouping.key: {"rule": grouping.rule, "groups": [dataclasses.asdict(group) for group in groups]}
                for grouping, groups in self.groups
            },
            "risk_coverage": {
                "aurc": self.risk.aurc,
                "excess_aurc": self.risk.excess,
                "aurc_exact": self.risk_exact.aurc,
                "excess_aurc_exact": self.risk_exact.excess,
                "points": self.coverage_points(),
            },
            "calibration": self.calibration.to_dict(),
            **({} if self.uncalibrated is None else {"uncalibrated": self.uncalibrated.to_dict()}),
            "mistakes": {
                "kinds": dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True)),
                "confident_errors": [ids[row] for row in self.errors[: self.most]],
                "near_misses": [ids[row] for row in self.near[: self.most]],
                "right_within": {str(count): percentage for count, percentage in self.right_within},
            },
        }
        if self.against is not None:
            figures["comparison"] = self.against.to_dict(ids)
        return figures


def analyse(result: EvaluationResult, other: Other | None = None, *, most: int = MOST_SHOWN, seed: int = 0) -> Analysis:
    """Compute all figures of a report.

    Args:
        result: From `qa_fast.evaluate`.
        other: Another model's answers to the same questions.
        most: Questions to list of each kind.
        seed: Seed of the bootstraps.
    """
    scores = QuestionScores.of(result)
    exact, overlap, confidence = scores.exact, scores.overlap, scores.confidence
    kind = kinds_of(result, exact, scores.answerable)
    is_calibrated = result.rules.calibration is not None
    return Analysis(
        **vars(scores),
        overall=group_of("all", exact, overlap, seed),
        groups=[(grouping, grouped(grouping, exact, overlap, seed)) for grouping in scores.groupings],
        risk=risk_coverage(confidence, 1 - overlap),
        risk_exact=risk_coverage(confidence, 1 - exact),
        calibration=calibration(confidence, exact),
        uncalibrated=calibration(confidence_of(result, calibrated=False), exact) if is_calibrated else None,
        kind=kind,
        right_within=right_within(result, exact, scores.answerable, _CANDIDATE_COUNTS),
        errors=confident_errors(kind, overlap, confidence),
        near=near_misses(kind, overlap, confidence),
        most=most,
        against=None if other is None else set_against(scores, other, most=most, seed=seed),
    )


def set_against(scores: QuestionScores, other: Other, *, most: int = MOST_SHOWN, seed: int = 0) -> Against:
    """Compare a result with another model's answers to the same questions.

    Args:
        scores: Scores of the result.
        other: The other model's answers.
        most: Questions to list for each direction.
        seed: Seed of the bootstraps.

    Raises:
        ValueError: The numbers of answers and questions differ.
    """
    result = scores.result
    exact, overlap = result.scores_of(other.predictions)
    better, worse = most_different(scores.overlap, overlap, scores.confidence, most)
    return Against(
        other=other,
        overlap=overlap,
        scores=group_of(other.name, exact, overlap, seed),
        comparison=compare(scores.exact, scores.overlap, exact, overlap, seed=seed),
        groups=[(grouping, compare_groups(grouping, scores.overlap, overlap, seed)) for grouping in scores.groupings],
        better=better,
        worse=worse,
    )
