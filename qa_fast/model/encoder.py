"""The encoder with a span head: token ids in, start and end logits out.

`Encoder` is the only description of the network; its maker decides whether weights are variables or standard layers.
`EncoderModel` is a Keras model around it. It is subclassed instead of functional because the dropout key is an argument
of the forward pass, which is therefore a pure function of weights and arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from qa_fast.model.attention import BiasViews, RotaryViews, SelfAttention, View, visible_keys
from qa_fast.model.config import BucketBias, Disentangled, EncoderConfig, Rotary
from qa_fast.model.disentangled import DisentangledAttention, DisentangledViews
from qa_fast.model.islands import PartRunner, parts_mode
from qa_fast.model.layers import Close, Embeddings, FeedForward, Sites, SpanHead
from qa_fast.model.weights import Maker, Shapes, Variables, token_positions

# Dropout sites of a block: attention's probabilities, its output, the inner vectors, vectors of distances, the output.
_SITES = 5


class Block:
    """Attention and feed-forward, each followed by the residual sum and a norm: two [B, L, H] to two [B, L, H]."""

    def __init__(self, config: EncoderConfig, make: Maker, run: PartRunner) -> None:
        disentangled = isinstance(config.attention.positions, Disentangled)
        self._dropouts = config.attention.output_dropout, config.feed_forward.dropout
        self.attention = (DisentangledAttention if disentangled else SelfAttention)(config, make, run)
        self.close_attention = Close(config, make, run, "attention_norm")
        self.feed_forward = FeedForward(config, make, run)
        self.close_feed_forward = Close(config, make, run, "ffn_norm")

    def __call__(self, residual: Any, x: Any, view: View, sites: Sites) -> tuple[Any, Any]:
        """Return the residual stream and the next block's input, from those of the block before."""
        y = self.attention(x, view, sites)
        residual, x = self.close_attention(y, self.attention.output.bias, residual, sites(1, self._dropouts[0]))
        y = self.feed_forward(x, sites)
        return self.close_feed_forward(y, self.feed_forward.outer.bias, residual, sites(4, self._dropouts[1]))


class Encoder:
    """Embeddings, blocks and head.

    Args:
        config: The encoder's configuration.
        maker: Returns the maker of a module's weights, by its name ("embeddings", "relative", "block_0", …, "head").
        run: Runs element-wise parts.
        dtype: Compute dtype.
    """

    def __init__(self, config: EncoderConfig, maker: Callable[[str], Maker], run: PartRunner, dtype: str) -> None:
        self.config, self._dtype = config, dtype
        self.embeddings = Embeddings(config, maker("embeddings"), run)
        positions = config.attention.positions
        self._views: Callable[..., list[View]] | None = None
        if isinstance(positions, Rotary):
            self._views = RotaryViews(config, positions)
        elif isinstance(positions, BucketBias):
            self._views = BiasViews(config, positions, maker("relative"))
        elif isinstance(positions, Disentangled):
            self._views = DisentangledViews(config, positions, maker("relative"))
        self.blocks = [Block(config, maker(f"block_{index}"), run) for index in range(config.blocks)]
        self.head = SpanHead(config, maker("head"), run)

    def __call__(
        self, input_ids: Any, mask: Any, token_type_ids: Any, dropout_key: Any = None, dtype: str | None = None
    ) -> tuple[Any, Any]:
        """Score a padded batch, see `EncoderModel.call`.

        `mask` is bool[B, L], True for tokens; None in a graph drawn for rows without padding.
        """
        config, dtype = self.config, dtype or self._dtype
        outside = Sites(dropout_key, 0)
        x = residual = self.embeddings(input_ids, token_type_ids, mask, outside, dtype)  # [B, L, H]
        if self._views is None:
            views = [View(visible_keys(mask))] * len(config.order)
        else:
            views = self._views(input_ids, mask, outside, dtype)
        for step, index in enumerate(config.order):
            residual, x = self.blocks[index](residual, x, views[step], Sites(dropout_key, 1 + _SITES * step))
        return self.head(x, Sites(dropout_key, 1 + _SITES * len(config.order)))


class EncoderModel(keras.Model):
    """An encoder that scores every token as an answer's start and end.

    Args:
        config: The encoder's configuration.
        precision: Compute dtype: "float32", "bfloat16" or "float16". Weights are always float32.
        parts: Run each element-wise part as one kernel (see `islands`).
        name: The Keras model's name.

    All weights are 0 and norms 1 until `checkpoint.load_model` or `initialize` sets them.
    """

    def __init__(
        self, config: EncoderConfig, precision: str = "float32", parts: bool = False, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.config = config
        self.precision = precision
        self.run_part = PartRunner(parts_mode(parts))
        self.variables_of_parts: list[Variables] = []
        self.encoder = Encoder(config, self._variables_of, self.run_part, precision)
        self.built = True

    def _variables_of(self, part: str) -> Variables:
        self.variables_of_parts.append(Variables(part))
        return self.variables_of_parts[-1]

    @property
    def by_path(self) -> dict[str, Any]:
        """Every weight by its path, such as "block_0/qkv_kernel", whether it is frozen or not."""
        return {"/".join(weight.path.split("/")[-2:]): weight for weight in self.weights}

    @property
    def freezable(self) -> dict[str, Any]:
        """Everything inside the model with the attribute `trainable` by name: parts such as "block_0", then weights."""
        return {part.name: part for part in self.variables_of_parts} | self.by_path

    def initialize(self, seed: int) -> None:
        """Fill every matrix from a normal distribution, the same numbers on every backend."""
        generator = np.random.default_rng(seed)
        for variable in self.weights:
            if len(variable.shape) > 1:
                variable.assign(fresh_matrix(generator, tuple(variable.shape), self.config))

    def call(
        self,
        input_ids: Any,
        lengths: Any,
        token_type_ids: Any = None,
        dropout_key: Any = None,
        precision: str | None = None,
    ) -> tuple[Any, Any]:
        """Score a padded batch.

        Args:
            input_ids: int32[B, L].
            lengths: int32[B], the number of tokens in each row, at least 1.
            token_type_ids: int[B, L]; None if the family has no token types.
            dropout_key: uint32[2], see `dropout.dropout_key`; None computes without dropout.
            precision: Compute dtype of this call; None means the model's.

        Returns:
            start_logits float32[B, L], end_logits float32[B, L]; values at and beyond a row's length have no meaning.
        """
        input_ids, lengths = ops.convert_to_tensor(input_ids), ops.convert_to_tensor(lengths)
        mask = token_positions(input_ids)[None, :] < lengths[:, None]
        return self.encoder(input_ids, mask, token_type_ids, dropout_key, precision)


def weight_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight by its path ("block_0/qkv_kernel"), without allocating any."""
    shapes: dict[str, tuple[int, ...]] = {}
    Encoder(config, lambda part: Shapes(part, shapes), PartRunner(), "float32")
    return shapes


def fresh_matrix(
    generator: np.random.Generator, shape: tuple[int, ...], config: EncoderConfig
) -> npt.NDArray[np.float32]:
    """Return a float32 matrix from a normal distribution with the config's standard deviation."""
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(config.initializer_range)
