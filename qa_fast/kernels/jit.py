"""Numba's `njit` with a cache that depends on every file of this package.

Numba trusts a cached kernel as long as the file that defines the kernel is unchanged. Helpers and constants of other
files are compiled into it, though. After an upgrade that changed only those, an old kernel would still be used, because
the cache is not among the files that an installer replaces.
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
    """Return a hash of all files of this package."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_STAMP = _stamp()


class _Cache(FunctionCache):
    """Numba's cache of one kernel."""

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _STAMP
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)


def njit(what: Function | Sequence[Any] | None = None, *, cache: bool = False, **options: Any) -> Any:
    """Compile a function as `numba.njit` does.

    Args:
        what: Signatures, which are compiled, or loaded from the cache, at once; calls with other types are refused.
            Such a kernel must not allocate: it is compiled without reference counts, which would be updated in its
            inner loops, once for each array of a record. Without signatures the function is compiled for the types that
            it is called with. A function, if this decorates without arguments.
        cache: Keep the compiled kernel until a file of this package changes.
        options: Options of `numba.njit`.
    """
    signatures = [] if what is None or callable(what) else what
    if signatures:
        options = {"_nrt": False} | options

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
