"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's blocks, positions that begin behind the padding id (Liu et al. 2019)."""

from __future__ import annotations

import dataclasses

from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.bert import bert_slots, read_bert
from qa_fast.model.families.family import Family, Raw


def behind_padding(config: EncoderConfig, pad_id: int) -> EncoderConfig:
    """The same with positions from `pad_id` + 1 on, padding at row `pad_id`: fairseq's way of counting."""
    embedding = dataclasses.replace(
        config.embedding, pad_id=pad_id, position_offset=pad_id + 1, padding_position=pad_id
    )
    return dataclasses.replace(config, embedding=embedding, max_length=config.embedding.positions - pad_id - 1)


def _read(raw: Raw) -> EncoderConfig:
    pad_id = raw.get("pad_token_id")
    config = read_bert({**raw, "embedding_size": raw["hidden_size"]})
    return behind_padding(config, 1 if pad_id is None else pad_id)


def _family(model_type: str, name: str, architecture: str) -> Family:
    return Family(model_type, name, architecture, "roberta", _read, lambda config: bert_slots("roberta", config))


ROBERTA = _family("roberta", "RoBERTa", "RobertaForQuestionAnswering")
XLM_ROBERTA = _family("xlm-roberta", "XLM-RoBERTa", "XLMRobertaForQuestionAnswering")
CAMEMBERT = _family("camembert", "CamemBERT", "CamembertForQuestionAnswering")
