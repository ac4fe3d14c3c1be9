"""BERT, and with it MiniLM, BGE and others that kept its layout (Devlin et al. 2019)."""

from __future__ import annotations

from qa_fast.model.config import (
    AttentionConfig,
    EmbeddingConfig,
    EncoderConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
)
from qa_fast.model.families.family import Family, Raw
from qa_fast.model.families.slots import Slot, blocks, linear, norm, span_head, table


def read_bert(raw: Raw) -> EncoderConfig:
    """Read a config.json in BERT's words, which most families share."""
    dropout = raw.get("hidden_dropout_prob", 0.1)
    positions = raw.get("max_position_embeddings", 512)
    width = raw.get("embedding_size", raw["hidden_size"])
    return EncoderConfig(
        family=raw["model_type"],
        hidden_size=raw["hidden_size"],
        order=tuple(range(raw["num_hidden_layers"])),
        max_length=positions,
        initializer_range=raw.get("initializer_range", 0.02),
        embedding=EmbeddingConfig(
            vocab_size=raw["vocab_size"],
            width=width,
            positions=positions,
            types=raw.get("type_vocab_size", 2),
            pad_id=raw.get("pad_token_id") or 0,
            dropout=dropout,
            projected=width != raw["hidden_size"],
        ),
        attention=AttentionConfig(
            heads=raw["num_attention_heads"],
            dropout=raw.get("attention_probs_dropout_prob", 0.1),
            output_dropout=dropout,
        ),
        feed_forward=FeedForwardConfig(
            width=raw["intermediate_size"], activation=raw.get("hidden_act", "gelu"), dropout=dropout
        ),
        norm=NormConfig(raw.get("layer_norm_eps", 1e-12)),
        head=HeadConfig(),
    )


def bert_embeddings(config: EncoderConfig, base: str) -> list[Slot]:
    """The embeddings' slots under BERT's names; `base` is "bert.embeddings", say."""
    embedding = config.embedding
    slots = table("embeddings/words", f"{base}.word_embeddings")
    if embedding.positions:
        slots += table("embeddings/positions", f"{base}.position_embeddings")
    if embedding.types:
        slots += table("embeddings/types", f"{base}.token_type_embeddings")
    return slots + norm("embeddings/norm", f"{base}.LayerNorm")


def bert_blocks(config: EncoderConfig, base: str, qkv: tuple[str, str, str] = ("query", "key", "value")) -> list[Slot]:
    """The blocks' slots under BERT's names; `base` is "bert.encoder.layer", say."""
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
    """All slots under BERT's names."""
    slots = bert_embeddings(config, f"{prefix}.embeddings")
    if config.embedding.projected:
        slots += linear("embeddings/projection", f"{prefix}.embeddings_project")
    return slots + bert_blocks(config, f"{prefix}.encoder.layer") + span_head()


BERT = Family(
    model_type="bert",
    name="BERT",
    architecture="BertForQuestionAnswering",
    prefix="bert",
    read=lambda raw: read_bert({**raw, "embedding_size": raw["hidden_size"]}),
    slots=lambda config: bert_slots("bert", config),
)
