"""How sure a mean over questions is: Wilson's interval of a share, and the bootstrap of any scores.

A resample of n questions is a draw of n with replacement, so how often each distinct score occurs in it is multinomial.
Drawing those counts gives the bootstrap's own distribution at a cost of distinct scores, a few hundred, not of
questions: 10,000 resamples of 10,570 questions take 0.4 s instead of 100 million draws.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]

# The normal distribution's quantile for intervals of 95 %.
_Z = 1.959963984540054
# Below so many questions a bootstrap is too narrow, and of equal scores it is a point.
FEWEST_FOR_BOOTSTRAP = 30


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927).

    For the mean of scores between 0 and 1 it is wide enough too, since their variance is at most share · (1 - share).

    Args:
        share: In [0, 1].
        count: How many it is taken over; 0 gives all of [0, 1].
    """
    if count == 0:
        return 0.0, 1.0
    squared = _Z * _Z / count
    middle = (share + squared / 2) / (1 + squared)
    half = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_means(scores: Float64s, resamples: int, seed: int) -> Float64s:
    """Means of resamples with replacement (Efron 1979).

    Args:
        scores: float64[n, K], K scores of each of n questions, which are drawn together; n is at least 1.
        resamples: R, how many.
        seed: Equal seeds give equal means.

    Returns:
        float64[R, K].
    """
    distinct, counts = np.unique(scores, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # the draws of one resample end early where none are left
    times = np.random.default_rng(seed).multinomial(len(scores), counts[order] / len(scores), size=resamples)
    means: Float64s = times.astype(np.float64) @ distinct[order] / len(scores)
    return means


def middle_95(values: Float64s) -> tuple[float, float]:
    """The percentile interval (Efron 1979): what the middle 95 % of values [R] lie between."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(scores: Float64s, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the mean of scores in [0, 1]: the bootstrap's, Wilson's below 30 questions.

    Args:
        scores: float64[n].
        seed: Of the resamples.
        resamples: How many.
    """
    if len(scores) < FEWEST_FOR_BOOTSTRAP:
        return wilson(float(np.mean(scores)) if len(scores) else 0.0, len(scores))
    return middle_95(bootstrap_means(scores[:, None], resamples, seed)[:, 0])
