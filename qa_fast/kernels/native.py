"""Runs the machine code of kernels without Numba, which takes longer to import than a small job to run.

The code is an object file that LLVM made, and calls nothing but the C library. Its function takes the address of its
result, that of an exception, and the flattened arguments, and returns 0 unless it failed (source: `CPUCallConv` in
`numba/core/callconv.py`).
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding as llvm

from qa_fast.kernels.signature import Signature

# Settings of Numba that do not change what it compiles.
_NEUTRAL = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")


@functools.cache
def target() -> str:
    """Return what compiled code depends on besides its source: compiler, its settings, and processor."""
    spec = find_spec("numba")
    # The folder of Numba's metadata has its version in the name. `importlib.metadata` looks there too, in 10 ms.
    numba = [path.name for path in Path(spec.origin).parents[1].glob("numba-*")] if spec and spec.origin else []
    settings = sorted(pair for pair in os.environ.items() if pair[0].startswith("NUMBA_") and pair[0] not in _NEUTRAL)
    features = llvm.get_host_cpu_features().flatten()
    return repr((numba, llvmlite.__version__, settings, llvm.get_process_triple(), llvm.get_host_cpu_name(), features))


@functools.cache
def _engine() -> Any:
    """Return what makes object files ready to run, and holds them."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def load(code: bytes, name: str, signature: Signature) -> Callable[..., Any]:
    """Return a function that runs machine code. It releases the interpreter's lock.

    Args:
        code: An object file for this processor.
        name: The symbol of its function.
        signature: The types of the function.
    """
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    (c_result,) = signature.returns.c_types
    c_types = [ctypes.c_void_p] * 2 + [c_type for kind in signature.arguments for c_type in kind.c_types]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *c_types)(engine.get_function_address(name))

    def run(*values: Any) -> Any:
        result, failure = c_result(), ctypes.c_void_p()
        arguments = [ctypes.addressof(result), ctypes.addressof(failure)]
        for kind, value in zip(signature.arguments, values, strict=True):
            kind.flatten(value, arguments)
        if status := function(*arguments):
            raise ArithmeticError(f"{name} failed with status {status}, such as for a division by zero")
        return result.value

    return run
