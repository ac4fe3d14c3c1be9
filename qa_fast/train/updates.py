"""The optimizer's update of one copy of the weights on TensorFlow, and the optimizer's state.

Both classes compute `optimizer.update`: by TensorFlow or XLA, or on CPUs by a kernel, which needs no compilation at the
start of a run and reads gradients and state once.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import tensorflow as tf

from qa_fast.kernels.adam import adam, sum_of_squares
from qa_fast.model.kernel_calls import Array, call, empty, share_out
from qa_fast.train.optimizer import BETA_1, BETA_2, EPSILON, update
from qa_fast.train.steps import Floats

_STRETCH = 1 << 19  # numbers that one thread updates at a time


class Update(Protocol):
    """Applies a step to weights and optimizer state."""

    def __call__(self, gradients: Sequence[Any], scalars: Any) -> Any:
        """Assign the new weights, within a graph.

        Args:
            gradients: float32 tensors, one for each weight.
            scalars: float32[5], see `optimizer.step_scalars`.

        Returns:
            The gradients' norm before clipping.
        """

    def state(self) -> tuple[list[Floats], list[Floats]]:
        """Return firsts and seconds."""

    def set_state(self, firsts: Sequence[Floats], seconds: Sequence[Floats]) -> None:
        """Replace what `state` returns."""


class PlainUpdate:
    """Updates by TensorFlow's operations, or compiled by XLA.

    Args:
        weights: Variables.
        compiled: Whether XLA compiles the update.
    """

    def __init__(self, weights: Sequence[Any], compiled: bool) -> None:
        self._weights = weights
        self._decays = tuple(len(weight.shape) > 1 for weight in weights)
        self._firsts = [tf.Variable(tf.zeros_like(weight)) for weight in weights]
        self._seconds = [tf.Variable(tf.zeros_like(weight)) for weight in weights]
        self._run = tf.function(self._once, jit_compile=compiled, autograph=False)

    def __call__(self, gradients: Sequence[Any], scalars: Any) -> Any:
        """See `Update`."""
        return self._run(list(gradients), scalars)

    def _once(self, gradients: list[Any], scalars: Any) -> Any:
        groups = self._weights, self._firsts, self._seconds
        *new, norm = update(groups[0], gradients, groups[1], groups[2], scalars, decays=self._decays)
        for variables, values in zip(groups, new, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return norm

    def state(self) -> tuple[list[Floats], list[Floats]]:
        """See `Update`."""
        return [first.numpy() for first in self._firsts], [second.numpy() for second in self._seconds]

    def set_state(self, firsts: Sequence[Floats], seconds: Sequence[Floats]) -> None:
        """See `Update`."""
        for variables, values in ((self._firsts, firsts), (self._seconds, seconds)):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


class KernelUpdate:
    """Updates by a kernel on the CPU. New weights go into new arrays, because other operations may still read the old.

    Args:
        weights: Variables.
    """

    def __init__(self, weights: Sequence[Any]) -> None:
        self._weights = weights
        shapes = [tuple(weight.shape) for weight in weights]
        self._decays = [len(shape) > 1 for shape in shapes]
        self._firsts = [np.zeros(shape, np.float32) for shape in shapes]
        self._seconds = [np.zeros(shape, np.float32) for shape in shapes]
        sizes = [int(np.prod(shape)) for shape in shapes]
        self._stretches = [
            (number, begin, min(begin + _STRETCH, size))
            for number, size in enumerate(sizes)
            for begin in range(0, size, _STRETCH)
        ]

    def __call__(self, gradients: Sequence[Any], scalars: Any) -> Any:
        """See `Update`."""
        values = [variable.read_value() for variable in self._weights]
        results = [(tf.float32, []), *((tf.float32, variable.shape) for variable in self._weights)]
        # A weak reference, because TensorFlow keeps what a graph calls until the process ends.
        this = weakref.ref(self)

        def once(*arrays: Array) -> tuple[Any, ...]:
            return cast("KernelUpdate", this())._once(*arrays)

        norm, *new = call(once, [scalars, *values, *gradients], results, pure=False)
        for variable, value in zip(self._weights, new, strict=True):
            variable.assign(value)
        return norm

    def _once(self, scalars: Array, *arrays: Array) -> tuple[Any, ...]:
        count = len(self._weights)
        weights, gradients = arrays[:count], [gradient.reshape(-1) for gradient in arrays[count:]]
        rate, decay, clip, number, scale = scalars
        squares = np.zeros(len(self._stretches))

        def add_up(at: int) -> None:
            which, begin, end = self._stretches[at]
            squares[at] = sum_of_squares(gradients[which], begin, end)

        stretches = len(self._stretches)
        share_out(add_up, range(stretches), stretches)
        norm = np.float32(np.sqrt(squares.sum())) / scale
        if not np.isfinite(norm):
            return norm, *weights
        with np.errstate(over="ignore"):  # without clipping, `clip` is the largest number
            factor = np.float32(min(np.float32(1.0), clip / (norm + np.float32(1e-6))) / scale)
        betas = np.array([BETA_1, BETA_2])
        betas = np.stack([betas, 1.0 - betas, 1.0 - betas ** float(number)]).astype(np.float32)
        new = [empty(weight.shape, np.float32) for weight in weights]
        flat = [[array.reshape(-1) for array in group] for group in (weights, self._firsts, self._seconds, new)]

        def bring_forward(at: int) -> None:
            which, begin, end = self._stretches[at]
            old, first, second, out = (group[which] for group in flat)
            kept = decay if self._decays[which] else np.float32(0.0)
            adam(
                old, gradients[which], first, second, factor, rate, kept, betas, np.float32(EPSILON), out, begin, end
            )  # fmt: skip

        share_out(bring_forward, range(stretches), stretches)
        return norm, *new

    def state(self) -> tuple[list[Floats], list[Floats]]:
        """See `Update`."""
        return [first.copy() for first in self._firsts], [second.copy() for second in self._seconds]

    def set_state(self, firsts: Sequence[Floats], seconds: Sequence[Floats]) -> None:
        """See `Update`."""
        for arrays, values in ((self._firsts, firsts), (self._seconds, seconds)):
            for array, value in zip(arrays, values, strict=True):
                np.copyto(array, value)
