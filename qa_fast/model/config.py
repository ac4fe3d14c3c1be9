"""What an encoder is made of, part by part; a family's file (`families/`) reads it from a Hugging Face `config.json`.

The layers read these records and know no family. Each record is one part: how tokens become vectors, what attention
knows of positions, the feed-forward part, the norms, the head. A dropout rate of None says that a family has no dropout
at that place, as against one of 0, which `--dropout` may replace.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from qa_fast.errors import UserError

# Names in config.json, and what is computed.
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
    """How a token becomes a vector.

    Attributes:
        vocab_size: Rows of the word embedding.
        width: W of all embeddings; where it is not H, or `projected`, a product with [W, H] follows the norm.
        positions: Rows of the position embedding; 0 where there is none.
        position_offset: Row of the first token; rows before it are no token's.
        padding_position: Row that padding stands at, -1 where padding counts on like other tokens.
        types: Rows of the token type embedding; with 1 every token has type 0, with 0 there is none.
        pad_id: Token id behind an input's end; its embedding gets no gradient.
        dropout: Rate behind the norm.
        projected: Whether the product with [W, H] is there.
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
    """Positions as rotations of queries and keys, and how far each block looks.

    Attributes:
        thetas: Base of the wave lengths, one a block.
        windows: Tokens that a block looks to either side, one a block; 0 is all.
    """

    thetas: tuple[float, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True)
class BucketBias:
    """A learnt bias for each head and bucket of distances, the same in every block.

    Attributes:
        buckets: How many; half of them for each direction.
        furthest: Distance from which on all share the last bucket.
    """

    buckets: int
    furthest: int


@dataclass(frozen=True)
class Disentangled:
    """Queries also meet vectors of distances, and keys too: DeBERTa's attention.

    Attributes:
        buckets: Of distances in one direction, exact up to half of it, then logarithmic; 0: each distance is its own.
        furthest: Distance of the last bucket.
        content_to_position: Whether queries meet distances.
        position_to_content: Whether keys meet distances.
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
        """Vectors of distances in one direction."""
        return self.buckets or self.furthest


@dataclass(frozen=True)
class AttentionConfig:
    """Self-attention.

    Attributes:
        heads: H is a multiple of it.
        dropout: Rate on the probabilities.
        output_dropout: Rate behind the output product.
        bias: Whether its products have biases.
        positions: What it knows of positions beyond the embeddings.
    """

    heads: int
    dropout: float | None
    output_dropout: float | None
    bias: bool = True
    positions: Rotary | BucketBias | Disentangled | None = None


@dataclass(frozen=True)
class FeedForwardConfig:
    """The part behind attention.

    Attributes:
        width: Of its inner vectors.
        activation: A key of `ACTIVATIONS`.
        dropout: Rate behind the outer product.
        inner_dropout: Rate on the inner vectors.
        bias: Whether its products have biases.
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
        bias: Whether norms have one.
        before: Norms stand before each part and behind the last block, not behind each sum.
    """

    epsilon: float
    bias: bool = True
    before: bool = False


@dataclass(frozen=True)
class HeadConfig:
    """The span head: a product with [H, 2].

    Attributes:
        dropout: Rate before that product.
        activation: Of a dense layer and norm before it, a key of `ACTIVATIONS`; "" where there is none.
        bias: Whether that dense layer has one.
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
        order: Which block's weights each step of the stack uses; (0, 1, 2, …) where no weights are shared.
        max_length: Longest input in tokens.
        initializer_range: Standard deviation of freshly made weights.
        embedding: Tokens to vectors.
        attention: First part of a block.
        feed_forward: Second part of a block.
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
        """Blocks with weights of their own."""
        return max(self.order, default=-1) + 1

    @property
    def pad_id(self) -> int:
        """Token id behind an input's end."""
        return self.embedding.pad_id

    @property
    def takes_types(self) -> bool:
        """Whether token types are an input."""
        return self.embedding.types > 1

    def with_dropout(self, rate: float) -> EncoderConfig:
        """The same with `rate` at every place that has a dropout."""
        changed: EncoderConfig = _with_dropout(self, rate)
        return changed

    def shortened(self, vocab_size: int) -> EncoderConfig:
        """The same with one block and at most `vocab_size` words, to time a block."""
        words = min(self.embedding.vocab_size, vocab_size)
        pad = min(self.embedding.pad_id, words - 1)
        return dataclasses.replace(
            self, order=self.order[:1], embedding=dataclasses.replace(self.embedding, vocab_size=words, pad_id=pad)
        )


def _with_dropout(part: Any, rate: float) -> Any:
    """A record with the rate in all its dropouts and those of the records in it."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    changes = {name: _with_dropout(value, rate) for name, value in values.items() if dataclasses.is_dataclass(value)}
    changes |= {name: rate for name, value in values.items() if name.endswith("dropout") and value is not None}
    return dataclasses.replace(part, **changes)


def check_length(config: EncoderConfig, max_length: int) -> None:
    """Refuse features longer than the model can take.

    Raises:
        UserError: `max_length` exceeds the model's longest input.
    """
    if max_length > config.max_length:
        raise UserError(
            f"features must not be longer than the model's {config.max_length} positions; received "
            f"max_length={max_length}: featurize again with --max-length {config.max_length} or less"
        )
