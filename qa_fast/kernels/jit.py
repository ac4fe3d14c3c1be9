"""Numba's `njit` with a cache of its own, which depends on every file of this package.

Numba trusts a cached kernel as long as the file that defines the kernel is unchanged. Helpers and constants of other
files are compiled into it, though. After an upgrade that changed only those, an old kernel would still be used, because
the cache is not among the files that an installer replaces. Numba also trusts damaged files, and cannot use a cache
that it cannot write.

A kernel with a signature is kept as machine code, so that Numba is imported only to compile it (see `native`).
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qa_fast.cache import cache_folder, keep, problem_in, read_entry, writable
from qa_fast.errors import UserError
from qa_fast.kernels import native
from qa_fast.kernels.signature import Signature

Function = Callable[..., Any]


def _stamp() -> bytes:
    """Return what compiled kernels are made from: all files of this package."""
    digest = hashlib.blake2b(digest_size=16)
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
    named = os.environ.get("NUMBA_CACHE_DIR")
    return Path(named, "qa-fast") if named else Path(__file__).parent / "__pycache__"


@functools.cache
def _folder_to_write() -> Path:
    first = _first_folder()
    return first if problem_in(first) is None else writable(cache_folder() / "kernels" / "all").parent


def _name_of(function: Function, key: Any) -> str:
    """Return the file of a kernel that is compiled for some types, on this processor."""
    key = repr((key, native.target(), sys.implementation.cache_tag))
    return f"{function.__module__}.{function.__qualname__}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc"


def _entries(name: str) -> Iterator[bytes]:
    """Yield the intact entries of this name."""
    with suppress(UserError):  # no folder can be written
        for folder in _folders():
            data = read_entry(folder / name, _STAMP)
            if data is not None:
                yield data


def _keep(name: str, data: bytes) -> None:
    """Keep an entry in the first folder that can be written."""
    with suppress(UserError):
        keep(_folder_to_write() / name, data, _STAMP)


class Kernel:
    """A function that Numba compiles.

    Attributes:
        compiled: How many times this process compiled it, since no cache had it.
    """

    def __init__(self, function: Function, signature: Signature | None, cache: bool, options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._cache, self._options = function, cache, options
        self.compiled = 0
        self._native = None
        if signature is not None and native.SUPPORTED:
            self._native = self._loaded(signature)
        elif signature is not None:
            self.dispatcher.compile(signature.in_numba())
            self.dispatcher.disable_compile()

    def __call__(self, *arguments: Any) -> Any:
        """Run it."""
        return (self._native or self.dispatcher)(*arguments)

    def _loaded(self, signature: Signature) -> Function:
        """Return the machine code for a signature, from the cache if it is there."""
        name = _name_of(self._function, signature)
        data = next(_entries(name), None) if self._cache else None
        if data is None:
            dispatcher = self._in_numba(no_cpython_wrapper=True, no_cfunc_wrapper=True)
            dispatcher.compile(signature.in_numba())
            (made,) = dispatcher.overloads.values()
            symbol, code = made.fndesc.llvm_func_name, made.library.serialize_using_object_code()[2][0]
            data = pickle.dumps((code, native.make_adapter(symbol, signature), symbol))
            self.compiled += 1
            if self._cache:
                _keep(name, data)
        return native.load(*pickle.loads(data), signature)

    @functools.cached_property
    def dispatcher(self) -> Any:
        """Numba's form of the function, for calls by other kernels, and with any types."""
        dispatcher = self._in_numba()
        if self._cache:
            dispatcher._cache = _cache_of(self, self._function)
        return dispatcher

    def _in_numba(self, **options: Any) -> Any:
        """Return Numba's form of the function and of the helpers that it names."""
        import numba

        made, names = self._function, self._function.__globals__
        helpers = {
            name: names[name].dispatcher for name in made.__code__.co_names if isinstance(names.get(name), Kernel)
        }
        copy = types.FunctionType(made.__code__, names | helpers, made.__name__, made.__defaults__, made.__closure__)
        copy.__module__, copy.__qualname__ = made.__module__, made.__qualname__
        return numba.njit(**self._options, **options)(copy)


def _cache_of(kernel: Kernel, function: Function) -> Any:
    """Return Numba's cache of a kernel without a signature: an entry for each signature that it is called with."""
    from numba.core.caching import FunctionCache
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps

    class _Cache(FunctionCache):
        def __init__(self) -> None:
            # Numba's own initialisation is left out: it needs a folder that it can write.
            self._py_func = function
            self._cache_path = str(_first_folder())

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            """Return the compiled kernel of a signature; None if no folder holds it as it was made."""
            target_context.refresh()
            for data in _entries(_name_of(function, self._index_key(sig, target_context.codegen()))):
                with suppress(Exception):  # made with another version of a library that it refers to
                    return CompileResult._rebuild(target_context, *pickle.loads(data))
            kernel.compiled += 1
            return None

        def save_overload(self, sig: Any, data: Any) -> None:
            """Keep the compiled kernel of a signature."""
            if not data.library.has_dynamic_globals:  # addresses in this process
                _keep(_name_of(function, self._index_key(sig, data.codegen)), dumps(data._reduce()))

    return _Cache()


def njit(what: Function | Sequence[Signature] | None = None, *, cache: bool = False, **options: Any) -> Any:
    """Compile a function as `numba.njit` does.

    Args:
        what: A signature, in a list: the function is compiled for it, or loaded from the cache, at once, and calls with
            other types are refused. Such a kernel must not allocate: it is compiled without reference counts, which
            would be updated in its inner loops, once for each array of a record. Without a signature the function is
            compiled for the types that it is called with. A function, if this decorates without arguments.
        cache: Keep the compiled kernel until a file of this package changes.
        options: Options of `numba.njit`.
    """
    if callable(what):
        return Kernel(what, None, cache, options)
    (signature,) = what or (None,)
    if signature is not None:
        options = {"_nrt": False} | options
    return lambda function: Kernel(function, signature, cache, options)
