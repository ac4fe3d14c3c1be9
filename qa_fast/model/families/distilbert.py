"""DistilBERT: BERT with half as many blocks, no token types, and its own names of weights (Sanh et al. 2019)."""

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
from qa_fast.model.families.slots import Slot, blocks, norm, span_head, table
from qa_fast.model.fields import MOST_BLOCKS, MOST_POSITIONS, MOST_TOKENS, Fields


def _read(fields: Fields) -> EncoderConfig:
    dropout = fields.rate("dropout", 0.1)
    positions = fields.size("max_position_embeddings", 512, most=MOST_POSITIONS)
    return EncoderConfig(
        family="distilbert",
        hidden_size=fields.size("dim"),
        order=tuple(range(fields.size("n_layers", most=MOST_BLOCKS))),
        max_length=positions,
        initializer_range=fields.number("initializer_range", 0.02, most=1e3),
        embedding=EmbeddingConfig(
            vocab_size=fields.size("vocab_size", most=MOST_TOKENS),
            width=fields.size("dim"),
            positions=positions,
            types=0,
            pad_id=fields.pad_id(0),
            dropout=dropout,
        ),
        # DistilBERT has no dropout after attention's output.
        attention=AttentionConfig(
            fields.size("n_heads"), dropout=fields.rate("attention_dropout", 0.1), output_dropout=None
        ),
        feed_forward=FeedForwardConfig(fields.size("hidden_dim"), fields.text("activation", "gelu"), dropout),
        norm=NormConfig(1e-12),  # fixed in transformers' DistilBERT
        head=HeadConfig(dropout=fields.rate("qa_dropout", 0.1)),
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
