"""The losses of a run, read a few steps after they were asked for, so that the device is not waited for."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.errors import UserError
from qa_fast.train.state import checkpoints

# Steps that a device may be ahead of the reading of its losses.
BEHIND = 4


def behind(at_once: int) -> int:
    """Steps that the device may be ahead of the reading of what it gives, if it is given so many steps in one call."""
    return max(BEHIND, at_once)


class LossNotANumber(UserError):
    """A run that cannot go on."""


class Losses:
    """Losses and gradient norms of steps that the device may still be at, and of those since the last mean.

    Args:
        folder: Where the run's checkpoints are, for the error.
        learning_rate: The run's, for the error.
        skips_overflows: Whether a step whose gradients overflow is skipped, as float16's loss scale wants.
        at_once: Steps that are given to the device together; the last of them may not be there yet.

    Attributes:
        norm: Gradient norm of the last step that was read.
    """

    def __init__(self, folder: Path, learning_rate: float, *, skips_overflows: bool, at_once: int = 1) -> None:
        self._folder, self._learning_rate, self._skips = folder, learning_rate, skips_overflows
        self._waiting = at_once - 1
        self._keep = behind(at_once) + self._waiting
        self._pending: deque[tuple[int, Any, Any]] = deque()
        self._recent: list[float] = []
        self.norm = 0.0

    def add(self, step: int, loss: Any, norm: Any) -> None:
        """Note a step's scalars; those of long ago are read.

        Raises:
            UserError: See `read`.
        """
        self._pending.append((step, loss, norm))
        self.read(keep=self._keep)

    def read(self, keep: int = 0) -> None:
        """Wait for all but the last `keep` steps.

        Raises:
            LossNotANumber: A loss is not a number.
        """
        while len(self._pending) > keep:
            step, loss, norm = self._pending.popleft()
            value, self.norm = float(loss), float(norm)
            if not math.isfinite(value) or (not math.isfinite(self.norm) and not self._skips):
                saved = checkpoints(self._folder)
                kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was written yet"
                raise LossNotANumber(
                    f"the loss must stay a number; at step {step} it is {value} with gradient norm {self.norm}: "
                    f"{kept}; try a lower --learning-rate (now {self._learning_rate}) or --precision float32"
                )
            self._recent.append(value)

    def mean(self, *, last: bool) -> float | None:
        """The mean of all losses since the last call, waiting for them; None where there is none.

        Those of steps that may wait to be given to the device count in the next mean: to read one gives it the step.

        Args:
            last: Whether there is no next one.

        Raises:
            UserError: See `read`.
        """
        self.read(keep=0 if last else self._waiting)
        mean = float(np.mean(self._recent)) if self._recent else None
        self._recent.clear()
        return mean
