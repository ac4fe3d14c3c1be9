"""The losses of a run, read a few steps late, so that nothing waits for the device."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.errors import UserError
from qa_fast.train.state import checkpoints

# Number of steps that the device may be ahead of the reading of its losses.
BEHIND = 4


def behind(at_once: int) -> int:
    """Return by how many steps results are read late if the device receives `at_once` steps in one call."""
    return max(BEHIND, at_once)


class LossNotANumber(UserError):
    """A loss is not a number, so the run cannot continue."""


class Losses:
    """Losses and gradient norms: of steps that the device may still compute, and of those since the last mean.

    Args:
        folder: Folder of the run's checkpoints, for the error message.
        learning_rate: The run's learning rate, for the error message.
        skips_overflows: Whether a step whose gradients overflow is skipped, as the loss scale of float16 requires.
        at_once: Number of steps that the device receives in one call; the last of them may not have been sent yet.

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
        """Keep the scalars of a step, and read those of earlier steps.

        Raises:
            LossNotANumber: See `read`.
        """
        self._pending.append((step, loss, norm))
        self.read(keep=self._keep)

    def read(self, keep: int = 0) -> None:
        """Read all but the last `keep` steps, waiting for the device.

        Raises:
            LossNotANumber: A loss or a gradient norm is not a number.
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
        """Return the mean of the losses since the last call, waiting for them; None if there are none.

        Steps that wait to be sent together count in the next mean, because reading one of them would send it alone.

        Args:
            last: Whether this is the last call.

        Raises:
            LossNotANumber: See `read`.
        """
        self.read(keep=0 if last else self._waiting)
        mean = float(np.mean(self._recent)) if self._recent else None
        self._recent.clear()
        return mean
