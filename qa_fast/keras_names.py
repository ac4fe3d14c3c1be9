"""Registers `SpanModel` with Keras, so that `keras.saving.load_model` works after `import qa_fast` alone.

Keras finds a class by its registered name. Registering needs Keras, which `import qa_fast` must not load. So a small
class that loads `SpanModel` on demand is registered: at once if Keras is loaded, or else right after Keras is imported.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "qa_fast>SpanModel"


class _LazySpanModel:
    """Offers the method that Keras calls when it reads a file."""

    @staticmethod
    def from_config(config: dict[str, Any], custom_objects: Any = None) -> Any:
        from qa_fast.keras_model.span_model import SpanModel

        return SpanModel.from_config(config, custom_objects)


class _RegisteringLoader(Loader):
    """Loads Keras with its own loader, then registers the class."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `Loader`."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """See `Loader`."""
        self._loader.exec_module(module)
        _register(module)


class _KerasFinder:
    """Finds Keras as Python itself does, and registers the class when Keras is loaded."""

    @staticmethod
    def find_spec(name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "keras" else None
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def _register(keras: Any) -> None:
    keras.saving.get_custom_objects().setdefault(NAME, _LazySpanModel)


def settle_keras() -> None:
    """Register the class now, or when Keras is imported."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "saving"):
        _register(keras)
    else:
        sys.meta_path.insert(0, _KerasFinder)
