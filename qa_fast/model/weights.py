"""Weights, and the operations on them: products, norms, look-ups.

A weight is a variable when the model computes. When the model is drawn as a graph for export (`graph/standard.py`), it
is a standard Keras layer that holds the variable. The functions below accept both, so that one description of the
encoder serves training, prediction and export. Functions that need a size which a drawn graph does not know are here,
too.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import keras
from keras import ops


class Linear(NamedTuple):
    """A product: kernel [m, n] and bias [n]; or a Dense layer that holds both, and None."""

    kernel: Any
    bias: Any


class Norm(NamedTuple):
    """A norm: scale and shift [n]; or a LayerNormalization layer that holds both, and None."""

    gamma: Any
    beta: Any


class Maker(Protocol):
    """Makes the weights of one part of the model, such as a block."""

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """Make the weights of a product from `rows` to `columns`."""

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """Make the weights of a norm over `width`."""

    def table(self, name: str, rows: int, width: int) -> Any:
        """Make the rows of an embedding."""


class Shapes:
    """A maker that makes no weights and records their shapes.

    Args:
        part: The part's name.
        out: Receives each weight's shape by its path.
    """

    def __init__(self, part: str, out: dict[str, tuple[int, ...]]) -> None:
        self._part, self._out = part, out

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """See `Maker`."""
        kernel = self._recorded(f"{name}_kernel", rows, columns)
        return Linear(kernel, self._recorded(f"{name}_bias", columns) if bias else None)

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """See `Maker`."""
        gamma = self._recorded(f"{name}_gamma", width)
        return Norm(gamma, self._recorded(f"{name}_beta", width) if bias else None)

    def table(self, name: str, rows: int, width: int) -> Any:
        """See `Maker`."""
        return self._recorded(name, rows, width)

    def _recorded(self, name: str, *shape: int) -> tuple[int, ...]:
        self._out[f"{self._part}/{name}"] = shape
        return shape


class Variables(keras.layers.Layer):
    """A maker of float32 variables, which are cast where they are used."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32", autocast=False)
        self.built = True

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """See `Maker`."""
        kernel = self.table(f"{name}_kernel", rows, columns)
        return Linear(kernel, self._vector(f"{name}_bias", columns, "zeros") if bias else None)

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """See `Maker`."""
        gamma = self._vector(f"{name}_gamma", width, "ones")
        return Norm(gamma, self._vector(f"{name}_beta", width, "zeros") if bias else None)

    def table(self, name: str, rows: int, width: int) -> Any:
        """See `Maker`."""
        return self.add_weight((rows, width), "zeros", dtype="float32", autocast=False, name=name)

    def _vector(self, name: str, size: int, start: str) -> Any:
        return self.add_weight((size,), start, dtype="float32", autocast=False, name=name)


def is_layer(weight: Any) -> bool:
    """Return whether a weight is a standard layer, so that a graph is being drawn."""
    return isinstance(weight, keras.layers.Layer)


def product(x: Any, kernel: Any) -> Any:
    """Multiply [B, L, m] by [m, n] in the dtype of `x`: [B, L, n]; a layer adds its bias."""
    if is_layer(kernel):
        return kernel(x)
    batch, length, width = ops.shape(x)
    flat = ops.reshape(x, (batch * length, width))  # a product of two matrices is the fastest kind
    return ops.reshape(ops.matmul(flat, ops.cast(kernel, x.dtype)), (batch, length, kernel.shape[1]))


def rows_product(rows: Any, weights: Linear, begin: int = 0, end: int | None = None) -> Any:
    """Multiply [R, m] by the columns [begin, end) of [m, n], add their bias: [R, end - begin]."""
    kernel, bias = weights
    if is_layer(kernel):
        return kernel(rows)[:, begin:end]
    y = ops.matmul(rows, ops.cast(kernel[:, begin:end], rows.dtype))
    return y if bias is None else y + ops.cast(bias[begin:end], rows.dtype)


def layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Normalise the last axis, float32 in and out; `beta` may be None."""
    if is_layer(gamma):
        return gamma(x)
    mean = ops.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    y = centred * ops.rsqrt(variance + epsilon) * gamma
    return y if beta is None else y + beta


def look_up(table: Any, ids: Any) -> Any:
    """Look up rows of a table: int32[...] to float32[..., W]."""
    if is_layer(table):
        return table(ids)
    return ops.take(_with_dense_gradient(table) if keras.backend.backend() == "tensorflow" else table, ids, axis=0)


def _with_dense_gradient(table: Any) -> Any:
    """Return the table with a dense gradient; TensorFlow's own gradient has one row for each look-up.

    Keras' Adam squares such rows before it adds up those of one token, which is not Adam's step: the loss after two
    steps differed by 2e-4.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def whole(values: Any) -> tuple[Any, Any]:
        return tf.identity(values), tf.convert_to_tensor

    return whole(tf.convert_to_tensor(ops.convert_to_tensor(table)))


def first_rows(table: Any, begin: int, ids: Any) -> Any:
    """Return L rows from `begin` on, for ids of [B, L]: float32[L, W]."""
    if is_layer(table):
        return table(token_positions(ids) + begin)
    return table[begin : begin + ops.shape(ids)[1]]


def token_positions(ids: Any) -> Any:
    """Return the positions 0, 1, 2, … as int32[L], for ids of int[B, L]."""
    if isinstance(ids, keras.KerasTensor):
        return ops.cumsum(ops.ones_like(ids[0])) - 1
    return ops.arange(ops.shape(ids)[1], dtype="int32")


def with_tail(x: Any, *tail: int) -> Any:
    """Reshape [B, L, ...] to [B, L, *tail]."""
    if isinstance(x, keras.KerasTensor):
        return keras.layers.Reshape((-1, *tail))(x)
    batch, length = ops.shape(x)[:2]
    return ops.reshape(x, (batch, length, *tail))


def as_dtype(x: Any, dtype: str) -> Any:
    """Cast `x` to a dtype; add no operation if it already has that dtype."""
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)
