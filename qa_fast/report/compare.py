"""Comparison of two models on the same questions, with intervals of the differences.

Differences are taken question by question and resampled together (paired bootstrap, Koehn 2004; Efron and Tibshirani
1993). The difficulty that a question has for both models cancels out, so much smaller differences can be shown than by
comparing two intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qa_fast.errors import UserError
from qa_fast.report.groups import Grouping
from qa_fast.schema import Int64s
from qa_fast.scoring.intervals import FEWEST_FOR_BOOTSTRAP, GROUP_RESAMPLES, Float64s, bootstrap_means, middle_95

RESAMPLES = 10_000
# Means that differ only by rounding are equal.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Other:
    """Another model's answers to the same E questions.

    Attributes:
        name: Name of the model or of the file.
        predictions: Its answers; "" is no answer.
        source: Where the answers come from, in words.
    """

    name: str
    predictions: list[str]
    source: str = ""


@dataclass(frozen=True)
class Difference:
    """A model's score less the other's, in points.

    Attributes:
        points: The difference.
        interval: Its 95 % interval, the middle of the resamples.
        p_value: Two-sided p-value, at least 1 / (resamples + 1).
    """

    points: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class GroupDifference:
    """The difference of F1 in a group of questions; None in groups with fewer than 30 questions."""

    name: str
    count: int
    f1: Difference | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of a model with another.

    Attributes:
        exact_match: Difference of exact match.
        f1: Difference of F1.
        wins: Number of questions with a higher F1 of the model.
        losses: Number of questions with a higher F1 of the other model.
        ties: Number of the other questions.
        resamples: Number of resamples.
        seed: Seed of the resamples.
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
        overlap: float64[E], F1 of the model in [0, 1].
        other_exact: float64[E], exact match of the other model.
        other_overlap: float64[E], F1 of the other model.
        resamples: Number of resamples of the paired bootstrap.
        seed: Equal seeds give equal figures.

    Raises:
        ValueError: The scores have different lengths.
    """
    if len({len(exact), len(overlap), len(other_exact), len(other_overlap)}) > 1:
        raise ValueError(
            f"two models are compared on the same questions; received {len(exact)} and {len(other_exact)} scores"
        )
    gains = np.stack([exact - other_exact, overlap - other_overlap], axis=1)
    # Two more questions are won and two lost among few, as Agresti and Coull (1998) do for one share: the resamples of
    # a single question, or of few that are all won, would be a point and their p-value the smallest.
    few = [[1.0, 1.0], [-1.0, -1.0]] * 2 if len(gains) < FEWEST_FOR_BOOTSTRAP else np.zeros((0, 2))
    drawn = np.concatenate([gains, few])
    means = bootstrap_means(drawn, resamples, seed) if len(gains) else np.zeros((resamples, 2))
    exact_match, f1 = (_difference(gains[:, column], means[:, column]) for column in range(2))
    wins, losses = int((gains[:, 1] > _EQUAL).sum()), int((gains[:, 1] < -_EQUAL).sum())
    return Comparison(exact_match, f1, wins, losses, len(gains) - wins - losses, resamples, seed)


def _difference(gain: Float64s, means: Float64s) -> Difference:
    above, below = int((means > _EQUAL).sum()), int((means < -_EQUAL).sum())
    # The sample itself counts as one resample: finitely many resamples cannot give a p-value of 0.
    crossing = (len(means) - max(above, below) + 1) / (len(means) + 1)
    low, high = middle_95(means)
    return Difference(
        points=100 * float(np.mean(gain)) if len(gain) else 0.0,
        interval=(100 * low, 100 * high),
        p_value=min(1.0, 2 * crossing),
    )


def compare_groups(
    grouping: Grouping, overlap: Float64s, other_overlap: Float64s, seed: int = 0
) -> list[GroupDifference]:
    """Compare F1 in each group that holds a question.

    Args:
        grouping: A grouping of E questions.
        overlap: float64[E], F1 of the model.
        other_overlap: float64[E], F1 of the other model.
        seed: Seed of the resamples; fewer are drawn than for all questions.
    """
    differences = []
    for name, rows in grouping.rows():
        gain = overlap[rows] - other_overlap[rows]
        difference = None
        if len(rows) >= FEWEST_FOR_BOOTSTRAP:
            difference = _difference(gain, bootstrap_means(gain[:, None], GROUP_RESAMPLES, seed)[:, 0])
        differences.append(GroupDifference(name, len(rows), difference))
    return differences


def most_different(
    overlap: Float64s, other_overlap: Float64s, confidence: Float64s, most: int
) -> tuple[Int64s, Int64s]:  # fmt: skip
    """Return the questions on which two models differ most.

    Args:
        overlap: float64[E], F1 of the model.
        other_overlap: float64[E], F1 of the other model.
        confidence: float64[E], confidence of the model; the most confident come first among equal differences.
        most: Largest number of rows in each result.

    Returns:
        Rows where the model is better, and rows where the other model is, largest difference first; int64.
    """
    gain = overlap - other_overlap
    better = np.lexsort((-confidence, -gain))
    worse = np.lexsort((-confidence, gain))
    return better[gain[better] > _EQUAL][:most], worse[gain[worse] < -_EQUAL][:most]


def aligned(ids: Sequence[str], predictions: Mapping[str, str], name: str) -> list[str]:
    """Return another model's answers in the order of the questions.

    Args:
        ids: Ids of the E questions.
        predictions: Answers by id. Answers to other questions are ignored, so that a sample of the questions can be
            compared with answers to all.
        name: Origin of the answers, for the error.

    Raises:
        UserError: The answer to a question is missing.
    """
    missing = [question_id for question_id in ids if question_id not in predictions]
    if missing:
        raise UserError(
            f"two models are compared on the same questions; {name} has no answer to {len(missing):,} of {len(ids):,} "
            f"(id={missing[0]} is the first): evaluate it with --out on the same split, --max-examples and --seed"
        )
    return [predictions[question_id] for question_id in ids]
