"""What an export is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qa_fast.infer.recipe import Rounding
from qa_fast.model.encoder import EncoderModel


@dataclass(frozen=True)
class Task:
    """A model to export, with what belongs to it.

    Attributes:
        model: The model, in float32.
        folder: Its folder.
        answering: Its options of answering, a JSON object.
        precisions: The precisions to write, "float32" or "int8".
        rounding: Which products are rounded to int8, and how their inputs are balanced first; None rounds all but the
            head as they are.
        opset: Version of ONNX's operations.
    """

    model: EncoderModel
    folder: Path
    answering: str
    precisions: tuple[str, ...]
    rounding: Rounding | None
    opset: int
