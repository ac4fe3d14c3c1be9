"""Numba's `njit` with a cache that goes by all of this package.

Numba trusts a cached kernel as long as the file that the kernel stands in is unchanged. Helpers of other files are
compiled into it, though: after an upgrade that changed such a helper, or a constant, kernels of before would go on
being used where files are written over (Numba's cache is none of the installer's files, and stays).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

Function = Callable[..., Any]


def _stamp() -> str:
    """Of all files of this package."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


_STAMP = _stamp()


class _Cache(FunctionCache):
    """Numba's, of one kernel."""

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _STAMP
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)


def njit(what: Function | Sequence[Any] | None = None, *, cache: bool = False, **options: Any) -> Any:
    """`numba.njit`, whose documentation holds but for the cache.

    Args:
        what: Signatures, which are compiled, or taken from the cache, at once; others are refused then. Without any,
            what the function is called with is compiled when it is called. Or the function itself, where this
            decorates without arguments.
        cache: Keep what was compiled, until a file of this package changes.
        options: Numba's.
    """
    signatures = [] if what is None or callable(what) else what

    def compiled(function: Function) -> Any:
        dispatcher = numba.njit(**options)(function)
        if cache:
            dispatcher._cache = _Cache(function)
        for signature in signatures:
            dispatcher.compile(signature)
        if signatures:
            dispatcher.disable_compile()
        return dispatcher

    return compiled(what) if callable(what) else compiled
