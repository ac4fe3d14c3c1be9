"""The value of a model's confidence: scores on the most confident predictions, and calibration.

Confidence is the `score` of the prediction, as `Answerer` gives it: the fitted probability that it is right if the
model is calibrated, else a softmax over the kept candidates of a question and no answer, which only orders questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.answer.calibration import scores_of
from qa_fast.schema import Int64s
from qa_fast.scoring.intervals import Float64s
from qa_fast.scoring.result import EvaluationResult


def confidence_of(result: EvaluationResult, *, calibrated: bool = True) -> Float64s:
    """Return float64[E]: the score of each prediction, a span or no answer; 0 for questions without a window.

    Args:
        result: From `qa_fast.evaluate`.
        calibrated: Use the calibration of the result's rules, if there is one.
    """
    calibration = result.rules.calibration if calibrated else None
    probabilities, null_probabilities = scores_of(result.spans, result.null_threshold, calibration)
    is_empty = np.array([not text for text in result.predictions], bool)
    predicted = np.where(is_empty, null_probabilities, probabilities[:, 0])
    return np.where(result.spans.windows == 0, 0.0, predicted)


@dataclass(frozen=True)
class RiskCoverage:
    """The mean loss if only the k most confident predictions are given, for k = 1 … E.

    Attributes:
        confidence: float64[E], not increasing: the least confidence of the k predictions.
        risk: float64[E], mean loss of the k predictions.
        aurc: Area under the curve: the mean of the risks.
        ideal: The area if confidence ordered the losses perfectly.
    """

    confidence: Float64s
    risk: Float64s
    aurc: float
    ideal: float

    @property
    def excess(self) -> float:
        """E-AURC: the loss that is due to the order of the confidences, independent of the accuracy."""
        return self.aurc - self.ideal

    def at(self, coverages: Sequence[float]) -> list[tuple[float, int, float, float]]:
        """Return points of the curve: coverage, number of predictions, their least confidence, their risk.

        Args:
            coverages: Shares of the questions in (0, 1]; numbers of predictions are rounded up.
        """
        total = len(self.risk)
        counts = [min(total, max(1, int(np.ceil(coverage * total - 1e-9)))) for coverage in coverages] if total else []
        return [
            (coverage, count, float(self.confidence[count - 1]), float(self.risk[count - 1]))
            for coverage, count in zip(coverages, counts, strict=False)
        ]


def risk_coverage(confidence: Float64s, loss: Float64s) -> RiskCoverage:
    """Return the risk-coverage curve (Geifman and El-Yaniv 2017) and its areas (Geifman, Uziel, El-Yaniv 2019).

    Questions with equal confidence count with their mean loss, so that the curve does not depend on the order of data.

    Args:
        confidence: float64[E].
        loss: float64[E], such as 1 - F1.
    """
    if not len(loss):
        return RiskCoverage(confidence, loss, 0.0, 0.0)
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    tie = np.cumsum(np.concatenate([[0], np.diff(falling) != 0]))
    mean_loss = (np.bincount(tie, weights=loss[order]) / np.bincount(tie))[tie]
    counts = np.arange(1, len(loss) + 1)
    risk = np.cumsum(mean_loss) / counts
    ideal = np.cumsum(np.sort(loss)) / counts
    return RiskCoverage(falling, risk, float(risk.mean()), float(ideal.mean()))


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy of predictions in B = 10 bins of confidence of equal width.

    Attributes:
        count: int64[B], number of predictions.
        confidence: float64[B], mean confidence; 0 in empty bins.
        accuracy: float64[B], share of right predictions; 0 in empty bins.
        error: Expected calibration error: mean distance of confidence and accuracy, weighted by the counts.
    """

    count: Int64s
    confidence: Float64s
    accuracy: Float64s
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready figures: expected_calibration_error, bins."""
        columns = zip(self.count.tolist(), self.confidence.tolist(), self.accuracy.tolist(), strict=True)
        return {
            "expected_calibration_error": self.error,
            "bins": [
                {"questions": count, "confidence": confidence, "exact_match": 100 * accuracy}
                for count, confidence, accuracy in columns
            ],
        }


def calibration(confidence: Float64s, correct: npt.NDArray[np.floating]) -> Calibration:
    """Return the calibration and its expected error (Guo et al. 2017).

    Args:
        confidence: float64[E] in [0, 1].
        correct: float[E], 1 if the prediction is right.
    """
    bins = 10
    bin_number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(bin_number, minlength=bins)
    divisor = np.maximum(count, 1)
    mean_confidence = np.bincount(bin_number, weights=confidence, minlength=bins) / divisor
    accuracy = np.bincount(bin_number, weights=correct, minlength=bins) / divisor
    error = float(np.sum(count * np.abs(mean_confidence - accuracy)) / max(1, len(confidence)))
    return Calibration(count, mean_confidence, accuracy, error)
