"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's blocks, positions that begin after the padding id (Liu et al. 2019)."""

from __future__ import annotations

import dataclasses

from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.bert import bert_slots, read_bert, unprojected
from qa_fast.model.families.family import Family
from qa_fast.model.fields import Fields


def after_padding(config: EncoderConfig, pad_id: int) -> EncoderConfig:
    """Return a copy with positions from `pad_id` + 1 on and padding at row `pad_id`, as in fairseq."""
    embedding = dataclasses.replace(
        config.embedding, pad_id=pad_id, position_offset=pad_id + 1, padding_position=pad_id
    )
    return dataclasses.replace(config, embedding=embedding, max_length=config.embedding.positions - pad_id - 1)


def _read(fields: Fields) -> EncoderConfig:
    return after_padding(read_bert(unprojected(fields)), fields.pad_id(1))


def _family(model_type: str, name: str, architecture: str) -> Family:
    return Family(model_type, name, architecture, "roberta", _read, lambda config: bert_slots("roberta", config))


ROBERTA = _family("roberta", "RoBERTa", "RobertaForQuestionAnswering")
XLM_ROBERTA = _family("xlm-roberta", "XLM-RoBERTa", "XLMRobertaForQuestionAnswering")
CAMEMBERT = _family("camembert", "CamemBERT", "CamembertForQuestionAnswering")
