"""How some numbers are spread: quantiles, and a histogram with edges that read well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qa_fast.show.records import Distribution

_BINS = 40
# A histogram ends where all but so many are: a few very long texts would squeeze all others into its first bin.
_DRAWN = 0.995


def distribution(name: str, unit: str, values: np.ndarray, bins: int = _BINS) -> Distribution:
    """How numbers [n] are spread, over bins of whole width where they are whole numbers, and of [0, 1] for shares."""
    if not len(values):
        return Distribution(name, unit, 0, 0, 0, 0, 0, 0, 0, (0, 1), (0,), 0)
    quantiles: Sequence[Any] = np.quantile(values, [0, 0.5, 0.95, 0.99, 1, _DRAWN], method="inverted_cdf").tolist()
    least, median, p95, p99, most, drawn = quantiles
    is_whole = np.issubdtype(values.dtype, np.integer)
    if is_whole:
        first = 0 if least < drawn / 3 else int(least)
        width = _round_up((drawn - first + 1) / bins)
        edges = np.arange(first, drawn + width + 1, width)
    else:
        edges = np.linspace(0, 1, 20 + 1)
    inside = values[values < edges[-1]] if is_whole else values
    counts, _ = np.histogram(inside, edges)
    return Distribution(
        name, unit, len(values), least, median, float(values.mean()), p95, p99, most,
        tuple(edges.tolist()), tuple(counts.tolist()), len(values) - len(inside),
    )  # fmt: skip


def _round_up(width: float) -> int:
    """The next whole width that reads well: 1, 2, 5, 10, 20, 25, 50, 100, ..."""
    steps = (base * 10**power // 2 for power in range(13) for base in (2, 4, 5, 10) if base * 10**power % 2 == 0)
    return next(step for step in steps if step >= width)
