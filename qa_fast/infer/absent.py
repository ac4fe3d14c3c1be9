"""Stand-ins for packages that a library imports but that this process does not call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """A module that has every attribute; each is an empty module, too, and cannot be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self.__name__}.{name}")


class _Finder:
    """Finds stand-ins for some packages and their modules."""

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
    """Make every later import of these packages in this process return stand-ins, whether they are installed or not."""
    sys.meta_path.insert(0, _Finder(names))
