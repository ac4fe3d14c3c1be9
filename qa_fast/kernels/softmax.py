"""Attention weights: softmax and dropout of scores, and their gradient; one row at a time, which stays in the cache.

Loops over DeBERTa's distances run over slices: an index that might be negative is wrapped, which keeps LLVM from making
vector instructions of them.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.floats import exponential, largest, mixed, narrowed, quick, quick_inner, widened
from qa_fast.kernels.jit import njit

_F = np.float32
_U = np.uint32
_MASKED = _F(-1e9)


@quick
def weigh(
    scores: np.ndarray,  # float32 or uint16 [B, heads * L, L]
    visible: np.ndarray,  # bool[B, 1 or L, L], the keys that each query sees
    bias: np.ndarray,  # float32[heads * L, L], added to the scores of every batch row; [0, 0] for none
    by_query: np.ndarray,  # like scores, [B, heads * L, 2 L], each query with the distances; [0, 0, 0] for none
    by_key: np.ndarray,  # the same for each key; see `relative.skewed`
    key: np.ndarray,  # uint32[3], from `dropout.site_key`
    least: np.uint32,  # `dropout.least_bits` of the dropout rate; 0 without dropout
    spread: np.float32,  # multiplies the weights that are kept
    out_weights: np.ndarray,  # like scores
    out_sums: np.ndarray,  # float32[B, heads * L, 2], maximum of each row, and the reciprocal of its sum
    begin: int,  # the first of the B * heads * L rows that this call writes
    end: int,
) -> None:
    """Write softmax over visible keys, then dropout. Cost: two passes over memory, one exponential for each element."""
    rows, length = scores.shape[1], scores.shape[2]
    seen_by_all = visible.shape[1] == 1
    x = np.empty(length, np.float32)
    first, second, whole = key[0], key[1], _U(key[2] * _U(rows * length))
    for row in range(begin, end):
        b, r = row // rows, row % rows
        q = 0 if seen_by_all else r % length
        for j in range(length):
            x[j] = widened(scores[b, r, j]) + (_F(0.0) if visible[b, q, j] else _MASKED)
        if len(bias):
            for j in range(length):
                x[j] += bias[r, j]
        if len(by_query) or len(by_key):
            _add_distances(x, by_query, by_key, visible, b, r)
        highest = largest(x)
        total = _F(0.0)
        for j in range(length):
            power = exponential(x[j] - highest)
            x[j] = power
            total += power
        # Two numbers, not one logarithm of their sum: it would be lost in a maximum of -1e9 if no key is visible.
        out_sums[b, r, 0], out_sums[b, r, 1] = highest, _F(1.0) / total
        at = _U(_U(row * length) + whole)
        if least > _U(0):
            share = spread / total
            for j in range(length):
                kept = mixed(_U(at + _U(j)), first, second) >= least
                out_weights[b, r, j] = narrowed(x[j] * share if kept else _F(0.0), out_weights)
        else:
            share = _F(1.0) / total
            for j in range(length):
                out_weights[b, r, j] = narrowed(x[j] * share, out_weights)


@quick_inner
def _add_distances(
    x: np.ndarray, by_query: np.ndarray, by_key: np.ndarray, visible: np.ndarray, b: int, r: int
) -> None:
    """Add the scores of distances to a row; of keys that are not visible nothing but the mask remains."""
    length, i = len(x), r % len(x)
    seen = visible[b, i]
    if len(by_query):
        row = by_query[b, r, length - 1 - i :]
        for j in range(length):
            x[j] += widened(row[j])
    if len(by_key):
        column = _along_keys(by_key[b, r - i :], i)
        for j in range(length):
            x[j] += widened(column[j])
    for j in range(length):
        x[j] = x[j] if seen[j] else _MASKED


@quick
def weigh_back(
    scores: np.ndarray,  # the arguments of `weigh`, up to `sums`
    visible: np.ndarray,
    bias: np.ndarray,
    by_query: np.ndarray,
    by_key: np.ndarray,
    key: np.ndarray,
    least: np.uint32,
    spread: np.float32,
    sums: np.ndarray,
    upstream: np.ndarray,  # like scores, the gradient of the weights
    out: np.ndarray,  # like scores, the gradient of the scores
    out_bias: np.ndarray,  # like bias, its gradient; zeroed
    out_by_query: np.ndarray,  # like by_query, its gradient
    out_by_key: np.ndarray,  # like by_key, its gradient
    begin: int,  # as for `weigh`; with a bias among the heads * L rows of all batch rows together
    end: int,
) -> None:
    """Write the gradient of `weigh`, computing probabilities and dropout again. Cost: as for `weigh`."""
    batch, rows, length = scores.shape
    biased = len(bias) > 0
    if biased:
        begin, end = begin * batch, end * batch
    seen_by_all = visible.shape[1] == 1
    p, g = np.empty(length, np.float32), np.empty(length, np.float32)
    first, second, whole = key[0], key[1], _U(key[2] * _U(rows * length))
    for row in range(begin, end):
        b, r = (row % batch, row // batch) if biased else (row // rows, row % rows)
        q = 0 if seen_by_all else r % length
        at = _U(_U((b * rows + r) * length) + whole)
        highest, scale, mean = sums[b, r, 0], sums[b, r, 1], _F(0.0)
        for j in range(length):
            p[j] = widened(scores[b, r, j]) + (_F(0.0) if visible[b, q, j] else _MASKED)
        if biased:
            for j in range(length):
                p[j] += bias[r, j]
        if len(by_query) or len(by_key):
            _add_distances(p, by_query, by_key, visible, b, r)
        for j in range(length):
            share = exponential(p[j] - highest) * scale
            kept = mixed(_U(at + _U(j)), first, second) >= least
            gradient = widened(upstream[b, r, j]) * spread if kept else _F(0.0)
            p[j], g[j] = share, gradient
            mean += share * gradient
        for j in range(length):
            out[b, r, j] = narrowed(p[j] * (g[j] - mean), out)
        if biased:
            for j in range(length):
                out_bias[r, j] += p[j] * (g[j] - mean)
        if len(by_query) or len(by_key):
            _spread_distances(out, out_by_query, out_by_key, visible, b, r)


@quick_inner
def _spread_distances(
    out: np.ndarray, out_by_query: np.ndarray, out_by_key: np.ndarray, visible: np.ndarray, b: int, r: int
) -> None:
    """Write a row's gradients to those of the distances, and zeros where row `r` of these has no pair of tokens."""
    length = out.shape[2]
    i, none = r % length, narrowed(_F(0.0), out)
    row, seen = out[b, r], visible[b, i]
    for j in range(length):
        row[j] = row[j] if seen[j] else none
    for some in (out_by_query, out_by_key):
        if len(some):
            unused = some[b, r]
            for c in range(length - 1 - i):
                unused[c] = none
            for c in range(2 * length - 1 - i, 2 * length):
                unused[c] = none
    if len(out_by_query):
        to_query = out_by_query[b, r, length - 1 - i :]
        for j in range(length):
            to_query[j] = row[j]
    if len(out_by_key):
        to_key = _along_keys(out_by_key[b, r - i :], i)
        for j in range(length):
            to_key[j] = row[j]


@njit(inline="always")
def _along_keys(head: np.ndarray, i: int) -> np.ndarray:
    """Return a query's numbers among those that a head's keys [L or more, 2 L] have for distances, as [L]."""
    length = head.shape[1] // 2
    return head.reshape(-1)[length - 1 + i :: 2 * length - 1]
