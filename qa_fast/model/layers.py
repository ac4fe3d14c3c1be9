"""Layers of the encoder, in the order in which data flows through them.

Matrix products stand in the layers; what lies between two of them is a module-level function of tensors ("part"), run
through `islands` so that it can be one kernel. Sums, norms, softmax and the head are computed in float32, everything
else in the policy's compute dtype. Masks are 0 or -1e9 added in float32, finite in every dtype.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from qa_fast.model.config import ACTIVATIONS, EncoderConfig
from qa_fast.model.dropout import drop, site_key
from qa_fast.model.islands import PartRunner

MASKED = -1e9
NO_KEY = np.zeros(3, dtype=np.uint32)


def layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Layer normalisation over the last axis, float32 in and out."""
    mean = ops.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    return centred * ops.rsqrt(variance + epsilon) * gamma + beta


def embed_part(
    words: Any,
    there: Any,
    positions: Any,
    types: Any,
    gamma: Any,
    beta: Any,
    key: Any,
    *,
    epsilon: float,
    rate: float,
    dtype: str,
) -> Any:
    """Sum of embeddings, norm, dropout: float32 [B, L, H] twice and [L, H] to `dtype` [B, L, H].

    The padding token's embedding gets no gradient, as in torch: `there` bool [B, L] is False where it stands.
    """
    x = ops.where(there[:, :, None], words, ops.stop_gradient(words)) + positions
    if types is not None:
        x = x + types
    return ops.cast(drop(layer_norm(x, gamma, beta, epsilon), key, rate), dtype)


def embed_untyped_part(words: Any, there: Any, positions: Any, gamma: Any, beta: Any, key: Any, **static: Any) -> Any:
    """`embed_part` for families without token types."""
    return embed_part(words, there, positions, None, gamma, beta, key, **static)


def heads_part(qkv: Any, bias: Any, *, heads: int) -> Any:
    """Bias and split: [B, L, 3H] to query (scaled), key and value, each [B, heads, L, H / heads]."""
    batch, length, width = ops.shape(qkv)
    size = width // 3 // heads
    x = ops.reshape(qkv + ops.cast(bias, qkv.dtype), (batch, length, 3, heads, size))
    x = ops.transpose(x, (2, 0, 3, 1, 4))
    return x[0] * ops.cast(size**-0.5, x.dtype), x[1], x[2]


def probabilities_part(scores: Any, lengths: Any, key: Any, *, rate: float) -> Any:
    """Softmax over the keys that are there, then dropout: [B, heads, L, L] to the same shape and dtype."""
    there = ops.arange(ops.shape(scores)[-1], dtype="int32")[None, :] < lengths[:, None]
    mask = ops.where(there, 0.0, MASKED)
    x = ops.cast(scores, "float32") + mask[:, None, None, :]
    x = ops.exp(x - ops.stop_gradient(ops.max(x, axis=-1, keepdims=True)))
    x = x / ops.sum(x, axis=-1, keepdims=True)
    return ops.cast(drop(x, key, rate), scores.dtype)


def merge_part(context: Any) -> Any:
    """[B, heads, L, H / heads] to [B, L, H]."""
    batch, heads, length, size = ops.shape(context)
    return ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (batch, length, heads * size))


def residual_part(
    x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, key: Any, *, epsilon: float, rate: float
) -> Any:
    """Norm of residual + dropout(x + bias): [B, L, H] to [B, L, H]."""
    y = drop(ops.cast(x, "float32") + bias, key, rate)
    return ops.cast(layer_norm(ops.cast(residual, "float32") + y, gamma, beta, epsilon), x.dtype)


def activation_part(x: Any, bias: Any, *, name: str) -> Any:
    """Bias and activation."""
    y = ops.cast(x, "float32") + bias
    if name == "relu":
        y = ops.relu(y)
    elif name == "gelu_tanh":
        y = ops.gelu(y, approximate=True)
    else:
        y = 0.5 * y * (1.0 + ops.erf(y * 0.7071067811865476))
    return ops.cast(y, x.dtype)


class _Layer(keras.layers.Layer):
    """A layer whose weights are made at once (all sizes are known) and are cast where they are used."""

    def __init__(self, config: EncoderConfig, run: PartRunner, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self._run = run
        self.built = True

    def matrix(self, name: str, rows: int, columns: int) -> Any:
        return self.add_weight((rows, columns), "zeros", dtype="float32", autocast=False, name=name)

    def vector(self, name: str, size: int, start: str = "zeros") -> Any:
        return self.add_weight((size,), start, dtype="float32", autocast=False, name=name)

    def product(self, x: Any, kernel: Any) -> Any:
        """[B, L, m] times [m, n] in the compute dtype."""
        batch, length, width = ops.shape(x)
        flat = ops.reshape(x, (batch * length, width))
        return ops.reshape(ops.matmul(flat, ops.cast(kernel, x.dtype)), (batch, length, kernel.shape[1]))


class Embeddings(_Layer):
    """Word, position and type embeddings, norm and dropout: int32[B, L] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, run: PartRunner, **kwargs: Any) -> None:
        super().__init__(config, run, **kwargs)
        self.words = self.matrix("words", config.vocab_size, config.hidden_size)
        self.positions = self.matrix("positions", config.max_positions, config.hidden_size)
        self.types = None
        if config.type_vocab_size:
            self.types = self.matrix("types", config.type_vocab_size, config.hidden_size)
        self.norm_gamma = self.vector("norm_gamma", config.hidden_size, "ones")
        self.norm_beta = self.vector("norm_beta", config.hidden_size)

    def call(self, input_ids: Any, token_type_ids: Any, key: Any) -> Any:
        """Embed int32[B, L] ids."""
        words = ops.take(self.words, input_ids, axis=0)
        positions = self.positions[: ops.shape(input_ids)[1]]
        static = {
            "epsilon": self.config.norm_epsilon,
            "rate": self.config.hidden_dropout if key is not None else 0.0,
            "dtype": self.compute_dtype,
        }
        key = NO_KEY if key is None else site_key(key, 0)
        there = ops.convert_to_tensor(input_ids) != self.config.pad_id
        gamma, beta = self.norm_gamma, self.norm_beta
        if self.types is None:
            return self._run(embed_untyped_part, words, there, positions, gamma, beta, key, **static)
        # A product instead of a look-up: its gradient does not queue every token up for the same two rows.
        types = ops.matmul(ops.one_hot(token_type_ids, self.config.type_vocab_size, dtype="float32"), self.types)
        return self._run(embed_part, words, there, positions, types, gamma, beta, key, **static)


class Block(_Layer):
    """Self-attention and feed-forward part, each followed by residual sum and norm: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, run: PartRunner, index: int, **kwargs: Any) -> None:
        super().__init__(config, run, **kwargs)
        hidden, inner = config.hidden_size, config.intermediate_size
        self.first_site = 1 + 3 * index
        self.qkv_kernel = self.matrix("qkv_kernel", hidden, 3 * hidden)
        self.qkv_bias = self.vector("qkv_bias", 3 * hidden)
        self.output_kernel = self.matrix("output_kernel", hidden, hidden)
        self.output_bias = self.vector("output_bias", hidden)
        self.attention_gamma = self.vector("attention_norm_gamma", hidden, "ones")
        self.attention_beta = self.vector("attention_norm_beta", hidden)
        self.inner_kernel = self.matrix("inner_kernel", hidden, inner)
        self.inner_bias = self.vector("inner_bias", inner)
        self.outer_kernel = self.matrix("outer_kernel", inner, hidden)
        self.outer_bias = self.vector("outer_bias", hidden)
        self.ffn_gamma = self.vector("ffn_norm_gamma", hidden, "ones")
        self.ffn_beta = self.vector("ffn_norm_beta", hidden)

    def call(self, x: Any, lengths: Any, key: Any) -> Any:
        """Transform [B, L, H], each row looking at its first `lengths` tokens."""
        run, config = self._run, self.config
        attention_rate = config.attention_dropout if key is not None else 0.0
        static = {"epsilon": config.norm_epsilon, "rate": config.hidden_dropout if key is not None else 0.0}
        keys_of = [NO_KEY if key is None else site_key(key, self.first_site + part) for part in range(3)]
        query, key, value = run(heads_part, self.product(x, self.qkv_kernel), self.qkv_bias, heads=config.heads)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        weights = run(probabilities_part, scores, lengths, keys_of[0], rate=attention_rate)
        context = run(merge_part, ops.matmul(weights, value))
        y = self.product(context, self.output_kernel)
        gamma, beta = self.attention_gamma, self.attention_beta
        x = run(residual_part, y, self.output_bias, x, gamma, beta, keys_of[1], **static)
        y = run(
            activation_part, self.product(x, self.inner_kernel), self.inner_bias, name=ACTIVATIONS[config.activation]
        )
        y = self.product(y, self.outer_kernel)
        return run(residual_part, y, self.outer_bias, x, self.ffn_gamma, self.ffn_beta, keys_of[2], **static)


class SpanHead(_Layer):
    """One start and one end logit per token, in float32: [B, L, H] to twice [B, L]."""

    def __init__(self, config: EncoderConfig, run: PartRunner, **kwargs: Any) -> None:
        super().__init__(config, run, **kwargs)
        self.kernel = self.matrix("kernel", config.hidden_size, 2)
        self.bias = self.vector("bias", 2)

    def call(self, x: Any, key: Any) -> tuple[Any, Any]:
        """Start and end logits of [B, L, H]."""
        x = ops.cast(x, "float32")
        if key is not None:
            x = drop(x, site_key(key, 1 + 3 * self.config.layers), self.config.head_dropout)
        logits = ops.matmul(x, self.kernel) + self.bias
        return logits[..., 0], logits[..., 1]
