"""Self-attention, and its inputs that depend on positions.

A `View` holds what a block's attention needs besides its vectors: which keys it sees, rotations, biases by distance. It
is made once for a forward pass. Softmax is computed in float32. A mask adds 0 or -1e9 in float32, so that a row which
sees no key (padding) sees all keys equally, as in transformers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from qa_fast.model.config import BucketBias, EncoderConfig, Rotary
from qa_fast.model.fused import fused_attention, row_lengths
from qa_fast.model.islands import PartRunner
from qa_fast.model.layers import Sites
from qa_fast.model.parts import attention_part, heads_part, merge_part, probabilities_part
from qa_fast.model.relative import all_pairs, bias_buckets, falling, skewed
from qa_fast.model.weights import Maker, is_layer, look_up, product, token_positions, with_tail


class View(NamedTuple):
    """The inputs of a block's attention besides its vectors.

    Attributes:
        visible: Which keys every query sees, bool[B, 1, 1, L], or each query sees, bool[B, 1, L, L]; None in a graph
            drawn for rows without padding.
        rotation: Cosines and sines, float32[L, D / 2] each; None without rotary positions.
        bias: float32[1, heads, L, L] to add to the scores, or None.
        distances: Vectors of distances for DeBERTa's attention, or None.
    """

    visible: Any
    rotation: tuple[Any, Any] | None = None
    bias: Any = None
    distances: Any = None


def visible_keys(mask: Any) -> Any:
    """Return the keys that every query sees, bool[B, 1, 1, L], from a mask of tokens, bool[B, L], or None."""
    return None if mask is None else mask[:, None, None, :]


def drawn_attention(qkv: Any, view: View, heads: int) -> Any:
    """Attend by Keras' single operation, which engines run as one kernel, in a drawn graph: [B, L, 3H] to [B, L, H]."""
    hidden = qkv.shape[-1] // 3
    parts = [with_tail(qkv[:, :, at : at + hidden], heads, hidden // heads) for at in (0, hidden, 2 * hidden)]
    return with_tail(ops.dot_product_attention(*parts, bias=view.bias, mask=view.visible), hidden)


class SelfAttention:
    """Multi-head self-attention up to its output product, whose bias `Close` adds: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        hidden, self.config, self._run = config.hidden_size, config.attention, run
        self.qkv = make.linear("qkv", hidden, 3 * hidden, self.config.bias)
        self.output = make.linear("output", hidden, hidden, self.config.bias)
        self._scale = (hidden // self.config.heads) ** -0.5

    def __call__(self, x: Any, view: View, sites: Sites) -> Any:
        """Let every token attend to the keys that the view shows."""
        run, config = self._run, self.config
        cos, sin = view.rotation or (None, None)
        qkv = product(x, self.qkv.kernel)  # [B, L, 3H]
        if is_layer(self.qkv.kernel) and cos is None:
            return product(drawn_attention(qkv, view, config.heads), self.output.kernel)
        # The fused kernel's only mask is the number of keys.
        fused = run.attention != "exact" and view.bias is None and view.visible.shape[2] == 1
        split = {"heads": config.heads, "scale": self._scale}
        drop_key, rate = sites(0, config.dropout)
        if cos is None and view.bias is None and not fused:
            context = run.by_kernel(attention_part, qkv, self.qkv.bias, view.visible, drop_key, rate=rate, **split)
            if context is not None:
                return product(context, self.output.kernel)
        query, key, value = run(heads_part, qkv, self.qkv.bias, cos, sin, tokens_first=fused, **split)
        if fused:
            context = fused_attention(query, key, value, row_lengths(view.visible), run.attention)
            return product(with_tail(context, qkv.shape[-1] // 3), self.output.kernel)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [B, heads, L, L]
        weights = run(probabilities_part, scores, view.visible, view.bias, drop_key, rate=rate)
        context = run(merge_part, ops.matmul(weights, value))  # [B, L, H]
        return product(context, self.output.kernel)


class RotaryViews:
    """The views of a rotary model: rotations, and windows of visible keys."""

    def __init__(self, config: EncoderConfig, rotary: Rotary) -> None:
        self._rotary, self._size = rotary, config.hidden_size // config.attention.heads

    def __call__(self, ids: Any, mask: Any, sites: Sites, dtype: str) -> list[View]:
        """Return one view for each block."""
        positions, rotary = token_positions(ids), self._rotary  # [L]
        visible = {window: self._visible(mask, positions, window) for window in dict.fromkeys(rotary.windows)}
        rotations = {theta: self._rotation(positions, theta) for theta in dict.fromkeys(rotary.thetas)}
        return [
            View(visible[window], rotation=rotations[theta])
            for theta, window in zip(rotary.thetas, rotary.windows, strict=True)
        ]

    def _visible(self, mask: Any, positions: Any, window: int) -> Any:
        visible = visible_keys(mask)
        if not window:
            return visible
        near = (ops.abs(positions[:, None] - positions[None, :]) <= window)[None, None]
        return near if visible is None else ops.logical_and(visible, near)

    def _rotation(self, positions: Any, theta: float) -> tuple[Any, Any]:
        rates = 1.0 / theta ** (np.arange(0, self._size, 2, dtype=np.float32) / np.float32(self._size))
        angles = ops.cast(positions, "float32")[:, None] * rates.astype(np.float32)[None]  # [L, D / 2]
        return ops.cos(angles), ops.sin(angles)


class BiasViews:
    """The views of MPNet: a bias for each head and distance."""

    def __init__(self, config: EncoderConfig, positions: BucketBias, make: Maker) -> None:
        self._heads, self._blocks = config.attention.heads, len(config.order)
        self._buckets = bias_buckets(positions.buckets, positions.furthest, config.max_length + 1)
        self.distances = make.table("distances", positions.buckets, self._heads)

    def __call__(self, ids: Any, mask: Any, sites: Sites, dtype: str) -> list[View]:
        """Return the same view for each block."""
        if is_layer(self.distances):
            pairs = look_up(self.distances, all_pairs(self._buckets, ids))  # [L, L, heads]
            bias = ops.expand_dims(ops.transpose(pairs, (2, 0, 1)), 0)
        else:
            # A product with a one-hot matrix is faster than a look-up, whose gradient adds all distances to a few rows.
            chosen = ops.one_hot(falling(self._buckets, ids), self.distances.shape[0], dtype="float32")
            rows = ops.transpose(ops.matmul(chosen, self.distances))  # [heads, 2 L]
            length = ops.shape(ids)[1]
            bias = skewed(ops.broadcast_to(rows[None, :, None], (1, self._heads, length, 2 * length)))
        return [View(visible_keys(mask), bias=bias)] * self._blocks
