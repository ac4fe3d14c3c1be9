"""Tells Keras of our class, so that `keras.saving.load_model` finds it after `import qa_fast` alone.

Keras looks a class up by its registered name and imports no module of ours for it. Registering needs Keras, which
`import qa_fast` must not load. So what is registered, now where Keras is loaded already, else behind its import, is a
stand-in that loads the class when a file asks for it.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "qa_fast>SpanModel"


class _Deferred:
    """What Keras asks a class for when it reads a file."""

    @staticmethod
    def from_config(config: dict[str, Any], custom_objects: Any = None) -> Any:
        from qa_fast.keras_model.span_model import SpanModel

        return SpanModel.from_config(config, custom_objects)


class _Behind(Loader):
    """Loads Keras as its own loader does, then registers."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `Loader`."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """See `Loader`."""
        self._loader.exec_module(module)
        _register(module)


class _Finder:
    """Finds Keras where Python finds it, and lets us know when it is loaded."""

    @staticmethod
    def find_spec(name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "keras" else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Behind(spec.loader)
        return spec


def _register(keras: Any) -> None:
    keras.saving.get_custom_objects().setdefault(NAME, _Deferred)


def settle_keras() -> None:
    """Register now, or once Keras is imported."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "saving"):
        _register(keras)
    else:
        sys.meta_path.insert(0, _Finder)
