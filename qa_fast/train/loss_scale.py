"""The loss scale of float16, without which small gradients round to 0: halved by an overflow, doubled after a while."""

from __future__ import annotations

import math

from qa_fast.train.steps import Position

FIRST_SCALE = 2.0**15
HIGHEST_SCALE = 2.0**24
STEADY_STEPS = 1000  # steps without an overflow before the scale is doubled


def begin_scaling(position: Position) -> None:
    """Set the scale that a run in float16 starts with."""
    position.loss_scale = FIRST_SCALE


def follow_scale(position: Position, norm: float) -> None:
    """After a step, count its update, or halve the scale if the step was skipped because its gradients overflowed.

    Args:
        position: The run's position; `update`, `steady` and `loss_scale` change.
        norm: Gradient norm of the step.
    """
    if not math.isfinite(norm):
        position.loss_scale, position.steady = max(1.0, position.loss_scale / 2), 0
        return
    position.update += 1
    position.steady += 1
    if position.steady == STEADY_STEPS:
        position.loss_scale, position.steady = min(HIGHEST_SCALE, position.loss_scale * 2), 0
