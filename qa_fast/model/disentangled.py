"""DeBERTa's attention: scores of content with content, and of content with distances (He et al. 2021, equation 4).

All pairs of tokens on a diagonal have the same distance. The scores over all 2 L distances are therefore products of
matrices, and `relative.skewed` shifts their rows into place; transformers gathers the score of each pair instead. A
graph drawn for export does not know L and gathers pairs like transformers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from qa_fast.model.attention import View
from qa_fast.model.config import Disentangled, EncoderConfig
from qa_fast.model.dropout import drop
from qa_fast.model.islands import PartRunner
from qa_fast.model.layers import Sites
from qa_fast.model.parts import distances_part, heads_part, merge_part
from qa_fast.model.relative import all_pairs, disentangled_buckets, falling, rising
from qa_fast.model.weights import Linear, Maker, as_dtype, is_layer, layer_norm, look_up, product, rows_product


class Distances(NamedTuple):
    """Vectors of distances, for all blocks.

    Attributes:
        for_queries: [2 L, H], from L - 1 down to -L; in a drawn graph all 2 S of them.
        for_keys: [2 L, H], from 1 - L up to L; in a drawn graph all 2 S of them.
        pairs: int32[L, L], the row of each pair among the 2 S, in a drawn graph; None elsewhere.
    """

    for_queries: Any
    for_keys: Any
    pairs: Any = None


class DisentangledViews:
    """The views of DeBERTa: the vectors of distances."""

    def __init__(self, config: EncoderConfig, positions: Disentangled, make: Maker) -> None:
        self._rows, self._blocks, self._epsilon = 2 * positions.span, len(config.order), config.norm.epsilon
        self._buckets = disentangled_buckets(positions.buckets, positions.furthest, config.max_length + 1)
        self.distances = make.table("distances", self._rows, config.hidden_size)
        self.norm = make.norm("norm", config.hidden_size, config.norm.epsilon) if positions.normalized else None

    def __call__(self, ids: Any, mask: Any, sites: Sites, dtype: str) -> list[View]:
        """Return the same view for each block."""
        if is_layer(self.distances):
            # They must depend on the input: the graph would otherwise hold rows from before the weights are read.
            all_rows = ops.zeros_like(ids[0, :1]) + np.arange(self._rows, dtype=np.int32)
            rows = self._normed(look_up(self.distances, all_rows))
            distances = Distances(rows, rows, all_pairs(self._buckets, ids))
        else:
            rows = as_dtype(self._normed(self.distances), dtype)  # [2 S, H]
            distances = Distances(
                ops.take(rows, falling(self._buckets, ids), axis=0), ops.take(rows, rising(self._buckets, ids), axis=0)
            )
        visible = None
        if mask is not None:  # padding sees nothing here
            visible = ops.logical_and(mask[:, None, None, :], mask[:, None, :, None])
        return [View(visible, distances=distances)] * self._blocks

    def _normed(self, rows: Any) -> Any:
        return rows if self.norm is None else layer_norm(ops.convert_to_tensor(rows), *self.norm, self._epsilon)


class DisentangledAttention:
    """DeBERTa's counterpart of `attention.SelfAttention`: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        positions = config.attention.positions
        assert isinstance(positions, Disentangled)
        hidden = self._hidden = config.hidden_size
        self.config, self._positions, self._run = config.attention, positions, run
        self.qkv = make.linear("qkv", hidden, 3 * hidden)
        self.output = make.linear("output", hidden, hidden)
        self.distance_key = self.distance_query = None
        if positions.content_to_position and not positions.shared:
            self.distance_key = make.linear("distance_key", hidden, hidden)
        if positions.position_to_content and not positions.shared:
            self.distance_query = make.linear("distance_query", hidden, hidden)
        kinds = 1 + positions.content_to_position + positions.position_to_content
        self._scale = (hidden // self.config.heads * kinds) ** -0.5

    def __call__(self, x: Any, view: View, sites: Sites) -> Any:
        """Let every token attend to the keys that the view shows."""
        run, config, distances = self._run, self.config, view.distances
        qkv = product(x, self.qkv.kernel)  # [B, L, 3H]
        query, key, value = run(heads_part, qkv, self.qkv.bias, None, None, heads=config.heads, scale=self._scale)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [B, heads, L, L]
        by_query = by_key = None
        drop_key, rate = sites(3, self._positions.dropout)
        if self._positions.content_to_position:
            keys = self._projected(drop(distances.for_queries, drop_key, rate), self.distance_key, self._hidden)
            by_query = ops.matmul(query, ops.transpose(keys, (0, 2, 1)))  # [B, heads, L, 2 L]
        if self._positions.position_to_content:
            queries = self._projected(drop(distances.for_keys, drop_key, rate), self.distance_query, 0)
            by_key = ops.matmul(key, ops.transpose(queries * self._scale, (0, 2, 1)))  # [B, heads, L, 2 L]
        drop_key, rate = sites(0, config.dropout)
        weights = run(distances_part, scores, by_query, by_key, view.visible, distances.pairs, drop_key, rate=rate)
        context = run(merge_part, ops.matmul(weights, value))  # [B, L, H]
        return product(context, self.output.kernel)

    def _projected(self, rows: Any, own: Linear | None, begin: int) -> Any:
        """Project [2 L, H] to [heads, 2 L, D], by its own weights or by the content's from column `begin` on."""
        y = rows_product(rows, own) if own is not None else rows_product(rows, self.qkv, begin, begin + self._hidden)
        heads = self.config.heads
        return ops.transpose(ops.reshape(y, (-1, heads, self._hidden // heads)), (1, 0, 2))
