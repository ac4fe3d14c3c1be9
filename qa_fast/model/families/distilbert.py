"""DistilBERT: BERT in half as many blocks, without token types, under names of its own (Sanh et al. 2019)."""

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
from qa_fast.model.families.slots import Slot, blocks, norm, span_head, table


def _read(raw: Raw) -> EncoderConfig:
    dropout = raw.get("dropout", 0.1)
    positions = raw.get("max_position_embeddings", 512)
    return EncoderConfig(
        family="distilbert",
        hidden_size=raw["dim"],
        order=tuple(range(raw["n_layers"])),
        max_length=positions,
        initializer_range=raw.get("initializer_range", 0.02),
        embedding=EmbeddingConfig(
            vocab_size=raw["vocab_size"],
            width=raw["dim"],
            positions=positions,
            types=0,
            pad_id=raw.get("pad_token_id") or 0,
            dropout=dropout,
        ),
        # It has no dropout behind attention's output.
        attention=AttentionConfig(raw["n_heads"], dropout=raw.get("attention_dropout", 0.1), output_dropout=None),
        feed_forward=FeedForwardConfig(raw["hidden_dim"], raw.get("activation", "gelu"), dropout),
        norm=NormConfig(1e-12),  # fixed in transformers' DistilBERT
        head=HeadConfig(dropout=raw.get("qa_dropout", 0.1)),
    )


def _slots(config: EncoderConfig) -> list[Slot]:
    slots = table("embeddings/words", "distilbert.embeddings.word_embeddings")
    slots += table("embeddings/positions", "distilbert.embeddings.position_embeddings")
    slots += norm("embeddings/norm", "distilbert.embeddings.LayerNorm")
    slots += blocks(
        config.blocks,
        "distilbert.transformer.layer.{}",
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        output="attention.out_lin",
        attention_norm="sa_layer_norm",
        inner="ffn.lin1",
        outer="ffn.lin2",
        ffn_norm="output_layer_norm",
    )
    return slots + span_head()


DISTILBERT = Family("distilbert", "DistilBERT", "DistilBertForQuestionAnswering", "distilbert", _read, _slots)
