"""The distribution of some numbers: quantiles, and a histogram with round edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_BINS = 40
_SHARE_BINS = 20
# The histogram ends at this quantile, so that a few very long texts do not squeeze all others into the first bin.
_LAST_QUANTILE = 0.995


@dataclass(frozen=True)
class Distribution:
    """The distribution of some numbers. All figures are 0 if there are no numbers.

    Attributes:
        name: Name of the numbers.
        unit: Their unit.
        count: How many numbers there are.
        least: Smallest number.
        median: 50 % quantile.
        mean: Arithmetic mean.
        p95: 95 % quantile.
        p99: 99 % quantile.
        most: Largest number.
        edges: N + 1 edges of the histogram's bins.
        counts: How many numbers are in each of the N bins.
        overflow: How many numbers are beyond the last edge.
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

    @property
    def is_whole(self) -> bool:
        """True if the numbers are integers; otherwise they are shares in [0, 1]."""
        return isinstance(self.median, int)


def distribution(name: str, unit: str, values: np.ndarray) -> Distribution:
    """Describe numbers [n]: integers in bins of integer width, or shares in bins over [0, 1]."""
    if not len(values):
        return Distribution(name, unit, 0, 0, 0, 0, 0, 0, 0, (0, 1), (0,), 0)
    probabilities = [0, 0.5, 0.95, 0.99, 1, _LAST_QUANTILE]
    quantiles: Sequence[Any] = np.quantile(values, probabilities, method="inverted_cdf").tolist()
    least, median, p95, p99, most, last = quantiles
    inside = values
    if np.issubdtype(values.dtype, np.integer):
        first = 0 if least < last / 3 else int(least)
        width = _round_width((last - first + 1) / _BINS)
        edges = np.arange(first, last + width + 1, width)
        inside = values[values < edges[-1]]
    else:
        edges = np.linspace(0, 1, _SHARE_BINS + 1)
    counts, _ = np.histogram(inside, edges)
    return Distribution(
        name, unit, len(values), least, median, float(values.mean()), p95, p99, most,
        tuple(edges.tolist()), tuple(counts.tolist()), len(values) - len(inside),
    )  # fmt: skip


def _round_width(width: float) -> int:
    """Return the smallest of the widths 1, 2, 5, 10, 20, 25, 50, 100, 200, ... that is at least `width`."""
    widths = (base * 10**power // 10 for power in range(13) for base in (10, 20, 25, 50))
    return next(candidate for candidate in widths if candidate >= width)
