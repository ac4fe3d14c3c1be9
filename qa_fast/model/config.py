"""The configuration of an encoder; a family's file (`families/`) reads it from a Hugging Face `config.json`.

The layers read these records and know no family. Each record describes one module: embeddings, attention and its
positions, feed-forward, norms, head. A dropout rate of None means that a family has no dropout at that place; a rate of
0 may be replaced by `--dropout`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from qa_fast.errors import UserError

# Names in config.json, and the functions that they mean.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class EmbeddingConfig:
    """Embeddings.

    Attributes:
        vocab_size: Rows of the word embedding.
        width: W, width of all embeddings.
        positions: Rows of the position embedding; 0 without one.
        position_offset: Position row of the first token.
        padding_position: Position row of padding; -1 if padding is counted like other tokens.
        types: Rows of the token type embedding; with 1 every token has type 0, with 0 there is no such embedding.
        pad_id: Token id of padding; its embedding gets no gradient.
        dropout: Rate after the norm.
        projected: Whether a product with [W, H] follows the norm.
        masked: Whether padding becomes a vector of zeros.
    """

    vocab_size: int
    width: int
    positions: int
    types: int
    pad_id: int
    dropout: float | None
    position_offset: int = 0
    padding_position: int = -1
    projected: bool = False
    masked: bool = False


@dataclass(frozen=True)
class Rotary:
    """Positions as rotations of queries and keys, and the attention window of each block.

    Attributes:
        thetas: For each block, the base of the wave lengths.
        windows: For each block, how many tokens to either side a token sees; 0 means all.
    """

    thetas: tuple[float, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True)
class BucketBias:
    """A learnt bias for each head and bucket of distances, the same in every block.

    Attributes:
        buckets: Number of buckets, half of them for each direction.
        furthest: The distance from which all distances share the last bucket.
    """

    buckets: int
    furthest: int


@dataclass(frozen=True)
class Disentangled:
    """DeBERTa's attention: queries and keys also have scores with vectors of distances.

    Attributes:
        buckets: Buckets in one direction, exact up to half their number, then logarithmic; 0: one for each distance.
        furthest: Distance of the last bucket.
        content_to_position: Whether queries have scores with distances.
        position_to_content: Whether keys have scores with distances.
        shared: Whether distances use the projections of the content.
        normalized: Whether a norm follows the vectors of distances.
        dropout: Rate on the vectors of distances.
    """

    buckets: int
    furthest: int
    content_to_position: bool
    position_to_content: bool
    shared: bool
    normalized: bool
    dropout: float | None

    @property
    def span(self) -> int:
        """Return S, the number of vectors of distances in one direction."""
        return self.buckets or self.furthest


@dataclass(frozen=True)
class AttentionConfig:
    """Self-attention.

    Attributes:
        heads: Number of heads, a divisor of H.
        dropout: Rate on the probabilities.
        output_dropout: Rate after the output product.
        bias: Whether the products have biases.
        positions: How attention uses positions, besides the position embedding.
    """

    heads: int
    dropout: float | None
    output_dropout: float | None
    bias: bool = True
    positions: Rotary | BucketBias | Disentangled | None = None


@dataclass(frozen=True)
class FeedForwardConfig:
    """Feed-forward, the second half of a block.

    Attributes:
        width: Width of the inner vectors.
        activation: A key of `ACTIVATIONS`.
        dropout: Rate after the outer product.
        inner_dropout: Rate on the inner vectors.
        bias: Whether the products have biases.
        gated: Whether a second inner product multiplies the activated first.
    """

    width: int
    activation: str
    dropout: float | None
    inner_dropout: float | None = None
    bias: bool = True
    gated: bool = False


@dataclass(frozen=True)
class NormConfig:
    """Layer normalisation.

    Attributes:
        epsilon: Added to the variance.
        bias: Whether norms have a shift.
        before: Whether norms precede each half of a block and follow the last block, instead of following each sum.
    """

    epsilon: float
    bias: bool = True
    before: bool = False


@dataclass(frozen=True)
class HeadConfig:
    """The span head: a product with [H, 2].

    Attributes:
        dropout: Rate before that product.
        activation: Activation of a dense layer and norm before the product, a key of `ACTIVATIONS`; "" without them.
        bias: Whether that dense layer has a bias.
    """

    dropout: float | None = None
    activation: str = ""
    bias: bool = False


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder with a span head.

    Attributes:
        family: `model_type` of the Hugging Face config.
        hidden_size: H, width of the residual stream.
        order: For each step of the stack, the block whose weights it uses; (0, 1, 2, …) if no weights are shared.
        max_length: Longest input in tokens.
        initializer_range: Standard deviation of new weights.
        embedding: Tokens to vectors.
        attention: First half of a block.
        feed_forward: Second half of a block.
        norm: All norms.
        head: Vectors to logits.
    """

    family: str
    hidden_size: int
    order: tuple[int, ...]
    max_length: int
    initializer_range: float
    embedding: EmbeddingConfig
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    norm: NormConfig
    head: HeadConfig

    @property
    def blocks(self) -> int:
        """Return the number of blocks with weights of their own."""
        return max(self.order, default=-1) + 1

    @property
    def pad_id(self) -> int:
        """Return the token id of padding."""
        return self.embedding.pad_id

    @property
    def takes_types(self) -> bool:
        """Return whether token types are an input."""
        return self.embedding.types > 1

    def with_dropout(self, rate: float) -> EncoderConfig:
        """Return a copy with `rate` at every place that has a dropout."""
        changed: EncoderConfig = _with_dropout(self, rate)
        return changed

    def shortened(self, vocab_size: int) -> EncoderConfig:
        """Return a copy with one block and at most `vocab_size` words, to time a block."""
        words = min(self.embedding.vocab_size, vocab_size)
        pad = min(self.embedding.pad_id, words - 1)
        return dataclasses.replace(
            self, order=self.order[:1], embedding=dataclasses.replace(self.embedding, vocab_size=words, pad_id=pad)
        )


def _with_dropout(part: Any, rate: float) -> Any:
    """Return a record with the rate in all its dropouts, also in the records within it."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    changes = {name: _with_dropout(value, rate) for name, value in values.items() if dataclasses.is_dataclass(value)}
    changes |= {name: rate for name, value in values.items() if name.endswith("dropout") and value is not None}
    return dataclasses.replace(part, **changes)


def check_length(config: EncoderConfig, max_length: int) -> None:
    """Refuse features that are longer than the model's longest input.

    Raises:
        UserError: `max_length` exceeds it.
    """
    if max_length > config.max_length:
        raise UserError(
            f"features must not be longer than the model's {config.max_length} positions; received "
            f"max_length={max_length}: featurize again with --max-length {config.max_length} or less"
        )
