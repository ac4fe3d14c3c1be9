"""What a family is: how its config.json is read, where its weights stand, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.slots import Slot
from qa_fast.model.fields import Fields


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face's.

    Attributes:
        model_type: As config.json says it.
        name: As people write it.
        architecture: transformers' class for question answering.
        prefix: What the encoder's weights begin with in that class, and lack in a file of the bare encoder.
        read: config.json to the encoder's parts; a KeyError names what is missing, a UserError what is of another
            type or out of range.
        slots: All weights in the model's order, under the names of `architecture`.
    """

    model_type: str
    name: str
    architecture: str
    prefix: str
    read: Callable[[Fields], EncoderConfig]
    slots: Callable[[EncoderConfig], list[Slot]]
