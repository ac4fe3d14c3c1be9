"""Two models on the same questions: how much better one is, and how sure that is.

Differences are taken question by question and resampled together (paired bootstrap, Koehn 2004; Efron and Tibshirani
1993): what makes a question hard for both models falls out, so far smaller differences show than between two intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qa_fast.errors import UserError
from qa_fast.report.intervals import FEWEST_FOR_BOOTSTRAP, Float64s, bootstrap_means, middle_95
from qa_fast.schema import Int64s

RESAMPLES = 10_000
_GROUP_RESAMPLES = 2000
# Means that differ by rounding alone are equal.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Difference:
    """A model's score less the other's, in points.

    Attributes:
        points: The difference.
        interval: Its 95 % interval, the middle of the resamples.
        share_above: Share of the resamples in which the model is better.
        share_below: Share in which the other is.
        p_value: Two-sided: how readily resamples cross 0, at least 1 / (resamples + 1).
    """

    points: float
    interval: tuple[float, float]
    share_above: float
    share_below: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """A model against another.

    Attributes:
        exact_match: Difference of exact match.
        f1: Difference of F1.
        wins: Questions on which the model's F1 is higher.
        losses: Questions on which the other's is.
        ties: The rest.
        resamples: How many.
        seed: Of the resamples.
    """

    exact_match: Difference
    f1: Difference
    wins: int
    losses: int
    ties: int
    resamples: int
    seed: int


def compare(
    exact: Float64s,
    overlap: Float64s,
    other_exact: Float64s,
    other_overlap: Float64s,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the scores of two models on the same E questions.

    Args:
        exact: float64[E], exact match of the model, 0 or 1.
        overlap: float64[E], its F1 in [0, 1].
        other_exact: float64[E].
        other_overlap: float64[E].
        resamples: Of the paired bootstrap.
        seed: Equal seeds give equal figures.

    Raises:
        ValueError: The scores are not of one length.
    """
    if len({len(exact), len(overlap), len(other_exact), len(other_overlap)}) > 1:
        raise ValueError(
            f"two models are compared on the same questions; received {len(exact)} and {len(other_exact)} scores"
        )
    gains = np.stack([exact - other_exact, overlap - other_overlap], axis=1)
    means = bootstrap_means(gains, resamples, seed) if len(gains) else np.zeros((resamples, 2))
    exact_match, f1 = (_difference(gains[:, column], means[:, column]) for column in range(2))
    wins, losses = int((gains[:, 1] > _EQUAL).sum()), int((gains[:, 1] < -_EQUAL).sum())
    return Comparison(exact_match, f1, wins, losses, len(gains) - wins - losses, resamples, seed)


def _difference(gain: Float64s, means: Float64s) -> Difference:
    above, below = int((means > _EQUAL).sum()), int((means < -_EQUAL).sum())
    # One more of each, as the sample itself is one: a p-value of 0 cannot be had from finitely many resamples.
    crossing = (len(means) - max(above, below) + 1) / (len(means) + 1)
    low, high = middle_95(means)
    points = float(np.mean(gain)) if len(gain) else 0.0
    return Difference(
        100 * points, (100 * low, 100 * high), above / len(means), below / len(means), min(1.0, 2 * crossing)
    )  # fmt: skip


def compare_group(overlap: Float64s, other_overlap: Float64s, seed: int = 0) -> Difference | None:
    """The difference of F1 in one group of questions; None below 30, where a bootstrap says too little.

    Args:
        overlap: float64[n], F1 of the group's questions.
        other_overlap: float64[n].
        seed: Of the resamples, of which fewer are drawn than for all questions.
    """
    if len(overlap) < FEWEST_FOR_BOOTSTRAP:
        return None
    gain = overlap - other_overlap
    return _difference(gain, bootstrap_means(gain[:, None], _GROUP_RESAMPLES, seed)[:, 0])


def most_different(
    overlap: Float64s, other_overlap: Float64s, confidence: Float64s, most: int
) -> tuple[Int64s, Int64s]:
    """The questions that the two models differ on most.

    Args:
        overlap: float64[E], the model's F1.
        other_overlap: float64[E].
        confidence: float64[E]: of equal differences those come first that the model is surest of.
        most: Rows in each answer.

    Returns:
        Rows where the model is better, and rows where the other is, int64[at most `most`], largest difference first.
    """
    gain = overlap - other_overlap
    found = []
    for sign in (1, -1):
        order = np.lexsort((-confidence, -sign * gain))
        found.append(order[sign * gain[order] > _EQUAL][:most])
    return found[0], found[1]


def aligned(ids: Sequence[str], predictions: Mapping[str, str], name: str) -> list[str]:
    """Another model's answers in the order of the questions.

    Args:
        ids: Of the E questions.
        predictions: Answer by id; those of other questions are left aside, so that a choice of questions can be
            compared with answers to all.
        name: What they come from, for the error.

    Raises:
        UserError: A question has no answer there.
    """
    missing = [one for one in ids if one not in predictions]
    if missing:
        raise UserError(
            f"two models are compared on the same questions; {name} has no answer to {len(missing):,} of {len(ids):,} "
            f"(id={missing[0]} is the first): evaluate it with --out on the same split, --max-examples and --seed"
        )
    return [predictions[one] for one in ids]
