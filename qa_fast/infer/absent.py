"""Stand-ins for packages that a library imports and this process never calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """Has every attribute that is asked for, each as empty as itself; calling one is an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self.__name__}.{name}")


class _Finder:
    """Finds stand-ins for some packages and all that is in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(f"{name}." for name in names)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        absent = f"{name}.".startswith(self._names)
        return ModuleSpec(name, self, is_package=True) if absent else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def stand_in_for(*names: str) -> None:
    """Let every later import of some packages in this process give stand-ins, be they installed or not."""
    sys.meta_path.insert(0, _Finder(names))
