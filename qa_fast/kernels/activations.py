"""Bias and activation of the inner vectors of a feed-forward layer, and their gradients."""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.floats import GELU, GELU_TANH, RELU, exponential, narrowed, normal_share, quick, widened
from qa_fast.kernels.jit import njit

_F = np.float32
_BELL = _F(0.3989422804014327)  # the normal distribution's density at 0
_ROOT = _F(0.7978845608028654)  # the root of 2 / pi
_CUBE = _F(0.044715)


@njit(inline="always")
def _sigmoid(x: np.float32) -> np.float32:
    """Return 1 / (1 + e^-x), by an exponential that cannot overflow."""
    power = exponential(-abs(x))
    share = _F(1.0) / (_F(1.0) + power)
    return share if x >= _F(0.0) else power * share


@quick
def activate(
    x: np.ndarray,  # float32 or uint16 [R, I]
    bias: np.ndarray,  # float32[I]
    kind: int,  # GELU, GELU_TANH, RELU or SILU
    out: np.ndarray,  # like x
    begin: int,
    end: int,
) -> None:
    """Write the activation of x + bias for the rows [begin, end), which must belong to this call. Cost: O(rows * I)."""
    width = x.shape[1]
    for row in range(begin, end):
        if kind == GELU:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                out[row, j] = narrowed(y * normal_share(y, exponential(_F(-0.5) * y * y)), out)
        elif kind == GELU_TANH:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                out[row, j] = narrowed(y * _sigmoid(_F(2.0) * _ROOT * (y + _CUBE * y * y * y)), out)
        elif kind == RELU:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                out[row, j] = narrowed(_F(0.0) if y < _F(0.0) else y, out)
        else:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                out[row, j] = narrowed(y * _sigmoid(y), out)


@quick
def activate_back(
    x: np.ndarray,  # the arguments of `activate`, up to `kind`
    bias: np.ndarray,
    kind: int,
    upstream: np.ndarray,  # like x, the gradient of the result
    out: np.ndarray,  # like x, the gradient of x
    out_sums: np.ndarray,  # float32[I], the gradient of the bias from these rows alone; zeroed
    begin: int,
    end: int,
) -> None:
    """Write the gradient of `activate` for the rows [begin, end). Each call has its own `out_sums`."""
    width = x.shape[1]
    for row in range(begin, end):
        if kind == GELU:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                bell = exponential(_F(-0.5) * y * y)
                gradient = widened(upstream[row, j]) * (normal_share(y, bell) + y * _BELL * bell)
                out[row, j] = narrowed(gradient, out)
                out_sums[j] += gradient
        elif kind == GELU_TANH:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                share = _sigmoid(_F(2.0) * _ROOT * (y + _CUBE * y * y * y))
                steep = _F(2.0) * _ROOT * (_F(1.0) + _F(3.0) * _CUBE * y * y)
                gradient = widened(upstream[row, j]) * (share + y * share * (_F(1.0) - share) * steep)
                out[row, j] = narrowed(gradient, out)
                out_sums[j] += gradient
        elif kind == RELU:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                gradient = widened(upstream[row, j]) if y > _F(0.0) else _F(0.0)
                out[row, j] = narrowed(gradient, out)
                out_sums[j] += gradient
        else:
            for j in range(width):
                y = widened(x[row, j]) + bias[j]
                share = _sigmoid(y)
                gradient = widened(upstream[row, j]) * share * (_F(1.0) + y * (_F(1.0) - share))
                out[row, j] = narrowed(gradient, out)
                out_sums[j] += gradient


@quick
def gate(
    x: np.ndarray,  # float32 or uint16 [R, 2 I]
    out: np.ndarray,  # like x, [R, I]
    begin: int,
    end: int,
) -> None:
    """Write GELU of the first half times the second half for the rows [begin, end), which must belong to this call."""
    width = out.shape[1]
    for row in range(begin, end):
        for j in range(width):
            y = widened(x[row, j])
            active = y * normal_share(y, exponential(_F(-0.5) * y * y))
            out[row, j] = narrowed(active * widened(x[row, width + j]), out)


@quick
def gate_back(
    x: np.ndarray,  # float32 or uint16 [R, 2 I]
    upstream: np.ndarray,  # like x, [R, I], the gradient of the result
    out: np.ndarray,  # like x, its gradient
    begin: int,
    end: int,
) -> None:
    """Write the gradient of `gate` for the rows [begin, end)."""
    width = upstream.shape[1]
    for row in range(begin, end):
        for j in range(width):
            y, up = widened(x[row, j]), widened(upstream[row, j])
            bell = exponential(_F(-0.5) * y * y)
            share = normal_share(y, bell)
            out[row, j] = narrowed(up * widened(x[row, width + j]) * (share + y * _BELL * bell), out)
            out[row, width + j] = narrowed(up * y * share, out)
