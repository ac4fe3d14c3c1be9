"""Element-wise parts of the encoder as kernels of our own, forwards and backwards, inside TensorFlow's graphs on CPUs.

XLA compiles such parts too (see `islands`), but anew for every width of a batch, and it sums over rows in several
passes. A kernel is compiled once for a machine, reads and writes each tensor once, and makes in its backward pass again
what is cheaper to make than to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qa_fast.kernels.activations import activate, activate_back
from qa_fast.kernels.floats import GELU, GELU_TANH, RELU, SILU
from qa_fast.kernels.heads import join_heads, join_heads_back, split_heads, split_heads_back
from qa_fast.kernels.norms import add_and_norm, add_and_norm_back, norm_and_drop, norm_and_drop_back
from qa_fast.kernels.softmax import weigh, weigh_back
from qa_fast.model.config import ACTIVATIONS
from qa_fast.model.dropout import least_bits
from qa_fast.model.kernel_calls import CHUNKS, Array, call, empty, spread
from qa_fast.model.parts import activation_part, after_part, embed_norm_part, heads_part, merge_part, probabilities_part

Part = Callable[..., Any]
_KINDS = {"gelu": GELU, "gelu_tanh": GELU_TANH, "relu": RELU, "silu": SILU}
_STORED: dict[str, Any] = {"float32": np.float32, "bfloat16": np.uint16}  # compute dtypes, as kernels store them


def run_by_kernels(function: Part, tensors: tuple[Any, ...], static: dict[str, Any]) -> Any:
    """What a part gives, by its kernels; None where there are none for such tensors.

    Args:
        function: The part.
        tensors: What it is called with, None among it.
        static: Its other arguments.
    """
    found = _TABLE.get(function)
    if found is None:
        return None
    fits, part = found
    given = tuple(None if tensor is None else tf.convert_to_tensor(tensor) for tensor in tensors)
    floats = {tensor.dtype for tensor in given if tensor is not None and tensor.dtype.is_floating}
    return part(*given, **static) if floats <= set(map(tf.as_dtype, _STORED)) and fits(given, static) else None


def _dropout(rate: float) -> tuple[np.uint32, np.float32]:
    """What the kernels are told of a rate. Made here, in float64, as `dropout.drop` does: the same elements go."""
    return least_bits(rate), np.float32(1.0 / (1.0 - rate))


def _like(tensor: Any) -> tuple[Any, Any]:
    return tensor.dtype, tensor.shape


# Attention.


def _probabilities(scores: Any, visible: Any, bias: Any, key: Any, *, rate: float) -> Any:
    """See `parts.probabilities_part`."""
    least, factor = _dropout(rate)

    def forward(scores: Array, visible: Array, key: Array) -> tuple[Array, ...]:
        rows = _rows(scores)
        weights, sums = empty(scores.shape, scores.dtype), empty((*rows.shape[:2], 2), np.float32)
        seen, given = visible[:, 0], weights.reshape(rows.shape)
        spread(
            lambda _, begin, end: weigh(rows, seen, key, least, factor, given, sums, begin, end),
            rows.shape[0] * rows.shape[1],
            scores.size,
        )
        return weights, sums

    def backward(scores: Array, visible: Array, key: Array, sums: Array, upstream: Array) -> tuple[Array, ...]:
        rows = _rows(scores)
        out = empty(scores.shape, scores.dtype)
        seen, given, above = visible[:, 0], out.reshape(rows.shape), _rows(upstream)
        spread(
            lambda _, begin, end: weigh_back(rows, seen, key, least, factor, sums, above, given, begin, end),
            rows.shape[0] * rows.shape[1],
            scores.size,
        )
        return (out,)

    @tf.custom_gradient
    def part(scores: Any) -> Any:
        weights, sums = call(forward, [scores, visible, key], [_like(scores), (tf.float32, [None, None, 2])])

        def gradient(upstream: Any) -> Any:
            return call(backward, [scores, visible, key, sums, upstream], [_like(scores)])[0]

        return weights, gradient

    return part(scores)


def _rows(scores: Array) -> Array:
    """[B, heads, L, L] as [B, heads * L, L]."""
    batch, heads, length, keys = scores.shape
    return scores.reshape(batch, heads * length, keys)


def _heads(qkv: Any, bias: Any, cos: Any, sin: Any, *, heads: int, scale: float, tokens_first: bool = False) -> Any:
    """See `parts.heads_part`."""
    factor, wide = np.float32(scale), qkv.shape[-1]

    def forward(qkv: Array, bias: Array) -> tuple[Array, ...]:
        batch, length, width = qkv.shape
        out = empty((3, batch, heads, length, width // 3 // heads), qkv.dtype)
        rows = qkv.reshape(-1, width)
        spread(lambda _, begin, end: split_heads(rows, bias, factor, out, begin, end), len(rows), qkv.size)
        return out[0], out[1], out[2]

    def backward(query: Array, key: Array, value: Array) -> tuple[Array, ...]:
        batch, _, length, size = query.shape
        width = 3 * heads * size
        out, sums = empty((batch, length, width), query.dtype), np.zeros((CHUNKS, width), np.float32)
        rows = out.reshape(-1, width)
        spread(
            lambda chunk, begin, end: split_heads_back(query, key, value, factor, rows, sums[chunk], begin, end),
            len(rows),
            out.size,
        )
        return out, sums.sum(axis=0)

    @tf.custom_gradient
    def part(qkv: Any, bias: Any) -> Any:
        shape = [None, heads, None, wide // 3 // heads]
        parts = call(forward, [qkv, bias], [(qkv.dtype, shape)] * 3)

        def gradient(*upstream: Any) -> Any:
            return call(backward, list(upstream), [_like(qkv), _like(bias)])

        return tuple(parts), gradient

    return part(qkv, bias)


def _merge(context: Any) -> Any:
    """See `parts.merge_part`."""
    heads, size = context.shape[1], context.shape[3]

    def forward(context: Array) -> tuple[Array, ...]:
        batch, _, length, _ = context.shape
        out = empty((batch, length, heads * size), context.dtype)
        rows = out.reshape(-1, heads * size)
        spread(lambda _, begin, end: join_heads(context, rows, begin, end), len(rows), out.size)
        return (out,)

    def backward(upstream: Array) -> tuple[Array, ...]:
        batch, length, width = upstream.shape
        out, rows = empty((batch, heads, length, size), upstream.dtype), upstream.reshape(-1, width)
        spread(lambda _, begin, end: join_heads_back(rows, out, begin, end), len(rows), out.size)
        return (out,)

    @tf.custom_gradient
    def part(context: Any) -> Any:
        (joined,) = call(forward, [context], [(context.dtype, [None, None, heads * size])])
        return joined, lambda upstream: call(backward, [upstream], [_like(context)])[0]

    return part(context)


# Norms and activations.


def _after(x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float) -> Any:
    """See `parts.after_part`."""
    (least, factor), tiny = _dropout(rate), np.float32(epsilon)

    def forward(
        x: Array, bias: Array, residual: Array, gamma: Array, beta: Array, key: Array
    ) -> tuple[Array, ...]:  # fmt: skip
        rows, others, length = _flat(x), _flat(residual), x.shape[1]
        out, moments = empty(x.shape, x.dtype), empty((len(rows), 2), np.float32)
        given = _flat(out)
        spread(
            lambda _, begin, end: add_and_norm(
                rows, bias, others, gamma, beta, key, length, least, factor, tiny, given, moments, begin, end
            ),
            len(rows),
            x.size,
        )
        return out, moments

    def backward(
        x: Array, bias: Array, residual: Array, gamma: Array, key: Array, moments: Array, upstream: Array
    ) -> tuple[Array, ...]:
        rows, others, above, length = _flat(x), _flat(residual), _flat(upstream), x.shape[1]
        out, out_residual = empty(x.shape, x.dtype), empty(x.shape, x.dtype)
        given, beside = _flat(out), _flat(out_residual)
        sums = np.zeros((CHUNKS, 3, rows.shape[1]), np.float32)
        spread(
            lambda chunk, begin, end: add_and_norm_back(
                rows,
                bias,
                others,
                gamma,
                key,
                length,
                least,
                factor,
                moments,
                above,
                given,
                beside,
                sums[chunk],
                begin,
                end,
            ),
            len(rows),
            x.size,
        )
        return out, out_residual, *sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, bias: Any, residual: Any, gamma: Any, beta: Any) -> Any:
        tensors = [x, bias, residual, gamma, beta, key]
        normed, moments = call(forward, tensors, [_like(x), (tf.float32, [None, 2])])

        def gradient(upstream: Any) -> Any:
            given = [x, bias, residual, gamma, key, moments, upstream]
            results = [_like(x), _like(residual), _like(bias), _like(gamma), _like(beta)]
            of_x, of_residual, *of_weights = call(backward, given, results)
            return of_x, of_weights[0], of_residual, *of_weights[1:]

        return normed, gradient

    return part(x, bias, residual, gamma, beta)


def _embed_norm(
    x: Any, mask: Any, gamma: Any, beta: Any, key: Any, *, masked: bool, epsilon: float, rate: float, dtype: str
) -> Any:
    """See `parts.embed_norm_part`."""
    (least, factor), tiny = _dropout(rate), np.float32(epsilon)
    mask = mask if masked else tf.zeros([0], tf.bool)
    stored = _STORED[dtype]

    def forward(x: Array, mask: Array, gamma: Array, beta: Array, key: Array) -> tuple[Array, ...]:
        rows, length = _flat(x), x.shape[1]
        there = mask.reshape(-1) if masked else np.ones(len(rows), np.bool_)
        out, moments = empty(x.shape, stored), empty((len(rows), 2), np.float32)
        given = _flat(out)
        spread(
            lambda _, begin, end: norm_and_drop(
                rows, there, gamma, beta, key, length, least, factor, tiny, given, moments, begin, end
            ),
            len(rows),
            x.size,
        )
        return out, moments

    def backward(
        x: Array, mask: Array, gamma: Array, key: Array, moments: Array, upstream: Array
    ) -> tuple[Array, ...]:  # fmt: skip
        rows, above, length = _flat(x), _flat(upstream), x.shape[1]
        there = mask.reshape(-1) if masked else np.ones(len(rows), np.bool_)
        out, sums = empty(x.shape, np.float32), np.zeros((CHUNKS, 2, rows.shape[1]), np.float32)
        given = _flat(out)
        spread(
            lambda chunk, begin, end: norm_and_drop_back(
                rows, there, gamma, key, length, least, factor, moments, above, given, sums[chunk], begin, end
            ),
            len(rows),
            x.size,
        )
        return out, *sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, gamma: Any, beta: Any) -> Any:
        results = [(tf.as_dtype(dtype), x.shape), (tf.float32, [None, 2])]
        normed, moments = call(forward, [x, mask, gamma, beta, key], results)

        def gradient(upstream: Any) -> Any:
            given = [x, mask, gamma, key, moments, upstream]
            return call(backward, given, [_like(x), _like(gamma), _like(beta)])

        return normed, gradient

    return part(x, gamma, beta)


def _activation(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """See `parts.activation_part`."""
    kind = _KINDS[ACTIVATIONS[name]]

    def forward(x: Array, bias: Array) -> tuple[Array, ...]:
        rows, out = _flat(x), empty(x.shape, x.dtype)
        given = _flat(out)
        spread(lambda _, begin, end: activate(rows, bias, kind, given, begin, end), len(rows), x.size)
        return (out,)

    def backward(x: Array, bias: Array, upstream: Array) -> tuple[Array, ...]:
        rows, above, out = _flat(x), _flat(upstream), empty(x.shape, x.dtype)
        given, sums = _flat(out), np.zeros((CHUNKS, rows.shape[1]), np.float32)
        spread(
            lambda chunk, begin, end: activate_back(rows, bias, kind, above, given, sums[chunk], begin, end),
            len(rows),
            x.size,
        )
        return out, sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, bias: Any) -> Any:
        (active,) = call(forward, [x, bias], [_like(x)])
        return active, lambda upstream: call(backward, [x, bias, upstream], [_like(x), _like(bias)])

    return part(x, bias)


def _flat(array: Array) -> Array:
    """[B, L, H] as [B * L, H]."""
    return array.reshape(-1, array.shape[-1])


def _same(*tensors: Any) -> bool:
    """Whether all are there and of one dtype."""
    return all(tensor is not None for tensor in tensors) and len({tensor.dtype for tensor in tensors}) == 1


# What each part's kernels cannot do is left to XLA: biases by distance, rotations, dropout of inner vectors, absent
# biases.
_TABLE: dict[Part, tuple[Callable[[tuple[Any, ...], dict[str, Any]], bool], Part]] = {
    probabilities_part: (lambda of, _: of[1] is not None and of[2] is None, _probabilities),
    heads_part: (
        lambda of, how: of[1] is not None and of[2] is None and not how.get("tokens_first"),
        _heads,
    ),
    merge_part: (lambda of, _: True, _merge),
    after_part: (lambda of, _: _same(of[0], of[2]) and _same(of[1], *of[3:5]), _after),
    embed_norm_part: (
        lambda of, how: _same(of[0], *of[2:4]) and (of[1] is not None or not how["masked"]) and how["dtype"] in _STORED,
        _embed_norm,
    ),
    activation_part: (lambda of, how: of[1] is not None and not how["rate"], _activation),
}
