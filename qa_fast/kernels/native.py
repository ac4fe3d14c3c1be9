"""Runs the machine code of kernels without Numba, which takes longer to import than a small job to run.

The code is an object file that LLVM made, and calls nothing but the C library. Its function takes the address of its
result, that of an exception, and the flattened arguments, and returns 0 unless it failed (source: `CPUCallConv` in
`numba/core/callconv.py`). An array is two owners, its size, the bytes of a number, address, shape and strides.

Python would need 1 to 2 µs to check an array and to convert these numbers, and a question needs a hundred arrays. So an
adapter of machine code does both; Python gives it the addresses of the arrays' objects.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import os
import struct
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding as llvm

from qa_fast.kernels.signature import Array, Record, Signature

# Where this is tested. Elsewhere Numba runs the kernels.
SUPPORTED = sys.platform == "linux" and os.uname().machine == "x86_64" and sys.implementation.name == "cpython"
# Settings of Numba that do not change what it compiles.
_NEUTRAL = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")

# Where an array's object has its class, and what follows: places that NumPy's binary interface fixes for programs in C
# (source: `PyArrayObject_fields` in numpy/ndarraytypes.h).
_CLASS = object.__basicsize__ - 8
_DATA, _DIMENSIONS, _SHAPE, _STRIDES, _DTYPE, _FLAGS = (object.__basicsize__ + at for at in (0, 8, 16, 24, 40, 48))
_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400

# Two threads may import kernels at the same time, and must not make an engine each.
_LOCK = threading.Lock()

# What an adapter returns if an argument is not what it expects. A kernel's status has 32 bits.
_REFUSED = 1 << 32


@functools.cache
def target() -> str:
    """Return what compiled code depends on besides its source: compiler, its settings, and processor."""
    spec = find_spec("numba")
    # The folder of Numba's metadata has its version in the name. `importlib.metadata` looks there too, in 10 ms.
    numba = [path.name for path in Path(spec.origin).parents[1].glob("numba-*")] if spec and spec.origin else []
    settings = sorted(pair for pair in os.environ.items() if pair[0].startswith("NUMBA_") and pair[0] not in _NEUTRAL)
    features = llvm.get_host_cpu_features().flatten()
    processor = llvm.get_process_triple(), llvm.get_host_cpu_name(), features
    return repr((numba, llvmlite.__version__, settings, processor, _CLASS))


@functools.cache
def _machine() -> Any:
    """Return what makes object files for this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(jit=True)


@functools.cache
def _engine() -> Any:
    """Return what makes object files ready to run, and holds them."""
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())


def make_adapter(name: str, signature: Signature) -> bytes:
    """Return an object file whose function checks the arguments of a kernel and calls it.

    It takes three addresses: of the arguments, 8 bytes each, which are integers and the addresses of the objects of
    arrays; of a table with the addresses of the kernel, of NumPy's class of arrays and of the dtype of each argument;
    and of the result.

    Args:
        name: The symbol of the kernel.
        signature: The types of the kernel.
    """
    from llvmlite import ir

    word, half = ir.IntType(64), ir.IntType(32)
    module = ir.Module()
    adapter = ir.Function(module, ir.FunctionType(word, [word] * 3), f"call {name}")
    values, table, result = adapter.args
    build = ir.IRBuilder(adapter.append_basic_block())
    refused = adapter.append_basic_block()

    def load(address: Any, offset: int, kind: Any = word) -> Any:
        return build.load(build.inttoptr(build.add(address, word(offset)), kind.as_pointer()))

    def require(value: Any, expected: Any) -> None:
        following = adapter.append_basic_block()
        build.cbranch(build.icmp_unsigned("==", value, expected), following, refused)
        build.position_at_end(following)

    arguments = [result, build.ptrtoint(build.alloca(word), word)]
    for number, kind in enumerate(signature.flat):
        value = load(values, 8 * number)
        if not isinstance(kind, Array):
            arguments.append(build.trunc(value, ir.IntType(8 * ctypes.sizeof(kind.in_c))))
            continue
        flags = half(_CONTIGUOUS | _ALIGNED | (0 if kind.readonly else _WRITEABLE))
        require(load(value, _CLASS), load(table, 8))  # the object of anything else may end before the other places
        require(load(value, _DTYPE), load(table, 16 + 8 * number))
        require(load(value, _DIMENSIONS, half), half(kind.dimensions))
        require(build.and_(load(value, _FLAGS, half), flags), flags)
        shape = [load(load(value, _SHAPE), 8 * axis) for axis in range(kind.dimensions)]
        strides = [load(load(value, _STRIDES), 8 * axis) for axis in range(kind.dimensions)]
        size = functools.reduce(build.mul, shape)
        arguments += [word(0), word(0), size, word(kind.dtype.itemsize), load(value, _DATA), *shape, *strides]
    kernel = ir.FunctionType(half, [argument.type for argument in arguments])
    build.ret(build.sext(build.call(build.inttoptr(load(table, 0), kernel.as_pointer()), arguments), word))
    build.position_at_end(refused)
    build.ret(word(_REFUSED))
    with _LOCK:
        module.triple, module.data_layout = _machine().triple, str(_machine().target_data)
        return bytes(_machine().emit_object(llvm.parse_assembly(str(module))))


def load(code: bytes, adapter: bytes, name: str, signature: Signature) -> Callable[..., Any]:
    """Return a function that runs machine code. It releases the interpreter's lock.

    Args:
        code: An object file for this processor.
        adapter: What `make_adapter` returned.
        name: The symbol of the kernel.
        signature: The types of the function.
    """
    with _LOCK:
        engine = _engine()
        for made in (code, adapter):
            engine.add_object_file(llvm.ObjectFileRef.from_data(made))
        engine.finalize_object()
        kernel, entry = engine.get_function_address(name), engine.get_function_address(f"call {name}")
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(entry)
    kinds, c_result = signature.flat, signature.returns.in_c
    dtypes = [id(kind.dtype) if isinstance(kind, Array) else 0 for kind in kinds]
    pack = struct.Struct(f"{len(kinds)}q").pack
    table = struct.pack(f"{2 + len(kinds)}q", kernel, id(np.ndarray), *dtypes)
    records = [argument.kind if isinstance(argument, Record) else None for argument in signature.arguments]
    words = [id if isinstance(kind, Array) else operator.index for kind in kinds]

    def run(*values: Any) -> Any:
        flat: list[Any] = []
        for record, value in zip(records, values, strict=True):
            if record is None:
                flat.append(value)
            elif type(value) is record:
                flat += value
            else:
                raise TypeError(f"a kernel takes a {record.__name__}; received {value!r:.80}")
        result = c_result()
        status = call(pack(*map(operator.call, words, flat)), table, ctypes.byref(result))
        if status == _REFUSED:  # by what is wrong, which is an error, or by a subclass or a copy of a dtype
            flat = [kind.plain(value) for kind, value in zip(kinds, flat, strict=True)]
            status = call(pack(*map(operator.call, words, flat)), table, ctypes.byref(result))
        if status:
            raise ArithmeticError(f"{name} failed with status {status}, such as for a division by zero")
        return result.value

    return run
