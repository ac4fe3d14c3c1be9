"""What every engine offers, and what it yields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qa_fast.schema import Features, Int32s

Floats = npt.NDArray[np.float32]

ENGINES = ("auto", "keras", "openvino", "onnx")
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class Prediction:
    """Logits of one batch.

    Attributes:
        rows: int32[B], feature rows over all chunks.
        start_logits: float32[B, L]; positions at and beyond a row's length mean nothing.
        end_logits: float32[B, L].
        lengths: int32[B].
    """

    rows: Int32s
    start_logits: Floats
    end_logits: Floats
    lengths: Int32s


class Engine(Protocol):
    """Computes logits of features with one model.

    Attributes:
        name: One of `ENGINES`, but "auto".
        precision: Of its products, one of `PRECISIONS`, but "auto".
        at_once: Calls of `predict` that may run at a time and gain from it. 1 means that many features should come in
            one call.
    """

    name: str
    precision: str
    at_once: int

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Logits of every feature, each once, in any order.

        Args:
            chunks: Features; rows are counted over all of them.

        Raises:
            UserError: A feature is longer than the model's positions.
        """

    def warm_up(self) -> None:
        """Do once what the first windows would wait for."""
