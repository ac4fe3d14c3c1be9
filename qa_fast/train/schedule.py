"""The learning rate over a run."""

from __future__ import annotations


def learning_rate_at(step: int, steps: int, peak: float, schedule: str, warmup: float) -> float:
    """Learning rate of an optimisation step.

    Args:
        step: Counts from 0.
        steps: Of the whole run.
        peak: Highest rate.
        schedule: "linear" (up over the first `warmup` share of the steps, then down to 0) or "constant".
        warmup: Share of the steps, in [0, 1).

    Returns:
        The rate; never 0 at the first step, so that no step is without effect but the one after the last.
    """
    if schedule == "constant":
        return peak
    rising = round(steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * max(0.0, (steps - step) / max(1, steps - rising))
