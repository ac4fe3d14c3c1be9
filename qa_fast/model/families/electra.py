"""ELECTRA: BERT's blocks behind embeddings that may be narrower, then projected (Clark et al. 2020)."""

from __future__ import annotations

from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.bert import bert_slots, read_bert
from qa_fast.model.families.family import Family, Raw


def _read(raw: Raw) -> EncoderConfig:
    return read_bert({"embedding_size": 128, **raw})


ELECTRA = Family(
    model_type="electra",
    name="ELECTRA",
    architecture="ElectraForQuestionAnswering",
    prefix="electra",
    read=_read,
    slots=lambda config: bert_slots("electra", config),
)
