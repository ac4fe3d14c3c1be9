"""ELECTRA: BERT's blocks after embeddings that may be narrower and projected (Clark et al. 2020)."""

from __future__ import annotations

from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.bert import bert_slots, read_bert
from qa_fast.model.families.family import Family
from qa_fast.model.fields import Fields


def _read(fields: Fields) -> EncoderConfig:
    return read_bert(fields.under(embedding_size=128))


ELECTRA = Family(
    model_type="electra",
    name="ELECTRA",
    architecture="ElectraForQuestionAnswering",
    prefix="electra",
    read=_read,
    slots=lambda config: bert_slots("electra", config),
)
