"""Whether a model knows when it is right: what it scores on the questions that it is surest of, and calibration.

Confidence is the probability of what was predicted, a softmax over a question's kept candidates (and no answer, where
it may be predicted). It ranks questions, and is no chance of being right before its calibration was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_fast.report.intervals import Float64s
from qa_fast.schema import Int64s
from qa_fast.scoring.result import EvaluationResult


def confidence_of(result: EvaluationResult) -> Float64s:
    """float64[E]: probability of each prediction, the span's or no answer's; 0 where nothing of it was read."""
    shares, null_shares = result.spans.probabilities(with_null=result.allow_no_answer)
    silent = np.array([not text for text in result.predictions], bool)
    return np.where(result.spans.windows == 0, 0.0, np.where(silent, null_shares, shares[:, 0]))


@dataclass(frozen=True)
class RiskCoverage:
    """What is lost where only the surest questions are answered, for every number of them.

    Attributes:
        confidence: float64[E], falling: the least confidence of the k surest, k = 1 … E.
        risk: float64[E], their mean loss.
        aurc: Area under the curve: the mean of the risks.
        ideal: The area if confidence ordered the losses perfectly.
    """

    confidence: Float64s
    risk: Float64s
    aurc: float
    ideal: float

    @property
    def excess(self) -> float:
        """E-AURC: what the order of the confidences costs, whatever the model's accuracy."""
        return self.aurc - self.ideal

    def at(self, coverages: Sequence[float]) -> list[tuple[float, int, float, float]]:
        """Points of the curve: coverage, questions answered, their least confidence, their risk.

        Args:
            coverages: In (0, 1]; so many of the questions, rounded up.
        """
        total = len(self.risk)
        counts = [min(total, max(1, int(np.ceil(coverage * total - 1e-9)))) for coverage in coverages] if total else []
        return [
            (coverage, count, float(self.confidence[count - 1]), float(self.risk[count - 1]))
            for coverage, count in zip(coverages, counts, strict=False)
        ]


def risk_coverage(confidence: Float64s, loss: Float64s) -> RiskCoverage:
    """The risk-coverage curve (Geifman and El-Yaniv 2017), its area and ideal area (Geifman, Uziel, El-Yaniv 2019).

    Questions of one confidence count with their mean loss, so that the curve does not hang on the order of the data.

    Args:
        confidence: float64[E].
        loss: float64[E], such as 1 - F1.
    """
    if not len(loss):
        return RiskCoverage(confidence, loss, 0.0, 0.0)
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    run = np.cumsum(np.concatenate([[0], np.diff(sure) != 0]))
    evened = (np.bincount(run, weights=loss[order]) / np.bincount(run))[run]
    counts = np.arange(1, len(loss) + 1)
    risk = np.cumsum(evened) / counts
    ideal = np.cumsum(np.sort(loss)) / counts
    return RiskCoverage(sure, risk, float(risk.mean()), float(ideal.mean()))


@dataclass(frozen=True)
class Calibration:
    """How often predictions of about one confidence are right, in B bins of equal width.

    Attributes:
        count: int64[B], predictions in each.
        confidence: float64[B], their mean confidence; 0 in empty bins.
        accuracy: float64[B], the share of them that is right; 0 in empty bins.
        error: Expected calibration error: mean distance of the two, weighted by the counts.
    """

    count: Int64s
    confidence: Float64s
    accuracy: Float64s
    error: float


def calibration(confidence: Float64s, correct: npt.NDArray[np.floating], bins: int = 10) -> Calibration:
    """Reliability and expected calibration error (Guo et al. 2017).

    Args:
        confidence: float64[E] in [0, 1].
        correct: float[E], 1 where the prediction is right.
        bins: B.
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    safe = np.maximum(count, 1)
    mean = np.bincount(place, weights=confidence, minlength=bins) / safe
    right = np.bincount(place, weights=correct, minlength=bins) / safe
    error = float(np.sum(count * np.abs(mean - right)) / max(1, len(confidence)))
    return Calibration(count, mean, right, error)
