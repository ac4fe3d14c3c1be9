"""ModernBERT: rotary positions, near sight between far sight, gates, hardly a bias (Warner et al. 2024)."""

from __future__ import annotations

from typing import Any

from qa_fast.errors import UserError
from qa_fast.model.config import (
    AttentionConfig,
    EmbeddingConfig,
    EncoderConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    Rotary,
)
from qa_fast.model.families.family import Family, Raw
from qa_fast.model.families.slots import Slot, linear, norm, table

_FAR, _NEAR = "full_attention", "sliding_attention"


def _read(raw: Raw) -> EncoderConfig:
    layers, dropout = raw["num_hidden_layers"], raw.get("attention_dropout", 0.0)
    every = raw.get("global_attn_every_n_layers", 3)
    kinds = raw.get("layer_types") or [_NEAR if index % every else _FAR for index in range(layers)]
    thetas = {_FAR: _theta(raw, _FAR, "global", 160_000.0), _NEAR: _theta(raw, _NEAR, "local", 10_000.0)}
    near = raw.get("local_attention", 128) // 2
    return EncoderConfig(
        family="modernbert",
        hidden_size=raw["hidden_size"],
        order=tuple(range(layers)),
        max_length=raw.get("max_position_embeddings", 8192),
        initializer_range=raw.get("initializer_range", 0.02),
        embedding=EmbeddingConfig(
            vocab_size=raw["vocab_size"],
            width=raw["hidden_size"],
            positions=0,
            types=0,
            pad_id=raw.get("pad_token_id") or 0,
            dropout=raw.get("embedding_dropout", 0.0),
        ),
        attention=AttentionConfig(
            heads=raw["num_attention_heads"],
            dropout=dropout,
            output_dropout=dropout,
            bias=raw.get("attention_bias", False),
            positions=Rotary(
                thetas=tuple(thetas[kind] for kind in kinds[:layers]),
                windows=tuple(near if kind == _NEAR else 0 for kind in kinds[:layers]),
            ),
        ),
        feed_forward=FeedForwardConfig(
            width=raw["intermediate_size"],
            activation=raw.get("hidden_activation", "gelu"),
            dropout=None,
            inner_dropout=raw.get("mlp_dropout", 0.0),
            bias=raw.get("mlp_bias", False),
            gated=True,
        ),
        norm=NormConfig(raw.get("norm_eps", 1e-5), bias=raw.get("norm_bias", False), before=True),
        head=HeadConfig(
            dropout=raw.get("classifier_dropout", 0.0),
            activation=raw.get("classifier_activation", "gelu"),
            bias=raw.get("classifier_bias", False),
        ),
    )


def _theta(raw: Raw, kind: str, old: str, default: float) -> float:
    """The base of the rotations: under transformers 5's name, the one before it, or the default."""
    about: dict[str, Any] = (raw.get("rope_parameters") or {}).get(kind) or {}
    if about.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise UserError(
            f"rotary positions must be of rope_type 'default'; received {about or raw.get('rope_scaling')} in "
            "config.json: choose another checkpoint"
        )
    return float(about.get("rope_theta") or raw.get(f"{old}_rope_theta") or default)


def _slots(config: EncoderConfig) -> list[Slot]:
    bias, dense, inner = config.norm.bias, config.attention.bias, config.feed_forward.bias
    slots = table("embeddings/words", "model.embeddings.tok_embeddings")
    slots += norm("embeddings/norm", "model.embeddings.norm", bias)
    for index in range(config.blocks):
        ours, theirs = f"block_{index}", f"model.layers.{index}"
        # Norms stand before the parts there; here each belongs to the sum that feeds it.
        behind = "model.final_norm" if index + 1 == config.blocks else f"model.layers.{index + 1}.attn_norm"
        slots += linear(f"{ours}/qkv", f"{theirs}.attn.Wqkv", bias=dense)
        slots += linear(f"{ours}/output", f"{theirs}.attn.Wo", bias=dense)
        slots += norm(f"{ours}/attention_norm", f"{theirs}.mlp_norm", bias)
        slots += linear(f"{ours}/inner", f"{theirs}.mlp.Wi", bias=inner)
        slots += linear(f"{ours}/outer", f"{theirs}.mlp.Wo", bias=inner)
        slots += norm(f"{ours}/ffn_norm", behind, bias)
    slots += linear("head/dense", "head.dense", bias=config.head.bias, head=True)
    slots += norm("head/norm", "head.norm", bias, head=True)
    return slots + linear("head/output", "classifier", head=True)


MODERNBERT = Family("modernbert", "ModernBERT", "ModernBertForQuestionAnswering", "model", _read, _slots)
