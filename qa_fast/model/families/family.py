"""A family: how its config.json is read, where its weights are in a file, and its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qa_fast.model.config import EncoderConfig
from qa_fast.model.families.slots import Slot
from qa_fast.model.fields import Fields


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face.

    Attributes:
        model_type: The value in config.json.
        name: The name for people.
        architecture: The class of transformers for question answering.
        prefix: First part of the names of the encoder's weights in that class; a file of the bare encoder lacks it.
        read: Reads config.json; raises KeyError for a missing field and UserError for an invalid one.
        slots: Returns all weights in the model's order, under the names of `architecture`.
    """

    model_type: str
    name: str
    architecture: str
    prefix: str
    read: Callable[[Fields], EncoderConfig]
    slots: Callable[[EncoderConfig], list[Slot]]
