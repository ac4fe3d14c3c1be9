"""Layer norms with the element-wise work around them, and their gradients; one row at a time."""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.floats import mixed, narrowed, quick, widened

_F = np.float32
_U = np.uint32


@quick
def add_and_norm(
    x: np.ndarray,  # float32 or uint16 [R, H]
    bias: np.ndarray,  # float32[H]
    residual: np.ndarray,  # float32 or uint16 [R, H]
    gamma: np.ndarray,  # float32[H], of the norm
    beta: np.ndarray,  # float32[H]
    key: np.ndarray,  # uint32[3], from `dropout.site_key`
    batch_row: int,  # L, the rows of R in one row of the batch
    least: np.uint32,  # `dropout.least_bits` of the dropout rate; 0 without dropout
    spread: np.float32,  # multiplies the elements that are kept
    epsilon: np.float32,
    out: np.ndarray,  # like x
    out_moments: np.ndarray,  # float32[R, 2], mean and reciprocal standard deviation of each sum
    out_total: np.ndarray,  # float32[R, H], the sums; [0, H] if they are not needed
    begin: int,
    end: int,
) -> None:
    """Write the norm of residual + dropout(x + bias) for the rows [begin, end), which must belong to this call."""
    width = x.shape[1]
    total = np.empty(width, np.float32)
    first, second, whole = key[0], key[1], _U(key[2] * _U(batch_row * width))
    for row in range(begin, end):
        at, mean = _U(_U(row * width) + whole), _F(0.0)
        for j in range(width):
            y = widened(x[row, j]) + bias[j]
            kept = mixed(_U(at + _U(j)), first, second) >= least
            y = (y * spread if kept else _F(0.0)) + widened(residual[row, j])
            total[j] = y
            mean += y
        mean /= _F(width)
        variance = _F(0.0)
        for j in range(width):
            off = total[j] - mean
            variance += off * off
        scale = _F(1.0) / np.sqrt(variance / _F(width) + epsilon)
        out_moments[row, 0], out_moments[row, 1] = mean, scale
        for j in range(width):
            out[row, j] = narrowed((total[j] - mean) * scale * gamma[j] + beta[j], out)
        if len(out_total):
            out_total[row] = total


@quick
def add_and_norm_back(
    x: np.ndarray,  # the arguments of `add_and_norm`, up to `moments`
    bias: np.ndarray,
    residual: np.ndarray,
    gamma: np.ndarray,
    key: np.ndarray,
    batch_row: int,
    least: np.uint32,
    spread: np.float32,
    moments: np.ndarray,
    upstream: np.ndarray,  # like x, the gradient of the result
    upstream_total: np.ndarray,  # float32[R, H], the gradient of the sums; [0, H] for none
    out: np.ndarray,  # like x, the gradient of x
    out_residual: np.ndarray,  # like residual, its gradient
    out_sums: np.ndarray,  # float32[3, H], gradients of bias, gamma and beta from these rows alone; zeroed
    begin: int,
    end: int,
) -> None:
    """Write the gradient of `add_and_norm` for the rows [begin, end), computing the sum and its dropout again.

    Each call has its own `out_sums`.
    """
    width = x.shape[1]
    normal, g, factor = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    none = np.zeros(width, np.float32)
    first, second, whole = key[0], key[1], _U(key[2] * _U(batch_row * width))
    bias_sums, gamma_sums, beta_sums = out_sums[0], out_sums[1], out_sums[2]
    for row in range(begin, end):
        at, mean, scale = _U(_U(row * width) + whole), moments[row, 0], moments[row, 1]
        level, slope = _F(0.0), _F(0.0)
        for j in range(width):
            kept = mixed(_U(at + _U(j)), first, second) >= least
            y = (
                (widened(x[row, j]) + bias[j]) * spread if kept else _F(0.0)
            )  # not a product: a dropped value may be infinite
            n = (y + widened(residual[row, j]) - mean) * scale
            up = widened(upstream[row, j])
            gamma_sums[j] += up * n
            beta_sums[j] += up
            up *= gamma[j]
            normal[j], g[j], factor[j] = n, up, spread if kept else _F(0.0)
            level += up
            slope += up * n
        level /= _F(width)
        slope /= _F(width)
        more = upstream_total[row] if len(upstream_total) else none
        for j in range(width):
            gradient = scale * (g[j] - level - normal[j] * slope) + more[j]
            out_residual[row, j] = narrowed(gradient, out_residual)
            gradient *= factor[j]
            out[row, j] = narrowed(gradient, out)
            bias_sums[j] += gradient


@quick
def norm_and_drop(
    x: np.ndarray,  # float32[R, W]
    visible: np.ndarray,  # bool[R]; other rows become 0
    gamma: np.ndarray,  # float32[W], of the norm
    beta: np.ndarray,  # float32[W]
    key: np.ndarray,  # uint32[3], from `dropout.site_key`
    batch_row: int,  # L, the rows of R in one row of the batch
    least: np.uint32,  # `dropout.least_bits` of the dropout rate; 0 without dropout
    spread: np.float32,  # multiplies the elements that are kept
    epsilon: np.float32,
    out: np.ndarray,  # float32 or uint16 [R, W]
    out_moments: np.ndarray,  # float32[R, 2], mean and reciprocal standard deviation
    begin: int,
    end: int,
) -> None:
    """Write the norm, then dropout, of the rows [begin, end), which must belong to this call."""
    width = x.shape[1]
    first, second, whole = key[0], key[1], _U(key[2] * _U(batch_row * width))
    for row in range(begin, end):
        mean, variance = _F(0.0), _F(0.0)
        for j in range(width):
            mean += x[row, j]
        mean /= _F(width)
        for j in range(width):
            off = x[row, j] - mean
            variance += off * off
        scale = _F(1.0) / np.sqrt(variance / _F(width) + epsilon)
        out_moments[row, 0], out_moments[row, 1] = mean, scale
        if not visible[row]:
            for j in range(width):
                out[row, j] = narrowed(_F(0.0), out)
            continue
        at = _U(_U(row * width) + whole)
        for j in range(width):
            kept = mixed(_U(at + _U(j)), first, second) >= least
            y = (x[row, j] - mean) * scale * gamma[j] + beta[j]
            out[row, j] = narrowed(y * spread if kept else _F(0.0), out)


@quick
def norm_and_drop_back(
    x: np.ndarray,  # the arguments of `norm_and_drop`, up to `moments`
    visible: np.ndarray,
    gamma: np.ndarray,
    key: np.ndarray,
    batch_row: int,
    least: np.uint32,
    spread: np.float32,
    moments: np.ndarray,
    upstream: np.ndarray,  # float32 or uint16 [R, W], the gradient of the result
    out: np.ndarray,  # float32[R, W], the gradient of x
    out_sums: np.ndarray,  # float32[2, W], gradients of gamma and beta from these rows alone; zeroed
    begin: int,
    end: int,
) -> None:
    """Write the gradient of `norm_and_drop` for the rows [begin, end). Each call has its own `out_sums`."""
    width = x.shape[1]
    normal, g = np.empty(width, np.float32), np.empty(width, np.float32)
    first, second, whole = key[0], key[1], _U(key[2] * _U(batch_row * width))
    gamma_sums, beta_sums = out_sums[0], out_sums[1]
    for row in range(begin, end):
        if not visible[row]:
            for j in range(width):
                out[row, j] = _F(0.0)
            continue
        at, mean, scale = _U(_U(row * width) + whole), moments[row, 0], moments[row, 1]
        level, slope = _F(0.0), _F(0.0)
        for j in range(width):
            kept = mixed(_U(at + _U(j)), first, second) >= least
            up = widened(upstream[row, j]) * spread if kept else _F(0.0)
            n = (x[row, j] - mean) * scale
            gamma_sums[j] += up * n
            beta_sums[j] += up
            up *= gamma[j]
            normal[j], g[j] = n, up
            level += up
            slope += up * n
        level /= _F(width)
        slope /= _F(width)
        for j in range(width):
            out[row, j] = scale * (g[j] - level - normal[j] * slope)
