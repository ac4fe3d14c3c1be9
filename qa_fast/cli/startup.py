"""Makes short commands start and end quickly, and limits their memory."""

from __future__ import annotations

import atexit
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from typing import NoReturn

from qa_fast.errors import UserError, shown

_SHORT = ("featurize", "show", "answer")
# The number of M_ARENA_MAX in glibc's malloc.h.
_M_ARENA_MAX = -8
# With less the libraries cannot be loaded, which some of them report by ending the process.
_LEAST_ADDRESS_SPACE = 1 << 30


def is_short(arguments: Sequence[str]) -> bool:
    """Tell whether a command line runs a short command, and not on Ray, which imports pandas itself."""
    on_ray = any(argument.removeprefix("--engine=").split(":")[0] == "ray" for argument in arguments)
    return bool(arguments) and arguments[0] in _SHORT and not on_ray


def start_quickly() -> None:
    """Skip imports that a short command does not need, and use a smaller memory pool.

    Arrow imports pandas to recognise its arrays, in 0.2 s, and Numba imports scipy.linalg to find BLAS, in 0.1 s. Both
    work without these packages. The system's memory pool is as fast as Arrow's own here, and takes 50 MB less. Starting
    the threads of OpenBLAS takes half of NumPy's import; these commands compute no large products with NumPy.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    sys.meta_path.insert(0, _Hidden())


class _Hidden(MetaPathFinder):
    """Lets imports fail as if the modules were not installed. Cython does not accept None in `sys.modules` for that."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("pandas", "scipy.linalg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def settle_process() -> None:
    """Check the environment of a command, and let its output escape what the terminal or pipe cannot encode.

    Raises:
        UserError: A setting of the environment cannot work.
    """
    if sys.stderr is None:  # it is closed: print would take standard output in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and int(columns)):  # rich would print nothing in no columns
        os.environ.pop("COLUMNS", None)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise UserError(
            f"kernels must be compiled; the environment variable NUMBA_DISABLE_JIT is "
            f"{shown(os.environ['NUMBA_DISABLE_JIT'])}: unset it"
        )
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (threads.isdecimal() and int(threads)):
        raise UserError(f"NUMBA_NUM_THREADS must be a whole number from 1 on; received {shown(threads)}: unset it")
    with suppress(ImportError):  # Windows has no such limit
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE:
            raise UserError(
                f"the address space must be at least {_LEAST_ADDRESS_SPACE >> 20} MiB; the limit is {limit >> 20} MiB: "
                "raise it with `ulimit -v`"
            )


def few_arenas(threads: int) -> None:
    """Limit the number of arenas in which the C library keeps freed memory.

    Tables are allocated by one thread and freed by another, so with an arena for each thread the memory that is kept
    grows with the source, by 100 MB for a million questions. Only glibc has this setting; elsewhere nothing is done.
    """
    with suppress(OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(2, threads // 4))


def leave(code: int, exit_functions: bool = False) -> NoReturn:
    """Flush the outputs and end the process at once.

    Freeing a hundred thousand objects takes 0.1 s, and while Python ends, a signal kills it without a word.

    Args:
        code: The exit code.
        exit_functions: Call what libraries registered for the end first.
    """
    if exit_functions:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # missing or closed
            stream.flush()
    os._exit(code)
