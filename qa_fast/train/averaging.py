"""An average of the weights over the steps of a run, which is what is then validated and saved.

One rule serves both kinds: average += share (weights - average), with a share that is a function of the step alone, so
that a resumed run goes on with the same average. "ema" is an exponential moving average (Polyak & Juditsky 1992) whose
decay grows as min(decay, (1 + t) / (10 + t)) with the steps t, so that a short run does not average its beginning
(TensorFlow's `ExponentialMovingAverage` with `num_updates`). "swa" is the plain mean over the last share of the run
(Izmailov et al. 2018, arXiv 1803.05407). The trained weights are not touched. Only every fourth step is looked at:
neighbours hardly differ, and a step costs next to nothing more. Weights and averages are float32 in every precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from qa_fast.train.steps import Engine, Floats

EVERY = 4


def share_of(kind: str, step: int, steps: int, decay: float, last: float) -> float:
    """What the weights after a step count in the new average; 0 where it stays, 1 where it begins.

    Args:
        kind: "ema" or "swa".
        step: Steps done, from 1.
        steps: Of the whole run.
        decay: Of "ema", the largest, for a step.
        last: Of "swa", the share of the steps, the last ones, over which the mean is.
    """
    if step % EVERY and step != steps:
        return 0.0
    if kind == "ema":
        if step <= EVERY:
            return 1.0
        between: float = min(decay, (1 + step) / (10 + step)) ** (step % EVERY or EVERY)
        return 1.0 - between
    begin = int(steps * (1 - last))
    seen = step // EVERY - begin // EVERY + (step % EVERY > 0)
    return 1 / seen if step > begin else 0.0


class Average:
    """The average, on the device that the weights are on.

    Args:
        kind: "ema" or "swa".
        steps: Of the whole run.
        decay: See `share_of`.
        last: See `share_of`.
    """

    def __init__(self, kind: str, steps: int, decay: float, last: float) -> None:
        self._kind, self._steps, self._decay, self._last = kind, steps, decay, last
        self._values: list[Any] = []

    @property
    def begun(self) -> bool:
        """Whether there is an average yet."""
        return bool(self._values)

    def add(self, step: int, weights: Sequence[Any]) -> None:
        """Take in the weights after a step; they are copied, not kept."""
        share = share_of(self._kind, step, self._steps, self._decay, self._last)
        if share == 1.0:
            # Multiplied: what an engine gives may be a buffer that its next step writes over.
            self._values = [keras.ops.multiply(weight, np.float32(1)) for weight in weights]
        elif share:
            part = np.float32(share)
            self._values = [
                value + part * (weight - value) for value, weight in zip(self._values, weights, strict=True)
            ]

    def read(self) -> list[Floats]:
        """float32, in the order of the model's weights; empty before it began."""
        return [np.asarray(keras.ops.convert_to_numpy(value), np.float32) for value in self._values]

    def write(self, values: Sequence[Any]) -> None:
        """Set what `read` gives, placed by the engine: in a job of several processes they must be on all devices."""
        self._values = list(values)


@contextmanager
def published(engine: Engine, average: Average | None) -> Iterator[None]:
    """The model with the averaged weights where there are any, else with the trained ones, which go on after it."""
    if average is None or not average.begun:
        engine.publish()
        yield
        return
    trained = engine.read()
    engine.write(trained | {"weights": average.read()})
    engine.publish()
    try:
        yield
    finally:
        engine.write(trained)
