"""Weights, and the three things that are done with them: products, norms, look-ups.

A weight is a variable where the model computes, or a standard Keras layer that holds it where the model is drawn as a
graph for export (`export/standard.py`). The layers hand both to the functions below alike, so that one description of
the encoder serves training, prediction and export. Where a size is not known while a graph is drawn, the function that
needs it stands here, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import keras
from keras import ops


class Linear(NamedTuple):
    """A product: kernel [m, n] and bias [n], or a Dense layer that holds both and no bias."""

    kernel: Any
    bias: Any


class Norm(NamedTuple):
    """A norm: scale and shift [n], or a LayerNormalization layer that holds both and no shift."""

    gamma: Any
    beta: Any


class Maker(Protocol):
    """Makes the weights of one part of the model, such as a block."""

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """Of a product from `rows` to `columns`."""

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """Of a norm over `width`."""

    def table(self, name: str, rows: int, width: int) -> Any:
        """The rows of an embedding."""


class Shapes:
    """A maker of no weights, which notes what shape they would have.

    Args:
        part: The part's name.
        out: Told each weight's shape by its path.
    """

    def __init__(self, part: str, out: dict[str, tuple[int, ...]]) -> None:
        self._part, self._out = part, out

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """See `Maker`."""
        kernel = self._noted(f"{name}_kernel", rows, columns)
        return Linear(kernel, self._noted(f"{name}_bias", columns) if bias else None)

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """See `Maker`."""
        gamma = self._noted(f"{name}_gamma", width)
        return Norm(gamma, self._noted(f"{name}_beta", width) if bias else None)

    def table(self, name: str, rows: int, width: int) -> Any:
        """See `Maker`."""
        return self._noted(name, rows, width)

    def _noted(self, name: str, *shape: int) -> tuple[int, ...]:
        self._out[f"{self._part}/{name}"] = shape
        return shape


class Variables(keras.layers.Layer):
    """A maker of float32 variables, all there at once (sizes are known) and cast where they are used."""

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
    """Whether a weight is a standard layer: a graph is being drawn."""
    return isinstance(weight, keras.layers.Layer)


def product(x: Any, kernel: Any) -> Any:
    """[B, L, m] times [m, n] in the dtype of `x`: [B, L, n]; a layer adds its bias."""
    if is_layer(kernel):
        return kernel(x)
    batch, length, width = ops.shape(x)
    flat = ops.reshape(x, (batch * length, width))  # one product of two matrices is the fastest kind there is
    return ops.reshape(ops.matmul(flat, ops.cast(kernel, x.dtype)), (batch, length, kernel.shape[1]))


def rows_product(rows: Any, weights: Linear, begin: int = 0, end: int | None = None) -> Any:
    """[R, m] times the columns [begin, end) of [m, n], with their bias, in the dtype of `rows`: [R, end - begin]."""
    kernel, bias = weights
    if is_layer(kernel):
        return kernel(rows)[:, begin:end]
    y = ops.matmul(rows, ops.cast(kernel[:, begin:end], rows.dtype))
    return y if bias is None else y + ops.cast(bias[begin:end], rows.dtype)


def layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Layer normalisation over the last axis, float32 in and out; `beta` may be None."""
    if is_layer(gamma):
        return gamma(x)
    mean = ops.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    y = centred * ops.rsqrt(variance + epsilon) * gamma
    return y if beta is None else y + beta


def look_up(table: Any, ids: Any) -> Any:
    """The rows of a table, float32 [..., W], for int32[...] of them."""
    if is_layer(table):
        return table(ids)
    return ops.take(_with_dense_gradient(table) if keras.backend.backend() == "tensorflow" else table, ids, axis=0)


def _with_dense_gradient(table: Any) -> Any:
    """The table, whose gradient TensorFlow would give as one row a look-up.

    Keras' Adam squares such rows before those of one token are added up, which is not Adam's step: the loss of a second
    step differed by 2e-4 from one with the gradient whole.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def whole(values: Any) -> tuple[Any, Any]:
        return tf.identity(values), tf.convert_to_tensor

    return whole(tf.convert_to_tensor(ops.convert_to_tensor(table)))


def first_rows(table: Any, begin: int, ids: Any) -> Any:
    """As many rows from `begin` on as `ids` [B, L] are long: float32 [L, W]."""
    if is_layer(table):
        return table(token_positions(ids) + begin)
    return table[begin : begin + ops.shape(ids)[1]]


def token_positions(ids: Any) -> Any:
    """int32[L]: 0, 1, 2, … for int[B, L] of ids."""
    if isinstance(ids, keras.KerasTensor):
        return ops.cumsum(ops.ones_like(ids[0])) - 1
    return ops.arange(ops.shape(ids)[1], dtype="int32")


def with_tail(x: Any, *tail: int) -> Any:
    """[B, L, ...] reshaped to [B, L, *tail]."""
    if isinstance(x, keras.KerasTensor):
        return keras.layers.Reshape((-1, *tail))(x)
    batch, length = ops.shape(x)[:2]
    return ops.reshape(x, (batch, length, *tail))


def as_dtype(x: Any, dtype: str) -> Any:
    """`x` in the dtype; no operation where it has it."""
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)
