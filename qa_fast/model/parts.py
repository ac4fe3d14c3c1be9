"""Parts: the element-wise work between two matrix products, as pure functions of tensors.

`islands.PartRunner` runs a part operation by operation, by a kernel of ours, or compiled by XLA. Sums, norms and
softmax are computed in float32, everything else in the model's compute dtype. B is the number of rows, L of tokens, H
the width of the residual stream, W of embeddings, I of inner vectors.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from qa_fast.model.config import ACTIVATIONS
from qa_fast.model.dropout import drop
from qa_fast.model.relative import skewed
from qa_fast.model.weights import as_dtype, layer_norm, with_tail


def activated(x: Any, name: str) -> Any:
    """Apply the activation `ACTIVATIONS[name]` to float32."""
    kind = ACTIVATIONS[name]
    if kind == "relu":
        return ops.relu(x)
    if kind == "silu":
        return ops.silu(x)
    if kind == "gelu_tanh":
        return ops.gelu(x, approximate=True)
    if isinstance(x, keras.KerasTensor):
        return ops.gelu(x, approximate=False)  # drawn for export: every engine has this operation
    return 0.5 * x * (1.0 + ops.erf(x * 0.7071067811865476))


def plus(x: Any, bias: Any) -> Any:
    """Add a bias, which may be None."""
    return x if bias is None else x + bias


def embed_sum(words: Any, plain: Any, positions: Any, padding: Any, types: Any, mask: Any) -> Any:
    """Add up embeddings.

    The padding token's embedding and its position get no gradient, as in torch.

    Args:
        words: [B, L, W].
        plain: bool[B, L], False for the padding token; None if no gradients are needed.
        positions: [L, W], or None.
        padding: [1, W], the position of padding; None if padding has positions like any token.
        types: [B, L, W] or [1, W], or None.
        mask: bool[B, L], True for tokens.

    Returns:
        float32[B, L, W].
    """
    x = words if plain is None else ops.where(plain[:, :, None], words, ops.stop_gradient(words))
    if padding is not None:
        x = x + ops.where(mask[:, :, None], positions[None], ops.stop_gradient(padding)[None])
    elif positions is not None:
        x = x + positions
    return x if types is None else x + types


def embed_norm_part(
    x: Any, mask: Any, gamma: Any, beta: Any, key: Any, *, masked: bool, epsilon: float, rate: float, dtype: str
) -> Any:
    """Norm, mask and dropout of the sum of embeddings: float32[B, L, W] to `dtype`; `masked` sets padding to 0."""
    x = layer_norm(x, gamma, beta, epsilon)
    if masked:
        x = ops.where(mask[:, :, None], x, ops.zeros((), dtype=x.dtype))
    return as_dtype(drop(x, key, rate), dtype)


def after_part(
    x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float
) -> Any:
    """Return the norm of residual + dropout(x + bias): [B, L, H] in the dtype of `x`."""
    y = drop(plus(as_dtype(x, "float32"), bias), key, rate)
    return ops.cast(layer_norm(as_dtype(residual, "float32") + y, gamma, beta, epsilon), x.dtype)


def before_part(
    x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float
) -> tuple[Any, Any]:
    """Return the sum residual + dropout(x + bias), float32[B, L, H], and its norm in the dtype of `x`.

    The sum stays float32 in every precision, since it may leave the range of a short dtype.
    """
    total = as_dtype(residual, "float32") + drop(plus(as_dtype(x, "float32"), bias), key, rate)
    return total, as_dtype(layer_norm(total, gamma, beta, epsilon), x.dtype)


def activation_part(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Apply bias, activation and dropout: [B, L, I]."""
    return as_dtype(drop(activated(plus(as_dtype(x, "float32"), bias), name), key, rate), x.dtype)


def gate_part(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Add the bias, multiply the activated first half with the second, drop: [B, L, 2 I] to [B, L, I]."""
    y = plus(as_dtype(x, "float32"), bias)
    width = x.shape[-1] // 2
    return as_dtype(drop(activated(y[:, :, :width], name) * y[:, :, width:], key, rate), x.dtype)


def head_part(x: Any, bias: Any, gamma: Any, beta: Any, *, name: str, epsilon: float) -> Any:
    """Apply bias, activation and norm in float32: [B, L, H]."""
    return layer_norm(activated(plus(as_dtype(x, "float32"), bias), name), gamma, beta, epsilon)


MASKED = -1e9


def rotated(x: Any, cos: Any, sin: Any) -> Any:
    """Apply rotary positions.

    Args:
        x: [B, heads, L, D].
        cos: float32[L, D / 2].
        sin: float32[L, D / 2].
    """
    if isinstance(x, keras.KerasTensor):
        return _rotated(x, cos, sin)

    @ops.custom_gradient
    def rotation(x: Any) -> Any:
        def gradient(*upstreams: Any, upstream: Any = None) -> Any:
            # The inverse rotation: XLA makes the gradient of a concatenation slow, with a branch for each number.
            return _rotated(upstreams[0] if upstream is None else upstream, cos, -sin)

        return _rotated(x, cos, sin), gradient

    return rotation(x)


def _rotated(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    left, right = as_dtype(x[..., :half], "float32"), as_dtype(x[..., half:], "float32")
    return as_dtype(ops.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1), x.dtype)


def heads_part(qkv: Any, bias: Any, cos: Any, sin: Any, *, heads: int, scale: float, tokens_first: bool = False) -> Any:
    """Add the bias, split, rotate: [B, L, 3H] to scaled query, key and value.

    Each is [B, heads, L, D]; with `tokens_first` [B, L, heads, D].
    """
    x = qkv if bias is None else qkv + ops.cast(bias, qkv.dtype)
    x = with_tail(x, 3, heads, x.shape[-1] // 3 // heads)
    x = ops.transpose(x, (2, 0, 1, 3, 4) if tokens_first else (2, 0, 3, 1, 4))
    query, key, value = x[0], x[1], x[2]
    if cos is not None:
        if tokens_first:
            cos, sin = cos[:, None], sin[:, None]
        query, key = rotated(query, cos, sin), rotated(key, cos, sin)
    return query * scale, key, value


def softmax_over(scores: Any, visible: Any, key: Any, rate: float, dtype: Any) -> Any:
    """Return the softmax of float32 scores over the visible keys, after dropout: [B, heads, L, L] in `dtype`."""
    x = scores if visible is None else scores + (ops.cast(visible, "float32") - 1.0) * -MASKED
    if isinstance(x, keras.KerasTensor):
        return ops.softmax(x)  # drawn for export: every engine has this operation
    x = ops.exp(x - ops.stop_gradient(ops.max(x, axis=-1, keepdims=True)))
    x = x / ops.sum(x, axis=-1, keepdims=True)
    return as_dtype(drop(x, key, rate), dtype)


def probabilities_part(scores: Any, visible: Any, bias: Any, key: Any, *, rate: float) -> Any:
    """Turn scores [B, heads, L, L] into probabilities; `attention.View` explains `visible` and `bias`."""
    x = as_dtype(scores, "float32")
    return softmax_over(x if bias is None else x + bias, visible, key, rate, scores.dtype)


def distances_part(
    scores: Any, by_query: Any, by_key: Any, visible: Any, pairs: Any, drop_key: Any, *, rate: float
) -> Any:
    """Turn three kinds of scores into probabilities, [B, heads, L, L] in the dtype of `scores`.

    Args:
        scores: [B, heads, L, L], each query with each key.
        by_query: [B, heads, L, 2 L], each query with the distances; or None.
        by_key: [B, heads, L, 2 L], each key with the distances; or None.
        visible: bool[B, 1, L, L], see `attention.View`.
        pairs: See `disentangled.Distances`; if it is not None, the last axis of `by_query` and `by_key` is 2 S.
        drop_key: Key of the dropout site.
        rate: Rate of dropout.
    """
    x = as_dtype(scores, "float32")
    if by_query is not None:
        x = x + as_dtype(_placed(by_query, pairs), "float32")
    if by_key is not None:
        keys = _placed(by_key, None if pairs is None else ops.transpose(pairs))
        x = x + as_dtype(ops.transpose(keys, (0, 1, 3, 2)), "float32")
    # Invisible keys get no gradient either, as with the masked fill in transformers.
    x = x if visible is None else x * as_dtype(visible, "float32")
    return softmax_over(x, visible, drop_key, rate, scores.dtype)


def _placed(scores: Any, pairs: Any) -> Any:
    if pairs is None:
        return skewed(scores)
    return ops.take_along_axis(scores, pairs[None, None], axis=-1)


def merge_part(context: Any) -> Any:
    """Join the heads: [B, heads, L, D] to [B, L, H]."""
    x = ops.transpose(context, (0, 2, 1, 3))
    return with_tail(x, x.shape[-2] * x.shape[-1])


def attention_part(qkv: Any, bias: Any, visible: Any, key: Any, *, heads: int, scale: float, rate: float) -> Any:
    """Attend without rotations and biases: [B, L, 3H] to [B, L, H]. This part is run as one kernel or not at all."""
    query, keys, value = heads_part(qkv, bias, None, None, heads=heads, scale=scale)
    scores = ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2)))
    return merge_part(ops.matmul(probabilities_part(scores, visible, None, key, rate=rate), value))
