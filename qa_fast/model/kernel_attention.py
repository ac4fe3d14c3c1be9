"""Run attention by Numba kernels, forward and backward: the parts between its products, or all of it as one kernel.

One kernel needs AVX2 for float32 and AVX-512 BF16 for bfloat16 (see `kernels.tiles`), and no rotations, biases or
windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qa_fast.kernels.attention import attend, attend_back
from qa_fast.kernels.heads import join_heads, join_heads_back, rotate, split_heads, split_heads_back
from qa_fast.kernels.softmax import weigh, weigh_back
from qa_fast.kernels.tiles import COLUMNS, supported
from qa_fast.model.kernel_calls import CHUNKS, Array, call, dropout_bits, empty, flat, like, on_rows
from qa_fast.model.parts import attention_part, distances_part, heads_part, merge_part, probabilities_part

Part = Callable[..., Any]


def _fits_attention(qkv: Any, bias: Any, visible: Any, key: Any, *, heads: int, **_: Any) -> bool:
    of_tokens = visible is not None and visible.shape[2] == 1
    whole = qkv.shape[-1] // 3 // heads % COLUMNS == 0
    return of_tokens and whole and supported(qkv.dtype.name)


def _attention(qkv: Any, bias: Any, visible: Any, key: Any, *, heads: int, scale: float, rate: float) -> Any:
    """Compute `parts.attention_part`."""
    width = qkv.shape[-1]
    static = *dropout_bits(rate), np.float32(scale), heads
    bias = tf.zeros([width]) if bias is None else bias

    def forward(qkv: Array, bias: Array, visible: Array, key: Array) -> tuple[Array, ...]:
        batch, length, _ = qkv.shape
        out, sums = empty((batch, length, width // 3), qkv.dtype), empty((batch * heads * length, 2), np.float32)
        arguments = qkv, bias, visible[:, 0, 0], key, *static, out, sums
        on_rows(attend, batch * heads, sums.size * length, *arguments)
        return out, sums

    def backward(*arrays: Array) -> tuple[Array, ...]:
        qkv, bias, visible, key, out, sums, upstream = arrays
        batch, length, _ = qkv.shape
        out_qkv, out_bias = empty(qkv.shape, qkv.dtype), np.zeros((CHUNKS, 3 * heads, width // 3 // heads), np.float32)
        arguments = qkv, bias, visible[:, 0, 0], key, *static, out, sums, upstream, out_qkv
        on_rows(attend_back, batch * heads, sums.size * length, *arguments, sums=out_bias)
        return out_qkv, out_bias.sum(axis=0).reshape(-1)

    @tf.custom_gradient
    def part(qkv: Any, bias: Any) -> Any:
        tensors = [qkv, bias, visible, key]
        results = [(qkv.dtype, [None, None, width // 3]), (tf.float32, [None, 2])]
        out, sums = call(forward, tensors, results)
        return out, lambda upstream: call(backward, [*tensors, out, sums, upstream], [like(qkv), like(bias)])

    return part(qkv, bias)


def _fits_probabilities(scores: Any, visible: Any, bias: Any, key: Any, **_: Any) -> bool:
    return visible is not None and (bias is None or bias.dtype == tf.float32)


def _probabilities(scores: Any, visible: Any, bias: Any, key: Any, *, rate: float) -> Any:
    """Compute `parts.probabilities_part`."""
    return _weights(scores, visible, bias, None, None, key, rate)


def _fits_distances(scores: Any, by_query: Any, by_key: Any, visible: Any, pairs: Any, drop_key: Any, **_: Any) -> bool:
    return visible is not None and pairs is None


def _distances(scores: Any, by_query: Any, by_key: Any, visible: Any, pairs: Any, drop_key: Any, *, rate: float) -> Any:
    """Compute `parts.distances_part`."""
    return _weights(scores, visible, None, by_query, by_key, drop_key, rate)


def _weights(scores: Any, visible: Any, bias: Any, by_query: Any, by_key: Any, key: Any, rate: float) -> Any:
    """Compute attention's weights; `bias`, `by_query` and `by_key` may be None."""
    keep = dropout_bits(rate)
    added = [tf.zeros([0, 0, 0, 0], kind) for kind in (tf.float32, scores.dtype, scores.dtype)]
    added = [none if one is None else one for one, none in zip((bias, by_query, by_key), added, strict=True)]

    def forward(*arrays: Array) -> tuple[Array, ...]:
        scores, visible, bias, by_query, by_key, key = arrays
        rows = _rows(scores)
        count = rows.shape[0] * rows.shape[1]
        weights, sums = empty(scores.shape, scores.dtype), empty((*rows.shape[:2], 2), np.float32)
        arguments = rows, visible[:, 0], flat(bias), _rows(by_query), _rows(by_key), key, *keep, _rows(weights), sums
        on_rows(weigh, count, scores.size, *arguments)
        return weights, sums

    def backward(*arrays: Array) -> tuple[Array, ...]:
        scores, visible, bias, by_query, by_key, key, sums, upstream = arrays
        rows = _rows(scores)
        # With a bias the same rows of the whole batch belong to one call, which adds up their gradients.
        count = rows.shape[1] if bias.size else rows.shape[0] * rows.shape[1]
        out, out_bias = empty(scores.shape, scores.dtype), np.zeros(bias.shape, np.float32)
        outs = out, *(empty(one.shape, one.dtype) for one in (by_query, by_key))
        arguments = rows, visible[:, 0], flat(bias), _rows(by_query), _rows(by_key), key, *keep, sums, _rows(upstream)
        out_rows, *others = map(_rows, outs)
        on_rows(weigh_back, count, scores.size, *arguments, out_rows, flat(out_bias), *others)
        return out, out_bias, *outs[1:]

    @tf.custom_gradient
    def part(scores: Any, *added: Any) -> Any:
        tensors = [scores, visible, *added, key]
        weights, sums = call(forward, tensors, [like(scores), (tf.float32, [None, None, 2])])

        def gradient(upstream: Any) -> Any:
            return call(backward, [*tensors, sums, upstream], [like(scores), *map(like, added)])

        return weights, gradient

    return part(scores, *added)


def _rows(scores: Array) -> Array:
    """Reshape [B, heads, L, N] to [B, heads * L, N]."""
    batch, heads, length, keys = scores.shape
    return scores.reshape(batch, heads * length, keys)


def _fits_heads(qkv: Any, bias: Any, cos: Any, sin: Any, *, tokens_first: bool = False, **_: Any) -> bool:
    return not tokens_first


def _heads(qkv: Any, bias: Any, cos: Any, sin: Any, *, heads: int, scale: float, tokens_first: bool = False) -> Any:
    """Compute `parts.heads_part`."""
    factor, total = np.float32(scale), qkv.shape[-1]
    rotation = [] if cos is None else [cos, sin]
    bias = tf.zeros([total]) if bias is None else bias

    def forward(qkv: Array, bias: Array, *rotation: Array) -> tuple[Array, ...]:
        batch, length, width = qkv.shape
        out = empty((3, batch, heads, length, width // 3 // heads), qkv.dtype)
        on_rows(split_heads, batch * length, qkv.size, flat(qkv), bias, factor, out)
        return *(_rotated(part, part, rotation, 1) for part in out[:2]), out[2]

    def backward(query: Array, key: Array, value: Array, *rotation: Array) -> tuple[Array, ...]:
        query, key = (_rotated(part, empty(part.shape, part.dtype), rotation, -1) for part in (query, key))
        batch, _, length, size = query.shape
        width = 3 * heads * size
        out, sums = empty((batch, length, width), query.dtype), np.zeros((CHUNKS, width), np.float32)
        on_rows(split_heads_back, batch * length, out.size, query, key, value, factor, flat(out), sums=sums)
        return out, sums.sum(axis=0)

    @tf.custom_gradient
    def part(qkv: Any, bias: Any) -> Any:
        shape = [None, heads, None, total // 3 // heads]
        parts = call(forward, [qkv, bias, *rotation], [(qkv.dtype, shape)] * 3)

        def gradient(*upstream: Any) -> Any:
            return call(backward, [*upstream, *rotation], [like(qkv), like(bias)])

        return tuple(parts), gradient

    return part(qkv, bias)


def _rotated(x: Array, out: Array, rotation: tuple[Array, ...], direction: int) -> Array:
    """Write `x` to `out`, rotated; without a rotation return `x`."""
    if not rotation:
        return x
    on_rows(rotate, x.size // x.shape[-1], x.size, x, *rotation, np.float32(direction), out)
    return out


def _merge(context: Any) -> Any:
    """Compute `parts.merge_part`."""
    heads, size = context.shape[1], context.shape[3]

    def forward(context: Array) -> tuple[Array, ...]:
        batch, _, length, _ = context.shape
        out = empty((batch, length, heads * size), context.dtype)
        on_rows(join_heads, batch * length, out.size, context, flat(out))
        return (out,)

    def backward(upstream: Array) -> tuple[Array, ...]:
        batch, length, _ = upstream.shape
        out = empty((batch, heads, length, size), upstream.dtype)
        on_rows(join_heads_back, batch * length, out.size, flat(upstream), out)
        return (out,)

    @tf.custom_gradient
    def part(context: Any) -> Any:
        (joined,) = call(forward, [context], [(context.dtype, [None, None, heads * size])])
        return joined, lambda upstream: call(backward, [upstream], [like(context)])[0]

    return part(context)


# For each part, whether its kernels can compute it, and how.
ATTENTION: dict[Part, tuple[Callable[..., bool], Part]] = {
    attention_part: (_fits_attention, _attention),
    probabilities_part: (_fits_probabilities, _probabilities),
    distances_part: (_fits_distances, _distances),
    heads_part: (_fits_heads, _heads),
    merge_part: (lambda context: True, _merge),
}
