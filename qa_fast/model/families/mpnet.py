"""MPNet: BERT's blocks with a bias for each bucket of distances, and RoBERTa's positions (Song et al. 2020)."""

from __future__ import annotations

import dataclasses

from qa_fast.errors import UserError
from qa_fast.model.config import BucketBias, EncoderConfig
from qa_fast.model.families.bert import bert_embeddings, read_bert, unprojected
from qa_fast.model.families.family import Family
from qa_fast.model.families.roberta import after_padding
from qa_fast.model.families.slots import Slot, blocks, span_head, table
from qa_fast.model.fields import Fields

# transformers uses these three values whatever the config says.
_PAD_ID, _BUCKETS, _FURTHEST = 1, 32, 128


def _read(fields: Fields) -> EncoderConfig:
    config = read_bert(unprojected(fields).over(type_vocab_size=0))
    buckets = fields.size("relative_attention_num_buckets", _BUCKETS)
    if buckets != _BUCKETS:
        raise UserError(
            f"relative_attention_num_buckets must be {_BUCKETS}, the value that transformers assumes; received "
            f"{buckets} in config.json: choose another checkpoint"
        )
    bias = BucketBias(_BUCKETS, _FURTHEST)
    return after_padding(
        dataclasses.replace(config, attention=dataclasses.replace(config.attention, positions=bias)), _PAD_ID
    )


def _slots(config: EncoderConfig) -> list[Slot]:
    slots = bert_embeddings(config, "mpnet.embeddings")
    slots += table("relative/distances", "mpnet.encoder.relative_attention_bias")
    slots += blocks(
        config.blocks,
        "mpnet.encoder.layer.{}",
        qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        inner="intermediate.dense",
        outer="output.dense",
        ffn_norm="output.LayerNorm",
    )
    return slots + span_head()


MPNET = Family("mpnet", "MPNet", "MPNetForQuestionAnswering", "mpnet", _read, _slots)
