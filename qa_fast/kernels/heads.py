"""Token vectors split into attention heads, heads joined into vectors, and the gradients of both."""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.floats import narrowed, quick, widened
from qa_fast.kernels.jit import njit

_F = np.float32


@quick
def split_heads(
    x: np.ndarray,  # float32 or uint16 [B * L, 3 * heads * D]: queries, keys and values of each token
    bias: np.ndarray,  # float32[3 * heads * D]
    scale: np.float32,  # multiplies the queries
    out: np.ndarray,  # like x, [3, B, heads, L, D]
    begin: int,  # among the B * L tokens
    end: int,
) -> None:
    """Add the bias, split and scale the tokens [begin, end), which must belong to this call. Cost: one pass."""
    _, _, heads, length, size = out.shape
    for token in range(begin, end):
        b, at = token // length, token % length
        for part in range(3):
            factor = scale if part == 0 else _F(1.0)
            for head in range(heads):
                first = (part * heads + head) * size
                for d in range(size):
                    y = (widened(x[token, first + d]) + bias[first + d]) * factor
                    out[part, b, head, at, d] = narrowed(y, out)


@quick
def split_heads_back(
    query: np.ndarray,  # float32 or uint16 [B, heads, L, D], the gradient of the queries; key and value likewise
    key: np.ndarray,
    value: np.ndarray,
    scale: np.float32,
    out: np.ndarray,  # like query, [B * L, 3 * heads * D]
    out_sums: np.ndarray,  # float32[3 * heads * D], the gradient of the bias from these tokens alone; zeroed
    begin: int,
    end: int,
) -> None:
    """Write the gradient of `split_heads` for the tokens [begin, end). Each call has its own `out_sums`."""
    _, heads, length, size = query.shape
    for part, gradients in enumerate((query, key, value)):
        factor = scale if part == 0 else _F(1.0)
        for token in range(begin, end):
            b, at = token // length, token % length
            for head in range(heads):
                first = (part * heads + head) * size
                for d in range(size):
                    gradient = widened(gradients[b, head, at, d]) * factor
                    out[token, first + d] = narrowed(gradient, out)
                    out_sums[first + d] += gradient


@quick
def rotate(
    x: np.ndarray,  # float32 or uint16 [B, heads, L, D]
    cos: np.ndarray,  # float32[L, D / 2]
    sin: np.ndarray,  # float32[L, D / 2]
    direction: np.float32,  # 1; -1 rotates back, which is the gradient
    out: np.ndarray,  # like x, which it may be
    begin: int,  # among the B * heads * L vectors
    end: int,
) -> None:
    """Write the rotated vectors [begin, end), which must belong to this call; see `model.parts.rotated`."""
    _, heads, length, size = x.shape
    half = size // 2
    for row in range(begin, end):
        b, head, at = row // (heads * length), row // length % heads, row % length
        for d in range(half):
            left, right = widened(x[b, head, at, d]), widened(x[b, head, at, half + d])
            c, s = cos[at, d], sin[at, d] * direction
            out[b, head, at, d] = narrowed(left * c - right * s, out)
            out[b, head, at, half + d] = narrowed(right * c + left * s, out)


@njit(cache=True, nogil=True)
def join_heads(
    x: np.ndarray,  # float32 or uint16 [B, heads, L, D]
    out: np.ndarray,  # like x, [B * L, heads * D]
    begin: int,  # among the B * L tokens
    end: int,
) -> None:
    """Join the heads of the tokens [begin, end), which must belong to this call."""
    _, heads, length, size = x.shape
    for token in range(begin, end):
        b, at = token // length, token % length
        for head in range(heads):
            for d in range(size):
                out[token, head * size + d] = x[b, head, at, d]


@njit(cache=True, nogil=True)
def join_heads_back(
    upstream: np.ndarray,  # float32 or uint16 [B * L, heads * D]
    out: np.ndarray,  # like it, [B, heads, L, D]
    begin: int,  # among the B * L tokens
    end: int,
) -> None:
    """Write the gradient of `join_heads`: split the vectors of the tokens [begin, end) into heads."""
    _, heads, length, size = out.shape
    for token in range(begin, end):
        b, at = token // length, token % length
        for head in range(heads):
            for d in range(size):
                out[b, head, at, d] = upstream[token, head * size + d]
