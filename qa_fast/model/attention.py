"""Self-attention, and what it knows of where tokens stand.

`View` is made once for a forward pass and shared by its blocks: which keys are there, which are near, rotations and
biases by distance. Softmax is computed in float32. Masks are 0 or -1e9 added in float32, finite in every dtype; a row
that sees nothing (padding) sees all alike, as in transformers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from qa_fast.model.config import BucketBias, EncoderConfig, Rotary
from qa_fast.model.fused import in_one_piece, row_lengths
from qa_fast.model.islands import PartRunner
from qa_fast.model.layers import Sites
from qa_fast.model.parts import heads_part, merge_part, probabilities_part
from qa_fast.model.relative import all_pairs, bias_buckets, falling, skewed
from qa_fast.model.weights import Maker, is_layer, look_up, product, token_positions, with_tail


class View(NamedTuple):
    """What a block's attention is told besides its vectors.

    Attributes:
        visible: bool[B, 1, 1, L], which keys are seen, or bool[B, 1, L, L], which by each query; None where a graph is
            drawn for rows without padding.
        rotation: Cosines and sines, float32[L, D / 2] each; None turns nothing.
        bias: float32[1, heads, L, L] to add to the scores, or None.
        distances: Vectors of distances for DeBERTa's attention, or None.
    """

    visible: Any
    rotation: tuple[Any, Any] | None = None
    bias: Any = None
    distances: Any = None


def keys_of(there: Any) -> Any:
    """The keys that every query sees, bool[B, 1, 1, L], of where tokens are, bool[B, L]; None is None."""
    return None if there is None else there[:, None, None, :]


def drawn_attention(qkv: Any, view: View, heads: int) -> Any:
    """[B, L, 3H] to [B, L, H] by Keras' one operation for it: where a graph is drawn, engines have it in one piece."""
    hidden = qkv.shape[-1] // 3
    parts = [with_tail(qkv[:, :, at : at + hidden], heads, hidden // heads) for at in (0, hidden, 2 * hidden)]
    return with_tail(ops.dot_product_attention(*parts, bias=view.bias, mask=view.visible), hidden)


class SelfAttention:
    """Multi-head self-attention up to its output product, whose bias `Close` adds: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        hidden, self.about, self._run = config.hidden_size, config.attention, run
        self.qkv = make.linear("qkv", hidden, 3 * hidden, self.about.bias)
        self.output = make.linear("output", hidden, hidden, self.about.bias)
        self._scale = (hidden // self.about.heads) ** -0.5

    def __call__(self, x: Any, view: View, sites: Sites) -> Any:
        """Let every token look at those in its view."""
        run, about = self._run, self.about
        cos, sin = view.rotation or (None, None)
        qkv = product(x, self.qkv.kernel)  # [B, L, 3H]
        if is_layer(self.qkv.kernel) and cos is None:
            return product(drawn_attention(qkv, view, about.heads), self.output.kernel)
        # In one piece where the kernel knows all that the view says: how many keys there are.
        whole = run.attention != "exact" and view.bias is None and view.visible.shape[2] == 1
        split = {"heads": about.heads, "scale": self._scale, "tokens_first": whole}
        query, key, value = run(heads_part, qkv, self.qkv.bias, cos, sin, **split)
        if whole:
            context = in_one_piece(query, key, value, row_lengths(view.visible), run.attention)
            return product(with_tail(context, qkv.shape[-1] // 3), self.output.kernel)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [B, heads, L, L]
        drop_key, rate = sites(0, about.dropout)
        weights = run(probabilities_part, scores, view.visible, view.bias, drop_key, rate=rate)
        context = run(merge_part, ops.matmul(weights, value))  # [B, L, H]
        return product(context, self.output.kernel)


class RotaryViews:
    """What each block of a rotary model is told: rotations by its base, and how far it looks."""

    def __init__(self, config: EncoderConfig, about: Rotary) -> None:
        self._about, self._size = about, config.hidden_size // config.attention.heads

    def __call__(self, ids: Any, there: Any, sites: Sites, dtype: str) -> list[View]:
        """One view a block."""
        positions, about = token_positions(ids), self._about  # [L]
        visible = {window: self._visible(there, positions, window) for window in dict.fromkeys(about.windows)}
        rotations = {theta: self._rotation(positions, theta) for theta in dict.fromkeys(about.thetas)}
        return [
            View(visible[window], rotation=rotations[theta])
            for theta, window in zip(about.thetas, about.windows, strict=True)
        ]

    def _visible(self, there: Any, positions: Any, window: int) -> Any:
        visible = keys_of(there)
        if not window:
            return visible
        near = (ops.abs(positions[:, None] - positions[None, :]) <= window)[None, None]
        return near if visible is None else ops.logical_and(visible, near)

    def _rotation(self, positions: Any, theta: float) -> tuple[Any, Any]:
        rates = 1.0 / theta ** (np.arange(0, self._size, 2, dtype=np.float32) / np.float32(self._size))
        angles = ops.cast(positions, "float32")[:, None] * rates.astype(np.float32)[None]  # [L, D / 2]
        return ops.cos(angles), ops.sin(angles)


class BiasViews:
    """What every block of MPNet is told: a bias for each head and distance."""

    def __init__(self, config: EncoderConfig, about: BucketBias, make: Maker) -> None:
        self._heads, self._blocks = config.attention.heads, len(config.order)
        self._buckets = bias_buckets(about.buckets, about.furthest, config.max_length + 1)
        self.distances = make.table("distances", about.buckets, self._heads)

    def __call__(self, ids: Any, there: Any, sites: Sites, dtype: str) -> list[View]:
        """One view a block, all the same."""
        if is_layer(self.distances):
            pairs = look_up(self.distances, all_pairs(self._buckets, ids))  # [L, L, heads]
            bias = ops.expand_dims(ops.transpose(pairs, (2, 0, 1)), 0)
        else:
            # By a product with ones and zeros: its gradient does not queue up all distances for a few rows.
            chosen = ops.one_hot(falling(self._buckets, ids), self.distances.shape[0], dtype="float32")
            rows = ops.transpose(ops.matmul(chosen, self.distances))  # [heads, 2 L]
            length = ops.shape(ids)[1]
            bias = skewed(ops.broadcast_to(rows[None, :, None], (1, self._heads, length, 2 * length)))
        return [View(keys_of(there), bias=bias)] * self._blocks
