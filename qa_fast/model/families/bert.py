"""BERT, and models with its layout such as MiniLM and BGE (Devlin et al. 2019)."""

from __future__ import annotations

from qa_fast.model.config import (
    AttentionConfig,
    EmbeddingConfig,
    EncoderConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
)
from qa_fast.model.families.family import Family
from qa_fast.model.families.slots import Slot, blocks, linear, norm, span_head, table
from qa_fast.model.fields import MOST_BLOCKS, MOST_POSITIONS, MOST_TOKENS, MOST_TYPES, Fields


def unprojected(fields: Fields) -> Fields:
    """Return a copy whose embeddings are as wide as the residual stream, whatever the file says."""
    return fields.over(embedding_size=fields.size("hidden_size"))


def read_bert(fields: Fields) -> EncoderConfig:
    """Read a config.json with BERT's field names, which most families share."""
    dropout = fields.rate("hidden_dropout_prob", 0.1)
    positions = fields.size("max_position_embeddings", 512, most=MOST_POSITIONS)
    hidden = fields.size("hidden_size")
    width = fields.size("embedding_size", hidden)
    return EncoderConfig(
        family=fields.text("model_type"),
        hidden_size=hidden,
        order=tuple(range(fields.size("num_hidden_layers", most=MOST_BLOCKS))),
        max_length=positions,
        initializer_range=fields.number("initializer_range", 0.02, most=1e3),
        embedding=EmbeddingConfig(
            vocab_size=fields.size("vocab_size", most=MOST_TOKENS),
            width=width,
            positions=positions,
            types=fields.size("type_vocab_size", 2, least=0, most=MOST_TYPES),
            pad_id=fields.pad_id(0),
            dropout=dropout,
            projected=width != hidden,
        ),
        attention=AttentionConfig(
            heads=fields.size("num_attention_heads"),
            dropout=fields.rate("attention_probs_dropout_prob", 0.1),
            output_dropout=dropout,
        ),
        feed_forward=FeedForwardConfig(
            width=fields.size("intermediate_size"), activation=fields.text("hidden_act", "gelu"), dropout=dropout
        ),
        norm=NormConfig(fields.positive("layer_norm_eps", 1e-12, most=1.0)),
        head=HeadConfig(),
    )


def bert_embeddings(config: EncoderConfig, base: str) -> list[Slot]:
    """Return the embeddings' slots under BERT's names; `base` is, for example, "bert.embeddings"."""
    embedding = config.embedding
    slots = table("embeddings/words", f"{base}.word_embeddings")
    if embedding.positions:
        slots += table("embeddings/positions", f"{base}.position_embeddings")
    if embedding.types:
        slots += table("embeddings/types", f"{base}.token_type_embeddings")
    return slots + norm("embeddings/norm", f"{base}.LayerNorm")


def bert_blocks(config: EncoderConfig, base: str, qkv: tuple[str, str, str] = ("query", "key", "value")) -> list[Slot]:
    """Return the blocks' slots under BERT's names; `base` is, for example, "bert.encoder.layer"."""
    query, key, value = qkv
    return blocks(
        config.blocks,
        f"{base}.{{}}",
        qkv=(f"attention.self.{query}", f"attention.self.{key}", f"attention.self.{value}"),
        output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        inner="intermediate.dense",
        outer="output.dense",
        ffn_norm="output.LayerNorm",
    )


def bert_slots(prefix: str, config: EncoderConfig) -> list[Slot]:
    """Return all slots under BERT's names."""
    slots = bert_embeddings(config, f"{prefix}.embeddings")
    if config.embedding.projected:
        slots += linear("embeddings/projection", f"{prefix}.embeddings_project")
    return slots + bert_blocks(config, f"{prefix}.encoder.layer") + span_head()


BERT = Family(
    model_type="bert",
    name="BERT",
    architecture="BertForQuestionAnswering",
    prefix="bert",
    read=lambda fields: read_bert(unprojected(fields)),
    slots=lambda config: bert_slots("bert", config),
)
