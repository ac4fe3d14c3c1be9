"""Shorthand for the explicit signatures of the kernels.

With its signature stated, a kernel is compiled when it is first imported, once, and loaded from Numba's
cache afterwards. Inputs are declared read-only, since Arrow's buffers are; Numba passes writable arrays to
them as well.
"""

from __future__ import annotations

from numba import types


def _array(dtype: types.Type, readonly: bool) -> types.Array:
    return types.Array(dtype, 1, "C", readonly=readonly)


U8_IN, U8_OUT = _array(types.uint8, True), _array(types.uint8, False)
I8_IN, I8_OUT = _array(types.int8, True), _array(types.int8, False)
I32_IN, I32_OUT = _array(types.int32, True), _array(types.int32, False)
I64_IN, I64_OUT = _array(types.int64, True), _array(types.int64, False)
U64_IN, U64_OUT = _array(types.uint64, True), _array(types.uint64, False)
U8 = types.uint8
I64 = types.int64
I32 = types.int32
BOOL = types.boolean
VOID = types.void
