"""The layers of the encoder except attention: embeddings, feed-forward, the end of each half of a block, the head.

The classes compute matrix products. The element-wise work between two products is a part (see `parts`), run through
`islands` so that it can be one kernel. Sums, norms and the head are computed in float32, everything else in the model's
compute dtype. For the letters of dimensions see `parts`.
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
)
from qa_fast.model.weights import Maker, as_dtype, first_rows, is_layer, look_up, product

NO_KEY = np.zeros(3, dtype=np.uint32)


class Sites:
    """The dropout sites of one stretch of the forward pass, each with a key of its own.

    Args:
        key: uint32[2], see `dropout.dropout_key`; None drops nothing.
        first: Number of the first site within the model.
    """

    def __init__(self, key: Any, first: int) -> None:
        self._key, self._first = key, first

    def __call__(self, number: int, rate: float | None) -> tuple[Any, float]:
        """Return a site's key and its rate, which is 0 if nothing drops."""
        if self._key is None or not rate:
            return NO_KEY, 0.0
        return site_key(self._key, self._first + number), rate


class Embeddings:
    """Word, position and type embeddings, norm, dropout, projection: int32[B, L] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        self.config, self._run = config, run
        embedding = config.embedding
        self.words = make.table("words", embedding.vocab_size, embedding.width)
        self.positions = make.table("positions", embedding.positions, embedding.width) if embedding.positions else None
        self.types = make.table("types", embedding.types, embedding.width) if embedding.types else None
        self.norm = make.norm("norm", embedding.width, config.norm.epsilon, config.norm.bias)
        self.projection = (
            make.linear("projection", embedding.width, config.hidden_size) if embedding.projected else None
        )

    def __call__(self, ids: Any, types: Any, mask: Any, sites: Sites, dtype: str) -> Any:
        """Embed int32[B, L] ids with int[B, L] types; `mask` is bool[B, L], True for tokens."""
        embedding = self.config.embedding
        positions, padding = None, None
        if self.positions is not None:
            positions = first_rows(self.positions, embedding.position_offset, ids)  # [L, W]
            if embedding.padding_position >= 0 and not is_layer(self.positions):
                padding = self.positions[embedding.padding_position : embedding.padding_position + 1]  # [1, W]
        drawn = is_layer(self.words)  # for export: no gradients are needed, and vectors of padding have no meaning
        key, rate = sites(0, embedding.dropout)
        x = embed_sum(
            look_up(self.words, ids),  # [B, L, W]
            None if drawn else ops.convert_to_tensor(ids) != embedding.pad_id,
            positions,
            padding,
            self._type_vectors(ids, types),
            mask,
        )
        x = self._run(
            embed_norm_part,
            x,
            mask,
            *self.norm,
            key,
            masked=embedding.masked and not drawn,
            epsilon=self.config.norm.epsilon,
            rate=rate,
            dtype=dtype,
        )
        if self.projection is not None:
            bias = self.projection.bias
            x = plus(product(x, self.projection.kernel), None if bias is None else ops.cast(bias, dtype))  # [B, L, H]
        return x

    def _type_vectors(self, ids: Any, types: Any) -> Any:
        if self.types is None:
            return None
        if self.config.embedding.types == 1 or types is None:
            return first_rows(self.types, 0, ids[:, :1])  # [1, W]
        if is_layer(self.types):
            return look_up(self.types, types)
        # A product is faster than a look-up here, whose gradient adds every token to the same two rows one by one.
        return ops.matmul(ops.one_hot(types, self.config.embedding.types, dtype="float32"), self.types)


class FeedForward:
    """Inner product, activation (and gate), outer product without its bias: [B, L, H] to [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        self.config, self._run = config.feed_forward, run
        inner = self.config.width * (2 if self.config.gated else 1)
        self.inner = make.linear("inner", config.hidden_size, inner, self.config.bias)
        self.outer = make.linear("outer", self.config.width, config.hidden_size, self.config.bias)
        self._part: Callable[..., Any] = gate_part if self.config.gated else activation_part

    def __call__(self, x: Any, sites: Sites) -> Any:
        """Return the outer product; `Close` adds its bias."""
        key, rate = sites(2, self.config.inner_dropout)
        y = product(x, self.inner.kernel)  # [B, L, I], or [B, L, 2 I] with a gate
        y = self._run(self._part, y, self.inner.bias, key, name=self.config.activation, rate=rate)  # [B, L, I]
        return product(y, self.outer.kernel)  # [B, L, H]


class Close:
    """The end of each half of a block: bias, dropout, the sum with the residual stream, a norm.

    If norms follow the sums, the normed sum is both the residual stream and the next half's input. If norms precede the
    halves, the norm computed here is the next half's, and after the last block the final one.
    """

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner, name: str) -> None:
        self._before, self._epsilon, self._run = config.norm.before, config.norm.epsilon, run
        self.norm = make.norm(name, config.hidden_size, config.norm.epsilon, config.norm.bias)

    def __call__(self, y: Any, bias: Any, residual: Any, site: tuple[Any, float]) -> tuple[Any, Any]:
        """Return the residual stream and the next half's input, [B, L, H] each, from a half's product `y`."""
        key, rate = site
        part = before_part if self._before else after_part
        out = self._run(part, y, bias, residual, *self.norm, key, epsilon=self._epsilon, rate=rate)
        return out if self._before else (out, out)


class SpanHead:
    """One start and one end logit for each token, in float32: [B, L, H] to two [B, L]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        self.config, self._epsilon, self._run = config.head, config.norm.epsilon, run
        self.dense = self.norm = None
        if self.config.activation:
            self.dense = make.linear("dense", config.hidden_size, config.hidden_size, self.config.bias)
            self.norm = make.norm("norm", config.hidden_size, config.norm.epsilon, config.norm.bias)
        self.output = make.linear("output", config.hidden_size, 2)

    def __call__(self, x: Any, sites: Sites) -> tuple[Any, Any]:
        """Return start and end logits."""
        if self.dense is not None and self.norm is not None:
            settings = {"name": self.config.activation, "epsilon": self._epsilon}
            x = self._run(head_part, product(x, self.dense.kernel), self.dense.bias, *self.norm, **settings)
        x = as_dtype(x, "float32")
        key, rate = sites(0, self.config.dropout)
        logits = plus(product(drop(x, key, rate), self.output.kernel), self.output.bias)  # [B, L, 2]
        return logits[:, :, 0], logits[:, :, 1]
