"""ModernBERT: rotary positions, local and global attention, gates, few biases (Warner et al. 2024)."""

from __future__ import annotations

from qa_fast.errors import UserError, shown
from qa_fast.model.config import (
    AttentionConfig,
    EmbeddingConfig,
    EncoderConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    Rotary,
)
from qa_fast.model.families.family import Family
from qa_fast.model.families.slots import Slot, linear, norm, table
from qa_fast.model.fields import MOST_BLOCKS, MOST_POSITIONS, MOST_TOKENS, Fields

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def _read(fields: Fields) -> EncoderConfig:
    layers, dropout = fields.size("num_hidden_layers", most=MOST_BLOCKS), fields.rate("attention_dropout", 0.0)
    every = fields.size("global_attn_every_n_layers", 3)
    kinds = fields.texts("layer_types") or [_LOCAL if index % every else _GLOBAL for index in range(layers)]
    if len(kinds) < layers or not set(kinds) <= {_GLOBAL, _LOCAL}:
        raise UserError(
            f"layer_types must be {_GLOBAL} or {_LOCAL} for each of {layers} layers; received {shown(kinds)} in "
            "config.json: use the config.json that belongs to the weights"
        )
    thetas = {_GLOBAL: _theta(fields, _GLOBAL, "global", 160_000.0), _LOCAL: _theta(fields, _LOCAL, "local", 10_000.0)}
    window = fields.size("local_attention", 128, least=2, most=MOST_POSITIONS) // 2
    return EncoderConfig(
        family="modernbert",
        hidden_size=fields.size("hidden_size"),
        order=tuple(range(layers)),
        max_length=fields.size("max_position_embeddings", 8192, most=MOST_POSITIONS),
        initializer_range=fields.number("initializer_range", 0.02, most=1e3),
        embedding=EmbeddingConfig(
            vocab_size=fields.size("vocab_size", most=MOST_TOKENS),
            width=fields.size("hidden_size"),
            positions=0,
            types=0,
            pad_id=fields.pad_id(0),
            dropout=fields.rate("embedding_dropout", 0.0),
        ),
        attention=AttentionConfig(
            heads=fields.size("num_attention_heads"),
            dropout=dropout,
            output_dropout=dropout,
            bias=fields.flag("attention_bias", False),
            positions=Rotary(
                thetas=tuple(thetas[kind] for kind in kinds[:layers]),
                windows=tuple(window if kind == _LOCAL else 0 for kind in kinds[:layers]),
            ),
        ),
        feed_forward=FeedForwardConfig(
            width=fields.size("intermediate_size"),
            activation=fields.text("hidden_activation", "gelu"),
            dropout=None,
            inner_dropout=fields.rate("mlp_dropout", 0.0),
            bias=fields.flag("mlp_bias", False),
            gated=True,
        ),
        norm=NormConfig(fields.positive("norm_eps", 1e-5, most=1.0), bias=fields.flag("norm_bias", False), before=True),
        head=HeadConfig(
            dropout=fields.rate("classifier_dropout", 0.0),
            activation=fields.text("classifier_activation", "gelu"),
            bias=fields.flag("classifier_bias", False),
        ),
    )


def _theta(fields: Fields, kind: str, old: str, default: float) -> float:
    """Read the base of the rotations, under the name of transformers 5 or the earlier one; else take the default."""
    parameters, scaling = fields.within("rope_parameters").within(kind), fields.within("rope_scaling").raw
    if parameters.text("rope_type", "default") != "default" or scaling:
        raise UserError(
            f"rotary positions must be of rope_type 'default'; received {shown(parameters.raw or scaling)} in "
            "config.json: choose another checkpoint"
        )
    for source, name in ((parameters, "rope_theta"), (fields, f"{old}_rope_theta")):
        if source.raw.get(name) is not None:
            return source.positive(name, default)
    return default


def _slots(config: EncoderConfig) -> list[Slot]:
    bias, dense, inner = config.norm.bias, config.attention.bias, config.feed_forward.bias
    slots = table("embeddings/words", "model.embeddings.tok_embeddings")
    slots += norm("embeddings/norm", "model.embeddings.norm", bias)
    for index in range(config.blocks):
        ours, theirs = f"block_{index}", f"model.layers.{index}"
        # Their norms belong to the half of a block that they precede, ours to the sum that they follow.
        next_norm = "model.final_norm" if index + 1 == config.blocks else f"model.layers.{index + 1}.attn_norm"
        slots += linear(f"{ours}/qkv", f"{theirs}.attn.Wqkv", bias=dense)
        slots += linear(f"{ours}/output", f"{theirs}.attn.Wo", bias=dense)
        slots += norm(f"{ours}/attention_norm", f"{theirs}.mlp_norm", bias)
        slots += linear(f"{ours}/inner", f"{theirs}.mlp.Wi", bias=inner)
        slots += linear(f"{ours}/outer", f"{theirs}.mlp.Wo", bias=inner)
        slots += norm(f"{ours}/ffn_norm", next_norm, bias)
    slots += linear("head/dense", "head.dense", bias=config.head.bias, head=True)
    slots += norm("head/norm", "head.norm", bias, head=True)
    return slots + linear("head/output", "classifier", head=True)


MODERNBERT = Family("modernbert", "ModernBERT", "ModernBertForQuestionAnswering", "model", _read, _slots)
