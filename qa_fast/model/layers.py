"""The parts of the encoder but for attention: embeddings, feed-forward, what closes each part of a block, the head.

Matrix products stand in the classes; the element-wise work between two of them is a part (see `parts`), run through
`islands` so that it can be one kernel. Sums, norms and the head are computed in float32, everything else in the
model's compute dtype. B rows, L tokens, H the residual stream, W the embeddings, I the inner vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from qa_fast.model.config import EncoderConfig
from qa_fast.model.dropout import drop, site_key
from qa_fast.model.islands import PartRunner
from qa_fast.model.parts import (
    activation_part,
    after_part,
    before_part,
    embed_norm_part,
    embed_sum,
    gate_part,
    head_part,
    plus,
    projection_part,
)
from qa_fast.model.weights import Maker, as_dtype, first_rows, is_layer, look_up, product

NO_KEY = np.zeros(3, dtype=np.uint32)


class Sites:
    """The places of one forward pass that may drop, each with a key and a rate of its own.

    Args:
        key: uint32[2] of `dropout.dropout_key`; None drops nothing.
        first: Number of the first site.
    """

    def __init__(self, key: Any, first: int) -> None:
        self._key, self._first = key, first

    def __call__(self, number: int, rate: float | None) -> tuple[Any, float]:
        """Key and rate of the site; the rate is 0 where nothing drops."""
        if self._key is None or not rate:
            return NO_KEY, 0.0
        return site_key(self._key, self._first + number), rate


class Embeddings:
    """Word, position and type embeddings, norm, dropout, projection: int32[B, L] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        self.config, self._run = config, run
        about = config.embedding
        self.words = make.table("words", about.vocab_size, about.width)
        self.positions = make.table("positions", about.positions, about.width) if about.positions else None
        self.types = make.table("types", about.types, about.width) if about.types else None
        self.norm = make.norm("norm", about.width, config.norm.epsilon, config.norm.bias)
        self.projection = make.linear("projection", about.width, config.hidden_size) if about.projected else None

    def __call__(self, ids: Any, types: Any, mask: Any, sites: Sites, dtype: str) -> Any:
        """Embed int32[B, L] ids with int[B, L] types; `mask` is bool[B, L], where tokens are."""
        about = self.config.embedding
        positions, padding = None, None
        if self.positions is not None:
            positions = first_rows(self.positions, about.position_offset, ids)  # [L, W]
            if about.padding_position >= 0 and not is_layer(self.positions):
                padding = self.positions[about.padding_position : about.padding_position + 1]  # [1, W]
        drawn = is_layer(self.words)  # for export: nobody asks for gradients, and vectors of padding mean nothing
        key, rate = sites(0, about.dropout)
        x = embed_sum(
            look_up(self.words, ids),  # [B, L, W]
            None if drawn else ops.convert_to_tensor(ids) != about.pad_id,
            positions,
            padding,
            self._of_types(ids, types),
            mask,
        )
        x = self._run(
            embed_norm_part,
            x,
            mask,
            *self.norm,
            key,
            masked=about.masked and not drawn,
            epsilon=self.config.norm.epsilon,
            rate=rate,
            dtype=dtype,
        )
        if self.projection is not None:
            x = self._run(projection_part, product(x, self.projection.kernel), self.projection.bias)  # [B, L, H]
        return x

    def _of_types(self, ids: Any, types: Any) -> Any:
        if self.types is None:
            return None
        if self.config.embedding.types == 1 or types is None:
            return first_rows(self.types, 0, ids[:, :1])  # [1, W]
        if is_layer(self.types):
            return look_up(self.types, types)
        # A product instead of a look-up: its gradient does not queue every token up for the same two rows.
        return ops.matmul(ops.one_hot(types, self.config.embedding.types, dtype="float32"), self.types)


class FeedForward:
    """Inner product, activation (and gate), outer product without its bias: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        self.about, self._run = config.feed_forward, run
        inner = self.about.width * (2 if self.about.gated else 1)
        self.inner = make.linear("inner", config.hidden_size, inner, self.about.bias)
        self.outer = make.linear("outer", self.about.width, config.hidden_size, self.about.bias)
        self._part: Callable[..., Any] = gate_part if self.about.gated else activation_part

    def __call__(self, x: Any, sites: Sites) -> Any:
        """The part's product; `Close` adds its bias."""
        key, rate = sites(2, self.about.inner_dropout)
        y = product(x, self.inner.kernel)  # [B, L, I], or [B, L, 2 I] with a gate
        y = self._run(self._part, y, self.inner.bias, key, name=self.about.activation, rate=rate)  # [B, L, I]
        return product(y, self.outer.kernel)  # [B, L, H]


class Close:
    """What stands behind each part of a block: bias, dropout, the sum with the residual stream, a norm.

    With norms behind the sums, sum and norm are one: the next part's input is the residual stream. With norms before
    the parts, the norm is the next part's, here already; behind the last block it is the final one.
    """

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner, name: str) -> None:
        self._before, self._epsilon, self._run = config.norm.before, config.norm.epsilon, run
        self.norm = make.norm(name, config.hidden_size, config.norm.epsilon, config.norm.bias)

    def __call__(self, y: Any, bias: Any, residual: Any, site: tuple[Any, float]) -> tuple[Any, Any]:
        """The residual stream and the next part's input, from a part's product: [B, L, H] each."""
        key, rate = site
        part = before_part if self._before else after_part
        out = self._run(part, y, bias, residual, *self.norm, key, epsilon=self._epsilon, rate=rate)
        return out if self._before else (out, out)


class SpanHead:
    """One start and one end logit for each token, in float32: [B, L, H] to twice [B, L]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        self.about, self._epsilon, self._run = config.head, config.norm.epsilon, run
        self.dense = self.norm = None
        if self.about.activation:
            self.dense = make.linear("dense", config.hidden_size, config.hidden_size, self.about.bias)
            self.norm = make.norm("norm", config.hidden_size, config.norm.epsilon, config.norm.bias)
        self.output = make.linear("output", config.hidden_size, 2)

    def __call__(self, x: Any, sites: Sites) -> tuple[Any, Any]:
        """Start and end logits of [B, L, H]."""
        if self.dense is not None and self.norm is not None:
            y, about = product(x, self.dense.kernel), self.about
            x = self._run(
                head_part, y, self.dense.bias, *self.norm, name=about.activation, epsilon=self._epsilon
            )  # fmt: skip
        x = as_dtype(x, "float32")
        key, rate = sites(0, self.about.dropout)
        logits = plus(product(drop(x, key, rate), self.output.kernel), self.output.bias)  # [B, L, 2]
        return logits[:, :, 0], logits[:, :, 1]
