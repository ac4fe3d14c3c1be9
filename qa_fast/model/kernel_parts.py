"""Run element-wise parts of the encoder as Numba kernels, forward and backward, inside TensorFlow's graphs on CPUs.

XLA compiles such parts too (see `islands`), but again for every width of a batch, and it sums over rows in several
passes. A kernel is compiled once for a machine and reads and writes each tensor once. Its backward pass recomputes what
is cheaper to compute than to keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qa_fast.kernels.activations import activate, activate_back, gate, gate_back
from qa_fast.kernels.floats import GELU, GELU_TANH, RELU, SILU
from qa_fast.kernels.heads import join_heads, join_heads_back, rotate, split_heads, split_heads_back
from qa_fast.kernels.norms import add_and_norm, add_and_norm_back, norm_and_drop, norm_and_drop_back
from qa_fast.kernels.softmax import weigh, weigh_back
from qa_fast.model.config import ACTIVATIONS
from qa_fast.model.dropout import least_bits
from qa_fast.model.kernel_calls import CHUNKS, Array, call, empty, spread
from qa_fast.model.parts import (
    activation_part,
    after_part,
    before_part,
    embed_norm_part,
    gate_part,
    head_part,
    heads_part,
    merge_part,
    probabilities_part,
)

Part = Callable[..., Any]
_KINDS = {"gelu": GELU, "gelu_tanh": GELU_TANH, "relu": RELU, "silu": SILU}
# Compute dtypes, and the dtypes as which kernels store them.
_STORED: dict[str, Any] = {"float32": np.float32, "bfloat16": np.uint16}


def run_by_kernels(part: Part, tensors: tuple[Any, ...], static: dict[str, Any]) -> Any:
    """Run a part by its kernels.

    Args:
        part: A function of `model.parts`.
        tensors: Its tensors, some of which may be None.
        static: Its keyword arguments.

    Returns:
        What the part returns; None if no kernel computes it for such arguments.
    """
    if part not in _KERNELS:
        return None
    fits, run = _KERNELS[part]
    tensors = tuple(None if tensor is None else tf.convert_to_tensor(tensor) for tensor in tensors)
    floats = {tensor.dtype for tensor in tensors if tensor is not None and tensor.dtype.is_floating}
    return run(*tensors, **static) if floats <= set(map(tf.as_dtype, _STORED)) and fits(*tensors, **static) else None


def _dropout(rate: float) -> tuple[np.uint32, np.float32]:
    """Return the least bits of an element that stays, and its factor, computed in float64 as by `dropout.drop`."""
    return least_bits(rate), np.float32(1.0 / (1.0 - rate))


def _like(tensor: Any) -> tuple[Any, Any]:
    return tensor.dtype, tensor.shape


def _on_rows(kernel: Callable[..., None], rows: int, size: int, *arguments: Any, sums: Array | None = None) -> None:
    """Run a kernel on chunks of `rows` that have `size` numbers in all.

    The kernel gets the arguments, the sums of its chunk (if there are any), and the chunk's first row and end.
    """

    def work(chunk: int, begin: int, end: int) -> None:
        kernel(*arguments, *(() if sums is None else (sums[chunk],)), begin, end)

    spread(work, rows, size)


# Attention.


def _fits_probabilities(scores: Any, visible: Any, bias: Any, key: Any, **_: Any) -> bool:
    return visible is not None and (bias is None or bias.dtype == tf.float32)


def _probabilities(scores: Any, visible: Any, bias: Any, key: Any, *, rate: float) -> Any:
    """Compute `parts.probabilities_part`."""
    keep = _dropout(rate)
    bias = tf.zeros([0, 0, 0, 0]) if bias is None else bias

    def forward(scores: Array, visible: Array, bias: Array, key: Array) -> tuple[Array, ...]:
        rows = _rows(scores)
        count = rows.shape[0] * rows.shape[1]
        weights, sums = empty(scores.shape, scores.dtype), empty((*rows.shape[:2], 2), np.float32)
        arguments = rows, visible[:, 0], _flat(bias), key, *keep, _rows(weights), sums
        _on_rows(weigh, count, scores.size, *arguments)
        return weights, sums

    def backward(*arrays: Array) -> tuple[Array, ...]:
        scores, visible, bias, key, sums, upstream = arrays
        rows = _rows(scores)
        # With a bias the same rows of the whole batch belong to one call, which adds up their gradients.
        count = rows.shape[1] if bias.size else rows.shape[0] * rows.shape[1]
        out, out_bias = empty(scores.shape, scores.dtype), np.zeros(bias.shape, np.float32)
        arguments = rows, visible[:, 0], _flat(bias), key, *keep, sums, _rows(upstream), _rows(out), _flat(out_bias)
        _on_rows(weigh_back, count, scores.size, *arguments)
        return out, out_bias

    @tf.custom_gradient
    def part(scores: Any, bias: Any) -> Any:
        tensors = [scores, visible, bias, key]
        weights, sums = call(forward, tensors, [_like(scores), (tf.float32, [None, None, 2])])

        def gradient(upstream: Any) -> Any:
            return call(backward, [*tensors, sums, upstream], [_like(scores), _like(bias)])

        return weights, gradient

    return part(scores, bias)


def _rows(scores: Array) -> Array:
    """Reshape [B, heads, L, L] to [B, heads * L, L]."""
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
        _on_rows(split_heads, batch * length, qkv.size, _flat(qkv), bias, factor, out)
        return *(_rotated(part, part, rotation, 1) for part in out[:2]), out[2]

    def backward(query: Array, key: Array, value: Array, *rotation: Array) -> tuple[Array, ...]:
        query, key = (_rotated(part, empty(part.shape, part.dtype), rotation, -1) for part in (query, key))
        batch, _, length, size = query.shape
        width = 3 * heads * size
        out, sums = empty((batch, length, width), query.dtype), np.zeros((CHUNKS, width), np.float32)
        _on_rows(split_heads_back, batch * length, out.size, query, key, value, factor, _flat(out), sums=sums)
        return out, sums.sum(axis=0)

    @tf.custom_gradient
    def part(qkv: Any, bias: Any) -> Any:
        shape = [None, heads, None, total // 3 // heads]
        parts = call(forward, [qkv, bias, *rotation], [(qkv.dtype, shape)] * 3)

        def gradient(*upstream: Any) -> Any:
            return call(backward, [*upstream, *rotation], [_like(qkv), _like(bias)])

        return tuple(parts), gradient

    return part(qkv, bias)


def _rotated(x: Array, out: Array, rotation: tuple[Array, ...], direction: int) -> Array:
    """Write `x` to `out`, rotated; without a rotation return `x`."""
    if not rotation:
        return x
    _on_rows(rotate, x.size // x.shape[-1], x.size, x, *rotation, np.float32(direction), out)
    return out


def _merge(context: Any) -> Any:
    """Compute `parts.merge_part`."""
    heads, size = context.shape[1], context.shape[3]

    def forward(context: Array) -> tuple[Array, ...]:
        batch, _, length, _ = context.shape
        out = empty((batch, length, heads * size), context.dtype)
        _on_rows(join_heads, batch * length, out.size, context, _flat(out))
        return (out,)

    def backward(upstream: Array) -> tuple[Array, ...]:
        batch, length, _ = upstream.shape
        out = empty((batch, heads, length, size), upstream.dtype)
        _on_rows(join_heads_back, batch * length, out.size, _flat(upstream), out)
        return (out,)

    @tf.custom_gradient
    def part(context: Any) -> Any:
        (joined,) = call(forward, [context], [(context.dtype, [None, None, heads * size])])
        return joined, lambda upstream: call(backward, [upstream], [_like(context)])[0]

    return part(context)


# Norms and activations.


def _fits_after(x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, **_: Any) -> bool:
    return _all_float32(bias, gamma, beta)


def _after(*tensors: Any, **static: Any) -> Any:
    """Compute `parts.after_part`."""
    return _close(*tensors, **static, with_total=False)[0]


def _before(*tensors: Any, **static: Any) -> Any:
    """Compute `parts.before_part`."""
    normed, total = _close(*tensors, **static, with_total=True)
    return total, normed


def _close(
    x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float, with_total: bool
) -> Any:
    """Compute the norm of residual + dropout(x + bias), and with `with_total` also this sum."""
    keep, small = _dropout(rate), np.float32(epsilon)
    bias, beta = (tf.zeros_like(gamma) if vector is None else vector for vector in (bias, beta))

    def forward(*arrays: Array) -> tuple[Array, ...]:
        x, bias, residual, gamma, beta, key = arrays
        rows, length = _flat(x), x.shape[1]
        out, moments = empty(x.shape, x.dtype), empty((len(rows), 2), np.float32)
        total = empty(x.shape if with_total else (0, 0, len(gamma)), np.float32)
        arguments = rows, bias, _flat(residual), gamma, beta, key, length, *keep, small, _flat(out), moments
        _on_rows(add_and_norm, len(rows), x.size, *arguments, _flat(total))
        return out, total, moments

    def backward(*arrays: Array) -> tuple[Array, ...]:
        x, bias, residual, gamma, key, moments, upstream, upstream_total = arrays
        rows, length = _flat(x), x.shape[1]
        out, out_residual = empty(x.shape, x.dtype), empty(x.shape, residual.dtype)
        sums = np.zeros((CHUNKS, 3, rows.shape[1]), np.float32)
        arguments = rows, bias, _flat(residual), gamma, key, length, *keep, moments, _flat(upstream)
        outs = _flat(out), _flat(out_residual)
        _on_rows(add_and_norm_back, len(rows), x.size, *arguments, _flat(upstream_total), *outs, sums=sums)
        return out, out_residual, *sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, bias: Any, residual: Any, gamma: Any, beta: Any) -> Any:
        tensors = [x, bias, residual, gamma, beta, key]
        results = [_like(x), (tf.float32, x.shape if with_total else [0, 0, None]), (tf.float32, [None, 2])]
        normed, total, moments = call(forward, tensors, results)

        def gradient(upstream: Any, upstream_total: Any = None) -> Any:
            tensors = [x, bias, residual, gamma, key, moments, upstream]
            tensors.append(tf.zeros([0, 0, x.shape[2]]) if upstream_total is None else upstream_total)
            results = [_like(x), _like(residual), _like(bias), _like(gamma), _like(beta)]
            d_x, d_residual, d_bias, d_gamma, d_beta = call(backward, tensors, results)
            return d_x, d_bias, d_residual, d_gamma, d_beta

        return ((normed, total) if with_total else (normed,)), gradient

    return part(x, bias, residual, gamma, beta)


def _fits_embed_norm(x: Any, mask: Any, gamma: Any, beta: Any, key: Any, *, masked: bool, dtype: str, **_: Any) -> bool:
    return _all_float32(x, gamma, beta) and dtype in _STORED and (mask is not None or not masked)


def _embed_norm(
    x: Any, mask: Any, gamma: Any, beta: Any, key: Any, *, masked: bool, epsilon: float, rate: float, dtype: str
) -> Any:
    """Compute `parts.embed_norm_part`."""
    keep, small = _dropout(rate), np.float32(epsilon)
    mask = mask if masked else tf.zeros([0], tf.bool)
    beta = tf.zeros_like(gamma) if beta is None else beta

    def forward(x: Array, mask: Array, gamma: Array, beta: Array, key: Array) -> tuple[Array, ...]:
        rows, length = _flat(x), x.shape[1]
        is_token = mask.reshape(-1) if masked else np.ones(len(rows), np.bool_)
        out, moments = empty(x.shape, _STORED[dtype]), empty((len(rows), 2), np.float32)
        arguments = rows, is_token, gamma, beta, key, length, *keep, small, _flat(out), moments
        _on_rows(norm_and_drop, len(rows), x.size, *arguments)
        return out, moments

    def backward(*arrays: Array) -> tuple[Array, ...]:
        x, mask, gamma, key, moments, upstream = arrays
        rows, length = _flat(x), x.shape[1]
        is_token = mask.reshape(-1) if masked else np.ones(len(rows), np.bool_)
        out, sums = empty(x.shape, np.float32), np.zeros((CHUNKS, 2, rows.shape[1]), np.float32)
        arguments = rows, is_token, gamma, key, length, *keep, moments, _flat(upstream), _flat(out)
        _on_rows(norm_and_drop_back, len(rows), x.size, *arguments, sums=sums)
        return out, *sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, gamma: Any, beta: Any) -> Any:
        results = [(tf.as_dtype(dtype), x.shape), (tf.float32, [None, 2])]
        normed, moments = call(forward, [x, mask, gamma, beta, key], results)

        def gradient(upstream: Any) -> Any:
            tensors = [x, mask, gamma, key, moments, upstream]
            return call(backward, tensors, [_like(x), _like(gamma), _like(beta)])

        return normed, gradient

    return part(x, gamma, beta)


def _fits_activation(x: Any, bias: Any, key: Any, *, rate: float, **_: Any) -> bool:
    return not rate


def _activation(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Compute `parts.activation_part`."""
    kind = _KINDS[ACTIVATIONS[name]]
    bias = tf.zeros([x.shape[-1]]) if bias is None else bias

    def forward(x: Array, bias: Array) -> tuple[Array, ...]:
        rows, out = _flat(x), empty(x.shape, x.dtype)
        _on_rows(activate, len(rows), x.size, rows, bias, kind, _flat(out))
        return (out,)

    def backward(x: Array, bias: Array, upstream: Array) -> tuple[Array, ...]:
        rows, out = _flat(x), empty(x.shape, x.dtype)
        sums = np.zeros((CHUNKS, rows.shape[1]), np.float32)
        _on_rows(activate_back, len(rows), x.size, rows, bias, kind, _flat(upstream), _flat(out), sums=sums)
        return out, sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, bias: Any) -> Any:
        (active,) = call(forward, [x, bias], [_like(x)])
        return active, lambda upstream: call(backward, [x, bias, upstream], [_like(x), _like(bias)])

    return part(x, bias)


def _fits_gate(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> bool:
    return bias is None and not rate and _KINDS[ACTIVATIONS[name]] == GELU


def _gate(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Compute `parts.gate_part`."""

    def forward(x: Array) -> tuple[Array, ...]:
        rows, out = _flat(x), empty((*x.shape[:2], x.shape[2] // 2), x.dtype)
        _on_rows(gate, len(rows), x.size, rows, _flat(out))
        return (out,)

    def backward(x: Array, upstream: Array) -> tuple[Array, ...]:
        rows, out = _flat(x), empty(x.shape, x.dtype)
        _on_rows(gate_back, len(rows), x.size, rows, _flat(upstream), _flat(out))
        return (out,)

    @tf.custom_gradient
    def part(x: Any) -> Any:
        (active,) = call(forward, [x], [(x.dtype, [*x.shape[:2], x.shape[2] // 2])])
        return active, lambda upstream: call(backward, [x, upstream], [_like(x)])[0]

    return part(x)


def _head(x: Any, bias: Any, gamma: Any, beta: Any, *, name: str, epsilon: float) -> Any:
    """Compute `parts.head_part`."""
    active = _activation(tf.cast(x, tf.float32), bias, None, name=name, rate=0.0)
    no_key = tf.zeros([3], tf.uint32)
    return _embed_norm(active, None, gamma, beta, no_key, masked=False, epsilon=epsilon, rate=0.0, dtype="float32")


def _flat(array: Array) -> Array:
    """Reshape [B, L, H] to [B * L, H]."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def _all_float32(*tensors: Any) -> bool:
    """Return whether all tensors that are not None are float32."""
    return all(tensor is None or tensor.dtype == tf.float32 for tensor in tensors)


# For each part, whether its kernels can compute it, and how. Others are left to XLA: dropout of inner vectors, gates by
# another activation.
_KERNELS: dict[Part, tuple[Callable[..., bool], Part]] = {
    probabilities_part: (_fits_probabilities, _probabilities),
    heads_part: (_fits_heads, _heads),
    merge_part: (lambda context: True, _merge),
    after_part: (_fits_after, _after),
    before_part: (_fits_after, _before),
    embed_norm_part: (_fits_embed_norm, _embed_norm),
    activation_part: (_fits_activation, _activation),
    gate_part: (_fits_gate, _gate),
    head_part: (lambda x, *_, **__: True, _head),
}
