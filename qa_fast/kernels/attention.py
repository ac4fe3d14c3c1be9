"""Attention as one kernel, and its gradient: the products of each head, with softmax and dropout between them.

The scores of a few queries at a time are turned into weights within the first cache, multiplied with the values, and
never stored; the gradient computes them again. Arithmetic between the products is float32. Keys of weight 0 and queries
of zeros pad the matrices to whole tiles. Heads are read from, and written to, the vectors of tokens. Vectors are
float32, or bfloat16 as uint16; a word is one float32 or a pair of bfloat16 numbers (see `tiles`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qa_fast.kernels.floats import exponential, largest, mixed, quick, quick_inner, widened
from qa_fast.kernels.jit import njit
from qa_fast.kernels.tiles import COLUMNS, interleave, move, multiply, prefetch, shortened, transpose, words_like

_F = np.float32
_U = np.uint32
_MASKED = _F(-1e9)
_ABSENT = _F(-1e30)  # of padding: far below masked keys, whose weights are equal if no key is visible
# A multiple of `tiles.ROWS`. With 8 the sums over queries are short, and with 24 or 32 the first cache is too small.
_QUERIES = 16


@quick
def attend(
    x: np.ndarray,  # uint16 or float32 [B, L, 3 * heads * D], queries, keys and values; D is a multiple of COLUMNS
    bias: np.ndarray,  # float32[3 * heads * D], added to them
    visible: np.ndarray,  # bool[B, L], the keys that all queries see
    key: np.ndarray,  # uint32[3], from `dropout.site_key`
    least: np.uint32,  # `dropout.least_bits` of the dropout rate; 0 without dropout
    spread: np.float32,  # multiplies the weights that are kept
    scale: np.float32,  # multiplies the queries
    heads: int,
    out: np.ndarray,  # like x, [B, L, heads * D]
    out_sums: np.ndarray,  # float32[B * heads * L, 2], maximum of each row of scores, and the reciprocal of its sum
    begin: int,  # the first of the B * heads heads that this call does
    end: int,
) -> None:
    """Write the attention of the heads [begin, end). Cost: two products and an exponential for each score."""
    _, length, hidden = out.shape
    size, padded = hidden // heads, -(-length // COLUMNS) * COLUMNS
    words, all_words = size * x.itemsize // 4, padded * x.itemsize // 4  # in a vector; in one number of every key
    query, keys, value = _vectors(x, padded, size), _vectors(x, padded, size), _vectors(x, padded, size)
    key_columns, value_rows = words_like(x, words, padded), words_like(x, all_words, size)
    scores, weights = np.empty((_QUERIES, padded), _F), _vectors(x, _QUERIES, padded)
    context, mask = np.empty((_QUERIES, size), _F), np.full(padded, _ABSENT, _F)
    for job in range(begin, end):
        b, first = job // heads, job % heads * size
        _mask(visible, b, mask)
        _load(x, b, first, bias, scale, query)
        _load(x, b, first + hidden, bias, _F(1.0), keys)
        _load(x, b, first + 2 * hidden, bias, _F(1.0), value)
        transpose(keys, key_columns)
        interleave(value, value_rows)
        for at in range(0, length, _QUERIES):
            rows, row = min(_QUERIES, length - at), job * length + at
            multiply(query, at * words, words, 1, key_columns, 0, words, scores, False)
            _weigh(scores, mask, length, key, heads, least, row, rows, weights, out_sums)
            multiply(weights, 0, all_words, 1, value_rows, 0, all_words, context, False)
            for r in range(rows):
                share = spread * out_sums[row + r, 1]
                _move_row(context, r * size, None, 0, share, out, (b * length + at + r) * hidden + first, size)


@quick_inner
def _weigh(
    scores: np.ndarray,  # float32[Q, K], which become differences from the maximum
    mask: np.ndarray,  # float32[K]
    length: int,
    key: np.ndarray,
    heads: int,
    least: np.uint32,
    row: int,  # the first of the rows of all heads of the batch
    rows: int,
    out: np.ndarray,  # uint16 or float32 [Q, K]
    out_sums: np.ndarray,
) -> None:
    """Write the exponentials that dropout keeps, not yet divided by their sum; and `attend`'s sums."""
    first, second = key[0], key[1]
    for r in range(rows):
        x, at = scores[r], _first_bit(key, heads, length, row + r)
        for j in range(len(x)):
            x[j] += mask[j]
        highest, total = largest(x), _F(0.0)
        for j in range(len(x)):
            power = exponential(x[j] - highest)
            total += power
            kept = mixed(_U(at + _U(j)), first, second) >= least
            out[r, j] = shortened(power if kept else _F(0.0), out)
        out_sums[row + r, 0], out_sums[row + r, 1] = highest, _F(1.0) / total


@quick
def attend_back(
    x: np.ndarray,  # the arguments and results of `attend`
    bias: np.ndarray,
    visible: np.ndarray,
    key: np.ndarray,
    least: np.uint32,
    spread: np.float32,
    scale: np.float32,
    heads: int,
    context: np.ndarray,
    sums: np.ndarray,
    upstream: np.ndarray,  # like context, its gradient
    out: np.ndarray,  # like x, its gradient
    out_bias: np.ndarray,  # float32[3 * heads, D], the gradient of the bias from these heads alone; zeroed
    begin: int,
    end: int,
) -> None:
    """Write the gradient of `attend` for the heads [begin, end). Cost: five products, an exponential for each score.

    The gradient of a score is p (g - sum of p g), where g is the gradient of its probability p. The sum equals the
    product of the query's context and upstream gradient. Source: Dao et al., FlashAttention, 2022, appendix B.2.
    """
    _, length, hidden = context.shape
    size, padded = hidden // heads, -(-length // COLUMNS) * COLUMNS
    words, all_words = size * x.itemsize // 4, padded * x.itemsize // 4
    few_words = _QUERIES * x.itemsize // 4
    query, keys, value = _vectors(x, padded, size), _vectors(x, padded, size), _vectors(x, padded, size)
    result, gradient = _vectors(x, padded, size), _vectors(x, padded, size)
    key_columns, value_columns = words_like(x, words, padded), words_like(x, words, padded)
    query_rows, key_rows = words_like(x, all_words, size), words_like(x, all_words, size)
    gradient_rows, means = words_like(x, all_words, size), np.empty(padded, _F)
    scores, d_weights = np.empty((_QUERIES, padded), _F), np.empty((_QUERIES, padded), _F)
    weights, d_scores = _vectors(x, _QUERIES, padded), _vectors(x, _QUERIES, padded)
    by_key = words_like(x, few_words, padded)
    d_query, d_key, d_value = np.empty((_QUERIES, size), _F), np.empty((padded, size), _F), np.empty((padded, size), _F)
    mask = np.full(padded, _ABSENT, _F)
    for job in range(begin, end):
        b, head = job // heads, job % heads
        first = head * size
        _mask(visible, b, mask)
        _load(x, b, first, bias, scale, query)
        _load(x, b, first + hidden, bias, _F(1.0), keys)
        _load(x, b, first + 2 * hidden, bias, _F(1.0), value)
        _load(context, b, first, None, _F(1.0), result)
        _load(upstream, b, first, None, _F(1.0), gradient)
        transpose(keys, key_columns)
        transpose(value, value_columns)
        interleave(query, query_rows)
        interleave(keys, key_rows)
        interleave(gradient, gradient_rows)
        _multiply_rows(result, gradient, means)
        for at in range(0, length, _QUERIES):
            rows, row = min(_QUERIES, length - at), job * length + at
            multiply(query, at * words, words, 1, key_columns, 0, words, scores, False)
            multiply(gradient, at * words, words, 1, value_columns, 0, words, d_weights, False)
            weights[rows:], d_scores[rows:] = 0, 0
            _weigh_back(
                *(scores, mask, length, key, heads, least, spread, row, rows),
                *(sums, means[at:], d_weights, weights, d_scores),
            )
            multiply(d_scores, 0, all_words, 1, key_rows, 0, all_words, d_query, False)
            _store(d_query, rows, scale, out, b, at, first, out_bias[head])
            before = at * x.itemsize // 4 * size
            interleave(d_scores, by_key)
            multiply(by_key, 0, 1, padded, query_rows, before, few_words, d_key, at > 0)
            interleave(weights, by_key)
            multiply(by_key, 0, 1, padded, gradient_rows, before, few_words, d_value, at > 0)
        _store(d_key, length, _F(1.0), out, b, 0, first + hidden, out_bias[heads + head])
        _store(d_value, length, _F(1.0), out, b, 0, first + 2 * hidden, out_bias[2 * heads + head])


@quick_inner
def _weigh_back(
    scores: np.ndarray,  # the first arguments of `_weigh`
    mask: np.ndarray,
    length: int,
    key: np.ndarray,
    heads: int,
    least: np.uint32,
    spread: np.float32,
    row: int,
    rows: int,
    sums: np.ndarray,
    means: np.ndarray,  # float32[Q], the sums of `attend_back`
    d_weights: np.ndarray,  # float32[Q, K], the gradients of weights
    out_weights: np.ndarray,  # uint16 or float32 [Q, K], the weights after dropout
    out: np.ndarray,  # like out_weights, the gradients of scores
) -> None:
    """Write the weights once more, and the gradients of scores."""
    first, second = key[0], key[1]
    for r in range(rows):
        x, at = scores[r], _first_bit(key, heads, length, row + r)
        highest, share, mean = sums[row + r, 0], sums[row + r, 1], means[r]
        for j in range(len(x)):
            probability = exponential(x[j] + mask[j] - highest) * share
            factor = spread if mixed(_U(at + _U(j)), first, second) >= least else _F(0.0)
            out_weights[r, j] = shortened(probability * factor, out_weights)
            out[r, j] = shortened(probability * (d_weights[r, j] * factor - mean), out)


@quick_inner
def _first_bit(key: np.ndarray, heads: int, length: int, row: int) -> np.uint32:
    """Return the position of a row's first weight among all of the site, as `dropout.keep_mask` counts."""
    return _U(_U(row * length) + _U(key[2] * _U(heads * length * length)))


@quick_inner
def _mask(visible: np.ndarray, b: int, out: np.ndarray) -> None:
    """Write what is added to the scores of the keys of a batch row."""
    for j in range(visible.shape[1]):
        out[j] = _F(0.0) if visible[b, j] else _MASKED


@njit(inline="always")
def _vectors(x: np.ndarray, rows: int, size: int) -> np.ndarray:
    return np.zeros((rows, size), x.dtype)


@quick_inner
def _load(x: np.ndarray, b: int, first: int, bias: Any, factor: np.float32, out: np.ndarray) -> None:
    """Write a head's vectors of a batch row, (x + bias) * factor, to [L or more, D].

    The next head's are loaded into the cache meanwhile. They lie next to these, and apart from each other.
    """
    size = out.shape[1]
    for t in range(x.shape[1]):
        at = (b * x.shape[1] + t) * x.shape[2] + first
        _move_row(x, at, bias, first, factor, out, t * size, size)
        for d in range(size, 2 * size, COLUMNS):
            prefetch(x, at + d)


@quick_inner
def _store(
    x: np.ndarray,  # float32[rows or more, D]
    rows: int,
    factor: np.float32,
    out: np.ndarray,  # uint16 or float32 [B, L, N * D]
    b: int,
    t: int,  # the first token
    first: int,  # the first number of the head in a token's vector
    out_sum: np.ndarray,  # float32[D]
) -> None:
    """Write rows, times a factor, as a head's vectors of a batch row, and add them to a sum."""
    size = x.shape[1]
    for r in range(rows):
        for d in range(size):
            out_sum[d] += x[r, d] * factor
        _move_row(x, r * size, None, 0, factor, out, (b * out.shape[1] + t + r) * out.shape[2] + first, size)


@quick_inner
def _move_row(
    x: np.ndarray, x_at: int, bias: Any, bias_at: int, factor: np.float32, out: np.ndarray, out_at: int, size: int
) -> None:
    for d in range(0, size, 16):
        move(x, x_at + d, bias, bias_at + d, factor, out, out_at + d)


@quick_inner
def _multiply_rows(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Write the product of each two rows of [R, D]."""
    for t in range(a.shape[0]):
        total = _F(0.0)
        for d in range(a.shape[1]):
            total += widened(a[t, d]) * widened(b[t, d])
        out[t] = total
