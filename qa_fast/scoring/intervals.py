"""Intervals of a mean over questions: Wilson's interval of a share, and the bootstrap of any scores.

A resample draws n questions with replacement, so the number of times that each distinct score occurs in it is
multinomial. Drawing these numbers gives the same distribution as drawing questions, and its cost depends on the few
hundred distinct scores instead of the questions: 10,000 resamples of a SQuAD split take 0.4 s.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qa_fast.scoring.options import FEW_QUESTIONS

Float64s = npt.NDArray[np.float64]
Interval = tuple[float, float]

# Quantile of the normal distribution for 95 % intervals.
_Z = 1.959963984540054
# With fewer questions the interval of a bootstrap is too narrow, and a point if all scores are equal.
FEWEST_FOR_BOOTSTRAP = 30
# Resamples for the interval of a group of questions, of which a report has many.
GROUP_RESAMPLES = 2000


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927).

    It is also wide enough for the mean of scores in [0, 1], whose variance is at most share · (1 - share).

    Args:
        share: The share, in [0, 1].
        count: Number of questions; 0 gives the interval [0, 1].
    """
    if count == 0:
        return 0.0, 1.0
    squared = _Z * _Z / count
    middle = (share + squared / 2) / (1 + squared)
    half = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_means(scores: Float64s, resamples: int, seed: int) -> Float64s:
    """Return the means of resamples with replacement (Efron 1979).

    Args:
        scores: float64[n, K], K scores of each of n questions, drawn together; n is at least 1.
        resamples: R, the number of resamples.
        seed: Equal seeds give equal means.

    Returns:
        float64[R, K].
    """
    distinct, counts = np.unique(scores, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # the draws of a resample end once all n are drawn
    occurrences = np.random.default_rng(seed).multinomial(len(scores), counts[order] / len(scores), size=resamples)
    means: Float64s = occurrences.astype(np.float64) @ distinct[order] / len(scores)
    return means


def middle_95(values: Float64s) -> tuple[float, float]:
    """Return the percentile interval (Efron 1979): the ends of the middle 95 % of values [R]."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(scores: Float64s, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of scores in [0, 1]: the bootstrap's, or Wilson's below 30 questions.

    Args:
        scores: float64[n].
        seed: Seed of the resamples.
    """
    if len(scores) < FEWEST_FOR_BOOTSTRAP:
        return wilson(float(np.mean(scores)) if len(scores) else 0.0, len(scores))
    return middle_95(bootstrap_means(scores[:, None], GROUP_RESAMPLES, seed)[:, 0])


def intervals_of_few(exact: Float64s, overlap: Float64s, seed: int) -> tuple[Interval, Interval] | None:
    """Return the 95 % intervals of exact match and F1 in percent; None for `FEW_QUESTIONS` or more.

    Args:
        exact: float64[n], exact match of each question, 0 or 1.
        overlap: float64[n], F1 of each question, in [0, 1].
        seed: Seed of the resamples.
    """
    if len(exact) >= FEW_QUESTIONS:
        return None
    share = float(np.mean(exact)) if len(exact) else 0.0
    (low, high), (least, most) = wilson(share, len(exact)), mean_interval(overlap, seed)
    return (100 * low, 100 * high), (100 * least, 100 * most)
