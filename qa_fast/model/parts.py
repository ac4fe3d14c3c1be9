"""The element-wise work between two matrix products, as pure functions of tensors ("parts").

`islands.PartRunner` runs a part as it stands, by a kernel of ours, or compiled by XLA. Sums, norms and softmax are
computed in float32, everything else in the model's compute dtype. B rows, L tokens, H the residual stream, W the
embeddings, I the inner vectors.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from qa_fast.model.config import ACTIVATIONS
from qa_fast.model.dropout import drop
from qa_fast.model.weights import as_dtype, layer_norm, with_tail


def activated(x: Any, name: str) -> Any:
    """The activation `ACTIVATIONS[name]` of float32."""
    kind = ACTIVATIONS[name]
    if kind == "relu":
        return ops.relu(x)
    if kind == "silu":
        return ops.silu(x)
    if kind == "gelu_tanh":
        return ops.gelu(x, approximate=True)
    if isinstance(x, keras.KerasTensor):
        return ops.gelu(x, approximate=False)  # drawn: every engine has one of its own
    return 0.5 * x * (1.0 + ops.erf(x * 0.7071067811865476))


def plus(x: Any, bias: Any) -> Any:
    """The sum with a bias, which may be None."""
    return x if bias is None else x + bias


def embed_sum(words: Any, plain: Any, positions: Any, padding: Any, types: Any, mask: Any) -> Any:
    """Sum of embeddings, float32[B, L, W].

    The padding token's embedding and its position get no gradient, as in torch.

    Args:
        words: [B, L, W].
        plain: bool[B, L], False where the padding token stands; None where nobody asks for gradients.
        positions: [L, W], or None.
        padding: [1, W], the position of padding; None where it has one like any token.
        types: [B, L, W] or [1, W], or None.
        mask: bool[B, L], where tokens are.
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
    """Norm and dropout of the sum of embeddings: float32 to `dtype` [B, L, W]; with `masked` 0 where no token is."""
    x = layer_norm(x, gamma, beta, epsilon)
    if masked:
        x = ops.where(mask[:, :, None], x, ops.zeros((), dtype=x.dtype))
    return as_dtype(drop(x, key, rate), dtype)


def projection_part(x: Any, bias: Any) -> Any:
    """Bias of a product."""
    return plus(x, None if bias is None else ops.cast(bias, x.dtype))


def after_part(
    x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float
) -> Any:
    """Norm of residual + dropout(x + bias): [B, L, H] in the dtype of `x`."""
    y = drop(plus(as_dtype(x, "float32"), bias), key, rate)
    return ops.cast(layer_norm(as_dtype(residual, "float32") + y, gamma, beta, epsilon), x.dtype)


def before_part(
    x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float
) -> tuple[Any, Any]:
    """The sum residual + dropout(x + bias), float32 [B, L, H], and its norm in the dtype of `x`.

    The sum stays float32 in every precision: no norm ever brings it back into a short dtype's range.
    """
    total = as_dtype(residual, "float32") + drop(plus(as_dtype(x, "float32"), bias), key, rate)
    return total, as_dtype(layer_norm(total, gamma, beta, epsilon), x.dtype)


def activation_part(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Bias, activation, dropout: [B, L, I]."""
    return as_dtype(drop(activated(plus(as_dtype(x, "float32"), bias), name), key, rate), x.dtype)


def gate_part(x: Any, bias: Any, key: Any, *, name: str, rate: float) -> Any:
    """Bias, then the activated first half times the second, dropout: [B, L, 2 I] to [B, L, I]."""
    y = plus(as_dtype(x, "float32"), bias)
    width = x.shape[-1] // 2
    return as_dtype(drop(activated(y[:, :, :width], name) * y[:, :, width:], key, rate), x.dtype)


def head_part(x: Any, bias: Any, gamma: Any, beta: Any, *, name: str, epsilon: float) -> Any:
    """Bias, activation and norm in float32: [B, L, H]."""
    return layer_norm(activated(plus(as_dtype(x, "float32"), bias), name), gamma, beta, epsilon)


MASKED = -1e9


def turned(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary positions: [B, heads, L, D], its halves turned into each other by cosines and sines, float32[L, D / 2]."""
    if isinstance(x, keras.KerasTensor):
        return _turned(x, cos, sin)

    @ops.custom_gradient
    def rotation(x: Any) -> Any:
        def gradient(*given: Any, upstream: Any = None) -> Any:
            # Turned back: the gradient of a concatenation is a branch a number in what XLA makes of it.
            return _turned(given[0] if upstream is None else upstream, cos, -sin)

        return _turned(x, cos, sin), gradient

    return rotation(x)


def _turned(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    left, right = as_dtype(x[..., :half], "float32"), as_dtype(x[..., half:], "float32")
    return as_dtype(ops.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1), x.dtype)


def heads_part(qkv: Any, bias: Any, cos: Any, sin: Any, *, heads: int, scale: float, tokens_first: bool = False) -> Any:
    """Bias, split, rotation: [B, L, 3H] to query (scaled), key and value, each [B, heads, L, D] or [B, L, heads, D]."""
    x = qkv if bias is None else qkv + ops.cast(bias, qkv.dtype)
    x = with_tail(x, 3, heads, x.shape[-1] // 3 // heads)
    x = ops.transpose(x, (2, 0, 1, 3, 4) if tokens_first else (2, 0, 3, 1, 4))
    query, key, value = x[0], x[1], x[2]
    if cos is not None:
        if tokens_first:
            cos, sin = cos[:, None], sin[:, None]
        query, key = turned(query, cos, sin), turned(key, cos, sin)
    return query * scale, key, value


def softmax_over(scores: Any, visible: Any, key: Any, rate: float, dtype: Any) -> Any:
    """Softmax of float32 scores over the visible keys, then dropout: [B, heads, L, L] in `dtype`."""
    x = scores if visible is None else scores + (ops.cast(visible, "float32") - 1.0) * -MASKED
    if isinstance(x, keras.KerasTensor):
        return ops.softmax(x)  # drawn: every engine has one of its own
    x = ops.exp(x - ops.stop_gradient(ops.max(x, axis=-1, keepdims=True)))
    x = x / ops.sum(x, axis=-1, keepdims=True)
    return as_dtype(drop(x, key, rate), dtype)


def probabilities_part(scores: Any, visible: Any, bias: Any, key: Any, *, rate: float) -> Any:
    """Scores to probabilities: [B, heads, L, L] to the same shape and dtype; see `View` for the others."""
    x = as_dtype(scores, "float32")
    return softmax_over(x if bias is None else x + bias, visible, key, rate, scores.dtype)


def merge_part(context: Any) -> Any:
    """[B, heads, L, D] to [B, L, H]."""
    x = ops.transpose(context, (0, 2, 1, 3))
    return with_tail(x, x.shape[-2] * x.shape[-1])
