"""Numba's `njit` with a cache of its own, which depends on every file of this package.

Numba trusts a cached kernel as long as the file that defines the kernel is unchanged. Helpers and constants of other
files are compiled into it, though. After an upgrade that changed only those, an old kernel would still be used, because
the cache is not among the files that an installer replaces. Numba also trusts damaged files, and cannot use a cache
that it cannot write.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from qa_fast.cache import cache_folder, keep, problem_in, read_entry, writable
from qa_fast.errors import UserError

Function = Callable[..., Any]


def _stamp() -> bytes:
    """Return what compiled kernels are made from: all files of this package, and the compiler."""
    digest = hashlib.blake2b(f"{numba.__version__} {llvmlite.__version__}".encode(), digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


_STAMP = _stamp()


def _folders() -> Iterator[Path]:
    """Yield the folders in which compiled kernels may be, in order of preference."""
    yield _first_folder()
    yield cache_folder() / "kernels"
    yield _folder_to_write()


def _first_folder() -> Path:
    named = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    return Path(named, "qa-fast") if named else Path(__file__).parent / "__pycache__"


@functools.cache
def _folder_to_write() -> Path:
    first = _first_folder()
    return first if problem_in(first) is None else writable(cache_folder() / "kernels" / "all").parent


class _Cache(FunctionCache):
    """Numba's cache of one kernel: a file for each signature and processor."""

    def __init__(self, function: Function) -> None:
        # Numba's own initialisation is left out: it needs a folder that it can write.
        self._py_func = function
        self._cache_path = str(_first_folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled kernel of a signature; None if no folder holds it as it was made."""
        target_context.refresh()
        name = self._name_of(sig, target_context.codegen())
        with suppress(UserError):  # no folder can be written
            for folder in _folders():
                data = read_entry(folder / name, _STAMP)
                if data is not None:
                    with suppress(Exception):  # made with another version of a library that it refers to
                        return CompileResult._rebuild(target_context, *pickle.loads(data))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled kernel of a signature in the first folder that can be written."""
        if data.library.has_dynamic_globals:  # addresses in this process
            return
        with suppress(UserError):
            keep(_folder_to_write() / self._name_of(sig, data.codegen), dumps(data._reduce()), _STAMP)

    def _name_of(self, sig: Any, codegen: Any) -> str:
        """Return the file of a signature. Its hash covers the processor's name and features, as Numba reports them."""
        key = repr((self._index_key(sig, codegen), sys.implementation.cache_tag))
        function = self._py_func
        return f"{function.__module__}.{function.__qualname__}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"


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
