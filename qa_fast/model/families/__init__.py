"""The families of encoders: one file each, and the table of all families.

These files hold everything that differs between families. To add a family, write its file and list it here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qa_fast.errors import UserError, shown
from qa_fast.model.config import ACTIVATIONS, EncoderConfig, Rotary
from qa_fast.model.families.albert import ALBERT
from qa_fast.model.families.bert import BERT
from qa_fast.model.families.deberta import DEBERTA
from qa_fast.model.families.distilbert import DISTILBERT
from qa_fast.model.families.electra import ELECTRA
from qa_fast.model.families.family import Family
from qa_fast.model.families.modernbert import MODERNBERT
from qa_fast.model.families.mpnet import MPNET
from qa_fast.model.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from qa_fast.model.families.slots import Slot
from qa_fast.model.fields import Fields

__all__ = ["FAMILIES", "Family", "Slot", "family_of", "read_encoder_config", "with_model_type"]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        BERT,
        DISTILBERT,
        ROBERTA,
        XLM_ROBERTA,
        CAMEMBERT,
        ELECTRA,
        ALBERT,
        MPNET,
        DEBERTA,
        MODERNBERT,
    )
}


def with_model_type(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a parsed `config.json` with the `model_type` of its weights.

    Files of 2019 have no model_type, but name the class that wrote them. Some ModernBERT checkpoints say
    "bert" and have a setting that BERT lacks. A wrong guess is noticed by the weights' names.
    """
    if raw.get("model_type") == BERT.model_type and "global_attn_every_n_layers" in raw:
        return {**raw, "model_type": MODERNBERT.model_type}
    architectures = raw.get("architectures")
    if raw.get("model_type") is None and isinstance(architectures, list) and architectures:
        for family in FAMILIES.values():
            stem = family.architecture.removesuffix("ForQuestionAnswering")
            if re.fullmatch(rf"{stem}(For\w+|Model)", str(architectures[0])):
                return {**raw, "model_type": family.model_type}
    return raw


def family_of(model_type: Any) -> Family:
    """Return the family of a `model_type`.

    Raises:
        UserError: The family is not supported; the message lists those that are.
    """
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise UserError(
        f"model_type must be one of {', '.join(sorted(FAMILIES))}; received {shown(model_type)} in config.json: choose "
        "a checkpoint of one of these families (qa-fast models lists some)"
    )


def read_encoder_config(raw: Mapping[str, Any]) -> EncoderConfig:
    """Read a parsed `config.json`.

    Raises:
        UserError: The family is not supported, a field is missing, of another type or out of range, or the config
            asks for something that the layers do not support (another activation, relative positions).
    """
    raw = with_model_type(raw)
    family = family_of(raw.get("model_type"))
    try:
        config = family.read(Fields(raw))
    except KeyError as missing:
        raise UserError(
            f"config.json of a {family.model_type} model must hold {missing}; it does not: use the config.json that "
            "belongs to the weights"
        ) from None
    for activation in (config.feed_forward.activation, config.head.activation or "gelu"):
        if activation not in ACTIVATIONS:
            raise UserError(
                f"the activation must be one of {', '.join(ACTIVATIONS)}; received {shown(activation)} in config.json: "
                "choose another checkpoint"
            )
    positions = Fields(raw).text("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(
            f"position_embedding_type must be 'absolute'; received {shown(positions)} in config.json: choose another "
            "checkpoint"
        )
    if config.hidden_size % config.attention.heads:
        raise UserError(
            f"the hidden size must be a multiple of the number of heads; received {config.hidden_size} and "
            f"{config.attention.heads} in config.json: use the config.json that belongs to the weights"
        )
    if isinstance(config.attention.positions, Rotary) and config.hidden_size // config.attention.heads % 2:
        raise UserError(
            "rotary positions need an even number of columns in each head; received "
            f"{config.hidden_size // config.attention.heads} in config.json: use the config.json that belongs to the "
            "weights"
        )
    if config.max_length < 1 or config.pad_id >= config.embedding.vocab_size:
        raise UserError(
            f"positions and words must reach beyond the padding token; received pad_token_id={config.pad_id}, "
            f"vocab_size={config.embedding.vocab_size}, {config.embedding.positions} positions in config.json: use the "
            "config.json that belongs to the weights"
        )
    return config
