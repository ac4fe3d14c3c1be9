"""Features in, logits out: the engine behind `open_engine`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast.schema import Features

if TYPE_CHECKING:
    from qa_fast.serve.shapes import FixedShapes


class KerasEngine:
    """`FixedShapes` as an `engine.Engine`."""

    name = "keras"
    at_once = 1

    def __init__(self, shapes: FixedShapes, precision: str) -> None:
        self.precision = precision
        self._shapes = shapes

    def predict(self, chunks: Sequence[Features]) -> Iterator[Any]:
        """See `engine.Engine`."""
        return self._shapes.predict(chunks)

    def warm_up(self) -> None:
        """See `engine.Engine`."""
        self._shapes.warm_up()


def open_engine(folder: str | Path, engine: str = "auto", precision: str = "auto") -> KerasEngine:
    """Load the model of a folder."""
    from qa_fast.checkpoint import load_model  # imports keras
    from qa_fast.model.precision import choose_precision
    from qa_fast.serve.shapes import FixedShapes

    chosen = choose_precision(precision).value
    return KerasEngine(FixedShapes(load_model(folder, precision=chosen)[0]), chosen)
