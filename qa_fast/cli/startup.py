"""A quick start and a quick end for a short command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import NoReturn

# Of glibc's mallopt.
_M_ARENA_MAX = -8


class _Absent(MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let the import of some modules fail within, with the error of one that is not installed.

    For what libraries import only because it is there: pandas takes 0.12 s, which Arrow imports to ask whether a numpy
    array is one of its own; scipy.linalg takes 0.13 s, in which Numba looks for BLAS, which no kernel here uses.
    """
    finder = _Absent(set(names))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def few_arenas(threads: int) -> None:
    """Have the C library keep freed memory in a few places for all threads, and not in one for each.

    Tables are allocated by one thread and freed by another; with an arena a thread, what each holds free grows with the
    source, 100 MB a million questions. glibc alone has this; elsewhere nothing is done.
    """
    with suppress(OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(2, threads // 4))


def leave(code: int) -> NoReturn:
    """End the process at once, outputs flushed: taking a hundred thousand objects down one by one takes 0.1 s."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # none, or closed
            stream.flush()
    os._exit(code)
