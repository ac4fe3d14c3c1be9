"""DeBERTa-v2 and v3: attention between content and distances instead of positions (He et al. 2021, 2023)."""

from __future__ import annotations

import dataclasses

from qa_fast.errors import UserError
from qa_fast.model.config import Disentangled, EncoderConfig
from qa_fast.model.families.bert import bert_blocks, bert_embeddings, read_bert
from qa_fast.model.families.family import Family
from qa_fast.model.families.slots import Slot, linear, norm, span_head, table
from qa_fast.model.fields import MOST_POSITIONS, Fields


def _read(fields: Fields) -> EncoderConfig:
    # Defaults that differ from BERT's.
    config = read_bert(fields.under(type_vocab_size=0, layer_norm_eps=1e-7))
    kernel = fields.size("conv_kernel_size", 0, least=0)
    if kernel or config.embedding.projected:
        raise UserError(
            "a deberta-v2 model must have no convolution and no narrower embeddings; config.json asks for "
            f"conv_kernel_size={kernel}, embedding_size={config.embedding.width}: choose a "
            "checkpoint of DeBERTa-v3"
        )
    if not fields.flag("relative_attention", False):
        raise UserError(
            "a deberta-v2 model must have relative_attention, as every published one does; config.json switches it "
            "off: choose another checkpoint"
        )
    if not fields.flag("position_biased_input", True):
        config = dataclasses.replace(config, embedding=dataclasses.replace(config.embedding, positions=0))
    embedding = dataclasses.replace(config.embedding, masked=True)
    kinds = {kind.strip().lower() for kind in fields.texts("pos_att_type", separator="|")}
    furthest = fields.size("max_relative_positions", -1, least=-1, most=MOST_POSITIONS)
    furthest = furthest if furthest > 0 else config.max_length
    buckets = max(0, fields.size("position_buckets", -1, least=-1, most=MOST_POSITIONS))
    if buckets and not 1 <= buckets // 2 < furthest - 1:
        raise UserError(
            f"position_buckets must be fewer than twice the positions, {furthest}; received {buckets} in config.json: "
            "use the config.json that belongs to the weights"
        )
    positions = Disentangled(
        buckets=buckets,
        furthest=furthest,
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        shared=fields.flag("share_att_key", False),
        normalized="layer_norm" in fields.text("norm_rel_ebd", "none").lower(),
        dropout=config.embedding.dropout,
    )
    attention = dataclasses.replace(config.attention, positions=positions)
    return dataclasses.replace(config, embedding=embedding, attention=attention)


def _slots(config: EncoderConfig) -> list[Slot]:
    slots = bert_embeddings(config, "deberta.embeddings")
    positions = config.attention.positions
    assert isinstance(positions, Disentangled)
    slots += table("relative/distances", "deberta.encoder.rel_embeddings")
    if positions.normalized:
        slots += norm("relative/norm", "deberta.encoder.LayerNorm")
    slots += bert_blocks(config, "deberta.encoder.layer", ("query_proj", "key_proj", "value_proj"))
    for index in range(0 if positions.shared else config.blocks):
        theirs = f"deberta.encoder.layer.{index}.attention.self"
        if positions.content_to_position:
            slots += linear(f"block_{index}/distance_key", f"{theirs}.pos_key_proj")
        if positions.position_to_content:
            slots += linear(f"block_{index}/distance_query", f"{theirs}.pos_query_proj")
    return slots + span_head()


DEBERTA = Family("deberta-v2", "DeBERTa-v2/v3", "DebertaV2ForQuestionAnswering", "deberta", _read, _slots)
