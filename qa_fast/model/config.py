"""What an encoder is made of, read from a Hugging Face `config.json`.

Every family is told apart here and in `checkpoint.py`'s table of weight names, and nowhere else: the layers read
`EncoderConfig` alone. A family joins by one reader below and one table there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qa_fast.errors import UserError

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and rules of one encoder with a span head.

    Attributes:
        family: `model_type` of the Hugging Face config.
        vocab_size: Rows of the word embedding.
        hidden_size: H, width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads; H is a multiple of it.
        intermediate_size: Width of the feed-forward part.
        activation: "gelu" (exact, by erf), "gelu_tanh" or "relu".
        norm_epsilon: Added to the variance in layer normalisation.
        max_positions: Rows of the position embedding: the longest input in tokens.
        type_vocab_size: Rows of the token type embedding; 0 where the family has none.
        hidden_dropout: Rate after the embeddings and each block's two parts.
        attention_dropout: Rate on the attention probabilities.
        head_dropout: Rate before the span head.
        initializer_range: Standard deviation of freshly made weights.
        pad_id: Token id behind an input's end.
    """

    family: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    activation: str
    norm_epsilon: float
    max_positions: int
    type_vocab_size: int
    hidden_dropout: float
    attention_dropout: float
    head_dropout: float
    initializer_range: float
    pad_id: int


def _bert(raw: Mapping[str, Any]) -> EncoderConfig:
    return EncoderConfig(
        family="bert",
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=raw["num_attention_heads"],
        intermediate_size=raw["intermediate_size"],
        activation=raw.get("hidden_act", "gelu"),
        norm_epsilon=raw.get("layer_norm_eps", 1e-12),
        max_positions=raw.get("max_position_embeddings", 512),
        type_vocab_size=raw.get("type_vocab_size", 2),
        hidden_dropout=raw.get("hidden_dropout_prob", 0.1),
        attention_dropout=raw.get("attention_probs_dropout_prob", 0.1),
        head_dropout=0.0,
        initializer_range=raw.get("initializer_range", 0.02),
        pad_id=raw.get("pad_token_id") or 0,
    )


def _distilbert(raw: Mapping[str, Any]) -> EncoderConfig:
    return EncoderConfig(
        family="distilbert",
        vocab_size=raw["vocab_size"],
        hidden_size=raw["dim"],
        layers=raw["n_layers"],
        heads=raw["n_heads"],
        intermediate_size=raw["hidden_dim"],
        activation=raw.get("activation", "gelu"),
        norm_epsilon=1e-12,  # fixed in transformers' DistilBERT
        max_positions=raw.get("max_position_embeddings", 512),
        type_vocab_size=0,
        hidden_dropout=raw.get("dropout", 0.1),
        attention_dropout=raw.get("attention_dropout", 0.1),
        head_dropout=raw.get("qa_dropout", 0.1),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_id=raw.get("pad_token_id") or 0,
    )


FAMILIES: dict[str, Callable[[Mapping[str, Any]], EncoderConfig]] = {"bert": _bert, "distilbert": _distilbert}


def read_encoder_config(raw: Mapping[str, Any]) -> EncoderConfig:
    """Read a parsed `config.json`.

    Args:
        raw: The JSON object.

    Returns:
        The encoder's sizes and rules.

    Raises:
        UserError: The family is not supported, a size is missing, or the config asks for something the layers do
            not do (another activation, relative positions).
    """
    family = raw.get("model_type")
    if family not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES))
        raise UserError(
            f"model_type must be one of {supported}; received {family!r} in config.json: choose a checkpoint of "
            "one of these families"
        )
    try:
        config = FAMILIES[family](raw)
    except KeyError as missing:
        raise UserError(
            f"config.json of a {family} model must hold {missing}; it does not: use the config.json that belongs "
            "to the weights"
        ) from None
    if config.activation not in ACTIVATIONS:
        raise UserError(
            f"the activation must be one of {', '.join(ACTIVATIONS)}; received {config.activation!r} in config.json: "
            "choose another checkpoint"
        )
    positions = raw.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(
            f"position_embedding_type must be 'absolute'; received {positions!r} in config.json: choose another "
            "checkpoint"
        )
    if config.hidden_size % config.heads:
        raise UserError(
            f"the hidden size must be a multiple of the number of heads; received {config.hidden_size} and "
            f"{config.heads} in config.json: use the config.json that belongs to the weights"
        )
    return config


def check_length(config: EncoderConfig, max_length: int) -> None:
    """Refuse features longer than the position embedding.

    Raises:
        UserError: `max_length` exceeds the model's positions.
    """
    if max_length > config.max_positions:
        raise UserError(
            f"features must not be longer than the model's {config.max_positions} positions; received "
            f"max_length={max_length}: featurize again with --max-length {config.max_positions} or less"
        )
