"""Exports a trained model to other formats."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa_fast.export.formats import FORMATS
    from qa_fast.export.onnx_files import WEB_FILES
    from qa_fast.export.write import Exported, export_model

__all__ = ["FORMATS", "FORMAT_NAMES", "WEB_FILES", "Exported", "export_model"]

# The keys of `FORMATS`, which needs Keras.
FORMAT_NAMES = ("keras", "saved-model", "onnx", "web")
_MODULES = {"FORMATS": "formats", "WEB_FILES": "onnx_files", "Exported": "write", "export_model": "write"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'qa_fast.export' has no attribute {name!r}")
    return getattr(import_module(f"qa_fast.export.{_MODULES[name]}"), name)
