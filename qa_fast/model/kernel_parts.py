"""Run element-wise parts of the encoder as Numba kernels, forward and backward, inside TensorFlow's graphs on CPUs.

XLA compiles such parts too (see `islands`), but again for every width of a batch, and it sums over rows in several
passes. A kernel is compiled once for a machine and reads and writes each tensor once. Its backward pass recomputes what
is cheaper to compute than to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qa_fast.kernels.activations import activate, activate_back, gate, gate_back
from qa_fast.kernels.floats import GELU, GELU_TANH, RELU, SILU
from qa_fast.kernels.norms import add_and_norm, add_and_norm_back, norm_and_drop, norm_and_drop_back
from qa_fast.model.config import ACTIVATIONS
from qa_fast.model.kernel_attention import ATTENTION, Part
from qa_fast.model.kernel_calls import CHUNKS, Array, call, dropout_bits, empty, flat, like, on_rows
from qa_fast.model.parts import (
    activation_part,
    after_part,
    before_part,
    embed_norm_part,
    gate_part,
    head_part,
)

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
    keep, small = dropout_bits(rate), np.float32(epsilon)
    bias, beta = (tf.zeros_like(gamma) if vector is None else vector for vector in (bias, beta))

    def forward(*arrays: Array) -> tuple[Array, ...]:
        x, bias, residual, gamma, beta, key = arrays
        rows, length = flat(x), x.shape[1]
        out, moments = empty(x.shape, x.dtype), empty((len(rows), 2), np.float32)
        total = empty(x.shape if with_total else (0, 0, len(gamma)), np.float32)
        arguments = rows, bias, flat(residual), gamma, beta, key, length, *keep, small, flat(out), moments
        on_rows(add_and_norm, len(rows), x.size, *arguments, flat(total))
        return out, total, moments

    def backward(*arrays: Array) -> tuple[Array, ...]:
        x, bias, residual, gamma, key, moments, upstream, upstream_total = arrays
        rows, length = flat(x), x.shape[1]
        out, out_residual = empty(x.shape, x.dtype), empty(x.shape, residual.dtype)
        sums = np.zeros((CHUNKS, 3, rows.shape[1]), np.float32)
        arguments = rows, bias, flat(residual), gamma, key, length, *keep, moments, flat(upstream)
        outs = flat(out), flat(out_residual)
        on_rows(add_and_norm_back, len(rows), x.size, *arguments, flat(upstream_total), *outs, sums=sums)
        return out, out_residual, *sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, bias: Any, residual: Any, gamma: Any, beta: Any) -> Any:
        tensors = [x, bias, residual, gamma, beta, key]
        results = [like(x), (tf.float32, x.shape if with_total else [0, 0, None]), (tf.float32, [None, 2])]
        normed, total, moments = call(forward, tensors, results)

        def gradient(upstream: Any, upstream_total: Any = None) -> Any:
            tensors = [x, bias, residual, gamma, key, moments, upstream]
            tensors.append(tf.zeros([0, 0, x.shape[2]]) if upstream_total is None else upstream_total)
            results = [like(x), like(residual), like(bias), like(gamma), like(beta)]
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
    keep, small = dropout_bits(rate), np.float32(epsilon)
    mask = mask if masked else tf.zeros([0], tf.bool)
    beta = tf.zeros_like(gamma) if beta is None else beta

    def forward(x: Array, mask: Array, gamma: Array, beta: Array, key: Array) -> tuple[Array, ...]:
        rows, length = flat(x), x.shape[1]
        is_token = mask.reshape(-1) if masked else np.ones(len(rows), np.bool_)
        out, moments = empty(x.shape, _STORED[dtype]), empty((len(rows), 2), np.float32)
        arguments = rows, is_token, gamma, beta, key, length, *keep, small, flat(out), moments
        on_rows(norm_and_drop, len(rows), x.size, *arguments)
        return out, moments

    def backward(*arrays: Array) -> tuple[Array, ...]:
        x, mask, gamma, key, moments, upstream = arrays
        rows, length = flat(x), x.shape[1]
        is_token = mask.reshape(-1) if masked else np.ones(len(rows), np.bool_)
        out, sums = empty(x.shape, np.float32), np.zeros((CHUNKS, 2, rows.shape[1]), np.float32)
        arguments = rows, is_token, gamma, key, length, *keep, moments, flat(upstream), flat(out)
        on_rows(norm_and_drop_back, len(rows), x.size, *arguments, sums=sums)
        return out, *sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, gamma: Any, beta: Any) -> Any:
        results = [(tf.as_dtype(dtype), x.shape), (tf.float32, [None, 2])]
        normed, moments = call(forward, [x, mask, gamma, beta, key], results)

        def gradient(upstream: Any) -> Any:
            tensors = [x, mask, gamma, key, moments, upstream]
            return call(backward, tensors, [like(x), like(gamma), like(beta)])

        return normed, gradient

    return part(x, gamma, beta)


def _fits_activation(x: Any, bias: Any, key: Any, *, rate: float, **_: Any) -> bool:
    return not rate


def _activation(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Compute `parts.activation_part`."""
    kind = _KINDS[ACTIVATIONS[name]]
    bias = tf.zeros([x.shape[-1]]) if bias is None else bias

    def forward(x: Array, bias: Array) -> tuple[Array, ...]:
        rows, out = flat(x), empty(x.shape, x.dtype)
        on_rows(activate, len(rows), x.size, rows, bias, kind, flat(out))
        return (out,)

    def backward(x: Array, bias: Array, upstream: Array) -> tuple[Array, ...]:
        rows, out = flat(x), empty(x.shape, x.dtype)
        sums = np.zeros((CHUNKS, rows.shape[1]), np.float32)
        on_rows(activate_back, len(rows), x.size, rows, bias, kind, flat(upstream), flat(out), sums=sums)
        return out, sums.sum(axis=0)

    @tf.custom_gradient
    def part(x: Any, bias: Any) -> Any:
        (active,) = call(forward, [x, bias], [like(x)])
        return active, lambda upstream: call(backward, [x, bias, upstream], [like(x), like(bias)])

    return part(x, bias)


def _fits_gate(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> bool:
    return bias is None and not rate and _KINDS[ACTIVATIONS[name]] == GELU


def _gate(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Compute `parts.gate_part`."""

    def forward(x: Array) -> tuple[Array, ...]:
        rows, out = flat(x), empty((*x.shape[:2], x.shape[2] // 2), x.dtype)
        on_rows(gate, len(rows), x.size, rows, flat(out))
        return (out,)

    def backward(x: Array, upstream: Array) -> tuple[Array, ...]:
        rows, out = flat(x), empty(x.shape, x.dtype)
        on_rows(gate_back, len(rows), x.size, rows, flat(upstream), flat(out))
        return (out,)

    @tf.custom_gradient
    def part(x: Any) -> Any:
        (active,) = call(forward, [x], [(x.dtype, [*x.shape[:2], x.shape[2] // 2])])
        return active, lambda upstream: call(backward, [x, upstream], [like(x)])[0]

    return part(x)


def _head(x: Any, bias: Any, gamma: Any, beta: Any, *, name: str, epsilon: float) -> Any:
    """Compute `parts.head_part`."""
    active = _activation(tf.cast(x, tf.float32), bias, None, name=name, rate=0.0)
    no_key = tf.zeros([3], tf.uint32)
    return _embed_norm(active, None, gamma, beta, no_key, masked=False, epsilon=epsilon, rate=0.0, dtype="float32")


def _all_float32(*tensors: Any) -> bool:
    """Return whether all tensors that are not None are float32."""
    return all(tensor is None or tensor.dtype == tf.float32 for tensor in tensors)


# For each part, whether its kernels can compute it, and how. Dropout of inner vectors has no kernel, nor has a gate by
# another activation than GELU.
_KERNELS: dict[Part, tuple[Callable[..., bool], Part]] = {
    **ATTENTION,
    after_part: (_fits_after, _after),
    before_part: (_fits_after, _before),
    embed_norm_part: (_fits_embed_norm, _embed_norm),
    activation_part: (_fits_activation, _activation),
    gate_part: (_fits_gate, _gate),
    head_part: (lambda x, *_, **__: True, _head),
}
