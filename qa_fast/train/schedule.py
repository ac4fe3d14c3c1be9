"""The learning rate over a run."""

from __future__ import annotations


def learning_rate_at(step: int, steps: int, peak: float, schedule: str, warmup: float) -> float:
    """Return the learning rate of an optimization step.

    Args:
        step: Number of the step, from 0.
        steps: Steps in the whole run.
        peak: Highest learning rate.
        schedule: "linear" (up over the first `warmup` share of the steps, then down to 0) or "constant".
        warmup: Share of the steps, in [0, 1).

    Returns:
        The rate; above 0 at every step of the run.
    """
    if schedule == "constant":
        return peak
    rising = round(steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * max(0.0, (steps - step) / max(1, steps - rising))
