"""ALBERT: narrow embeddings, and few blocks that run several times each (Lan et al. 2020)."""

from __future__ import annotations

import dataclasses

from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.bert import bert_embeddings, read_bert
from qa_fast.model.families.family import Family
from qa_fast.model.families.slots import Slot, blocks, linear, span_head
from qa_fast.model.fields import MOST_BLOCKS, Fields


def _read(fields: Fields) -> EncoderConfig:
    # Defaults that differ from BERT's.
    defaults = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = read_bert(fields.under(embedding_size=128, **defaults))
    layers = len(config.order)
    groups = fields.size("num_hidden_groups", 1, most=layers)
    inner = fields.size("inner_group_num", 1, most=MOST_BLOCKS)
    if inner != 1:
        raise UserError(
            f"inner_group_num must be 1, as in every published ALBERT; received {inner!r} in config.json: choose "
            "another checkpoint"
        )
    # The rule of transformers, which also applies if the groups do not divide the layers.
    order = [int(step / (layers / groups)) for step in range(layers)]
    return dataclasses.replace(
        config,
        order=tuple(order),
        embedding=dataclasses.replace(config.embedding, projected=True),
        feed_forward=dataclasses.replace(config.feed_forward, dropout=None),
    )


def _slots(config: EncoderConfig) -> list[Slot]:
    slots = bert_embeddings(config, "albert.embeddings")
    slots += linear("embeddings/projection", "albert.encoder.embedding_hidden_mapping_in")
    slots += blocks(
        config.blocks,
        "albert.encoder.albert_layer_groups.{}.albert_layers.0",
        qkv=("attention.query", "attention.key", "attention.value"),
        output="attention.dense",
        attention_norm="attention.LayerNorm",
        inner="ffn",
        outer="ffn_output",
        ffn_norm="full_layer_layer_norm",
    )
    return slots + span_head()


ALBERT = Family("albert", "ALBERT", "AlbertForQuestionAnswering", "albert", _read, _slots)
