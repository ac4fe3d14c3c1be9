"""Types for the explicit signatures of the kernels.

A kernel with an explicit signature is compiled once, when it is first imported, and later loaded from Numba's cache.
Arrays that a kernel only reads are declared read-only, since Arrow's buffers are; Numba passes writable arrays to them
as well. It does so for arguments alone: the arrays in a record must all be writable.
"""

from __future__ import annotations

from typing import Any

from numba import types


def _array(dtype: types.Type, readonly: bool, dimensions: int = 1) -> types.Array:
    return types.Array(dtype, dimensions, "C", readonly=readonly)


def record(kind: Any, *fields: Any) -> types.Type:
    """Return the type of a NamedTuple class whose fields have the given types."""
    return types.BaseTuple.from_types(fields, kind)


U8_IN, U8_OUT = _array(types.uint8, True), _array(types.uint8, False)
I8_IN, I8_OUT = _array(types.int8, True), _array(types.int8, False)
I32_IN, I32_OUT = _array(types.int32, True), _array(types.int32, False)
I64_IN, I64_OUT = _array(types.int64, True), _array(types.int64, False)
U64_IN, U64_OUT = _array(types.uint64, True), _array(types.uint64, False)
F64_OUT = _array(types.float64, False)
I32_ROWS_IN, I32_ROWS_OUT = _array(types.int32, True, 2), _array(types.int32, False, 2)
I64_ROWS_IN = _array(types.int64, True, 2)
U64_ROWS_IN, U64_ROWS_OUT = _array(types.uint64, True, 2), _array(types.uint64, False, 2)
U8 = types.uint8
I64 = types.int64
I32 = types.int32
BOOL = types.boolean
VOID = types.void
