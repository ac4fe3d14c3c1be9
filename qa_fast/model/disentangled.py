"""DeBERTa's attention: content meets content, and content meets distances, both ways (He et al. 2021, equation 4).

A distance's score is needed for every pair of tokens, though a pair's distance is the same along a diagonal. So scores
over all 2 L distances are products of matrices, and `relative.skewed` shifts their rows into place; transformers
gathers each pair's score instead. Where a graph is drawn for export L is not known, and pairs are gathered, as there.
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
from qa_fast.model.parts import heads_part, merge_part, softmax_over
from qa_fast.model.relative import all_pairs, disentangled_buckets, falling, rising, skewed
from qa_fast.model.weights import Linear, Maker, as_dtype, is_layer, layer_norm, look_up, product, rows_product


class Distances(NamedTuple):
    """Vectors of distances, for all blocks.

    Attributes:
        for_queries: [2 L, H], from L - 1 down to -L; or all 2 S of them where a graph is drawn.
        for_keys: [2 L, H], from 1 - L up to L; or the same 2 S.
        pairs: int32[L, L], the row of each pair among the 2 S, where a graph is drawn.
    """

    for_queries: Any
    for_keys: Any
    pairs: Any = None


class DisentangledViews:
    """What every block of DeBERTa is told: the vectors of distances."""

    def __init__(self, config: EncoderConfig, about: Disentangled, make: Maker) -> None:
        self._about, self._blocks, self._epsilon = about, len(config.order), config.norm.epsilon
        self._buckets = disentangled_buckets(about.buckets, about.furthest, config.max_length + 1)
        self.distances = make.table("distances", 2 * about.span, config.hidden_size)
        self.norm = make.norm("norm", config.hidden_size, config.norm.epsilon) if about.normalized else None

    def __call__(self, ids: Any, there: Any, sites: Sites, dtype: str) -> list[View]:
        """One view a block, all the same."""
        if is_layer(self.distances):
            # Numbers that hang on the input, or the graph would hold their rows as they are before it has its weights.
            every = ops.zeros_like(ids[0, :1]) + np.arange(2 * self._about.span, dtype=np.int32)
            rows = self._normed(look_up(self.distances, every))
            distances = Distances(rows, rows, all_pairs(self._buckets, ids))
        else:
            rows = as_dtype(self._normed(self.distances), dtype)  # [2 S, H]
            distances = Distances(
                ops.take(rows, falling(self._buckets, ids), axis=0), ops.take(rows, rising(self._buckets, ids), axis=0)
            )
        visible = None
        if there is not None:  # padding sees nothing here
            visible = ops.logical_and(there[:, None, None, :], there[:, None, :, None])
        return [View(visible, distances=distances)] * self._blocks

    def _normed(self, rows: Any) -> Any:
        return rows if self.norm is None else layer_norm(ops.convert_to_tensor(rows), *self.norm, self._epsilon)


def distances_part(
    scores: Any, by_query: Any, by_key: Any, visible: Any, pairs: Any, drop_key: Any, *, rate: float
) -> Any:
    """Three kinds of scores to probabilities: [B, heads, L, L] in the dtype of `scores`.

    Args:
        scores: [B, heads, L, L], of content and content.
        by_query: [B, heads, L, 2 L], of each query and the distances; None where there are none.
        by_key: [B, heads, L, 2 L], of each key and the distances; None where there are none.
        visible: bool[B, 1, L, L], see `View`.
        pairs: See `Distances`; the last axis of `by_query` and `by_key` is then 2 S.
        drop_key: Of the dropout.
        rate: Of the dropout.
    """
    x = as_dtype(scores, "float32")
    if by_query is not None:
        x = x + as_dtype(_placed(by_query, pairs), "float32")
    if by_key is not None:
        keys = _placed(by_key, None if pairs is None else ops.transpose(pairs))
        x = x + as_dtype(ops.transpose(keys, (0, 1, 3, 2)), "float32")
    # What is not seen gets no gradient either, as in transformers' masked fill.
    x = x if visible is None else x * as_dtype(visible, "float32")
    return softmax_over(x, visible, drop_key, rate, scores.dtype)


def _placed(scores: Any, pairs: Any) -> Any:
    if pairs is None:
        return skewed(scores)
    return ops.take_along_axis(scores, pairs[None, None], axis=-1)


class DisentangledAttention:
    """Takes the place of `attention.SelfAttention`: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        about = config.attention.positions
        assert isinstance(about, Disentangled)
        hidden, self.about, self._run, self._distances = config.hidden_size, config.attention, run, about
        self._hidden = hidden
        self.qkv = make.linear("qkv", hidden, 3 * hidden)
        self.output = make.linear("output", hidden, hidden)
        self.distance_key = self.distance_query = None
        if about.content_to_position and not about.shared:
            self.distance_key = make.linear("distance_key", hidden, hidden)
        if about.position_to_content and not about.shared:
            self.distance_query = make.linear("distance_query", hidden, hidden)
        kinds = 1 + about.content_to_position + about.position_to_content
        self._scale = (hidden // self.about.heads * kinds) ** -0.5

    def __call__(self, x: Any, view: View, sites: Sites) -> Any:
        """See `SelfAttention`."""
        run, about, distances, hidden = self._run, self.about, view.distances, self._hidden
        qkv = product(x, self.qkv.kernel)  # [B, L, 3H]
        query, key, value = run(heads_part, qkv, self.qkv.bias, None, None, heads=about.heads, scale=self._scale)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # [B, heads, L, L]
        by_query = by_key = None
        drop_key, rate = sites(3, self._distances.dropout)
        if self._distances.content_to_position:
            keys = self._projected(drop(distances.for_queries, drop_key, rate), self.distance_key, hidden)
            by_query = ops.matmul(query, ops.transpose(keys, (0, 2, 1)))  # [B, heads, L, 2 L]
        if self._distances.position_to_content:
            queries = self._projected(drop(distances.for_keys, drop_key, rate), self.distance_query, 0)
            by_key = ops.matmul(key, ops.transpose(queries * self._scale, (0, 2, 1)))  # [B, heads, L, 2 L]
        drop_key, rate = sites(0, about.dropout)
        weights = run(distances_part, scores, by_query, by_key, view.visible, distances.pairs, drop_key, rate=rate)
        context = run(merge_part, ops.matmul(weights, value))  # [B, L, H]
        return product(context, self.output.kernel)

    def _projected(self, rows: Any, own: Linear | None, begin: int) -> Any:
        """[2 L, H] to [heads, 2 L, D], by weights of its own or by the content's from column `begin` on."""
        y = rows_product(rows, own) if own is not None else rows_product(rows, self.qkv, begin, begin + self._hidden)
        heads = self.about.heads
        return ops.transpose(ops.reshape(y, (-1, heads, self._hidden // heads)), (1, 0, 2))
