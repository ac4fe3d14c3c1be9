"""qa-fast: extractive question answering, from raw text to a served model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qa_fast.backend import settle_tensorflow
from qa_fast.errors import UserError
from qa_fast.keras_names import settle_keras
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.answer import Answerer
    from qa_fast.build import build_shards
    from qa_fast.keras_model.span_model import SpanModel
    from qa_fast.keras_model.squad_metrics import SquadMetrics
    from qa_fast.shards import open_shards

__all__ = ["Answerer", "SpanModel", "SquadMetrics", "UserError", "__version__", "build_shards", "open_shards"]

settle_tensorflow()
settle_keras()

# Name -> module, imported when it is first asked for: importing the package stays cheap.
_LAZY = {
    "Answerer": "qa_fast.answer",
    "SpanModel": "qa_fast.keras_model.span_model",
    "SquadMetrics": "qa_fast.keras_model.squad_metrics",
    "build_shards": "qa_fast.build",
    "open_shards": "qa_fast.shards",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qa_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
