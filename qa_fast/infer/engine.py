"""The interface of engines, and the logits that they return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qa_fast.schema import Features, Int32s

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """Logits of one batch.

    Attributes:
        rows: int32[B], feature rows over all chunks.
        start_logits: float32[B, L]; positions at and beyond a row's length have no meaning.
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
        name: One of `schema.ENGINES`, except "auto".
        precision: Precision of its products, one of `schema.ENGINE_PRECISIONS`, except "auto".
        at_once: How many simultaneous calls of `predict` make the engine faster; 1 means that one call with many
            features is best.
    """

    name: str
    precision: str
    at_once: int

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Yield the logits of every feature once, in any order.

        Args:
            chunks: Features; rows are counted over all chunks.

        Raises:
            UserError: A feature is longer than the model's longest input.
        """

    def warm_up(self) -> None:
        """Do the work that the first windows would otherwise wait for."""
