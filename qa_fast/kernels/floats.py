"""Arithmetic of the training kernels: bfloat16 as bits, the exponential function, activations, random bits of dropout.

A number of a model's compute dtype is loaded by `widened` and stored by `narrowed`. float32 is stored as it is, and
bfloat16 as uint16, the upper half of the bits of a float32, since Numba has no such type. All arithmetic is float32,
written without calls and branches so that LLVM makes vector instructions of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from qa_fast.kernels.jit import njit


def quick(kernel: Any, **options: Any) -> Any:
    """Compile a kernel when it is first called, and keep it in the cache.

    Sums may be reordered and products fused with sums; NaN and infinity keep their meaning. Divisions do not check for
    zero, since that would be a branch.
    """
    fastmath = {"reassoc", "contract", "nsz"}
    return njit(cache=True, nogil=True, fastmath=fastmath, error_model="numpy", **options)(kernel)


def quick_inner(kernel: Any) -> Any:
    """Compile as `quick` does, without counting references to arrays, for a kernel that quick kernels call often.

    Counting took a sixth of the time of attention. The kernel must not allocate.
    """
    return quick(kernel, _nrt=False)


_F = np.float32
_U = np.uint32
GELU, GELU_TANH, RELU, SILU = range(4)


@intrinsic
def _of_bits(typing_context: Any, bits: Any) -> Any:
    """Return the float32 whose bits are in a uint32."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), write


@intrinsic
def _ordered(typing_context: Any, number: Any) -> Any:
    """Return an int32 that grows with a float32; for NaN it is beyond that of infinity."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.IntType(32))
        sign = builder.ashr(bits, ir.Constant(ir.IntType(32), 31))
        return builder.xor(bits, builder.lshr(sign, ir.Constant(ir.IntType(32), 1)))

    return types.int32(types.float32), write


@intrinsic
def _of_ordered(typing_context: Any, number: Any) -> Any:
    """Return the float32 of an int32 that `_ordered` made."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sign = builder.ashr(arguments[0], ir.Constant(ir.IntType(32), 31))
        bits = builder.xor(arguments[0], builder.lshr(sign, ir.Constant(ir.IntType(32), 1)))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), write


@njit(inline="always")
def largest(numbers: np.ndarray) -> np.float32:
    """Return the largest of float32[n]; NaN if one is NaN without a sign bit.

    The comparison is by integers, as LLVM makes no vector instructions of comparisons of floats that might be NaN.
    """
    highest = np.int32(-(2**31) + 1)
    for at in range(len(numbers)):
        number = _ordered(numbers[at])
        highest = number if number > highest else highest
    return _of_ordered(highest)


@intrinsic
def _rounded(typing_context: Any, number: Any) -> Any:
    """Return the bits of the nearest bfloat16 as uint16; NaN is treated apart, as rounding could turn it into 0."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.IntType(32)
        bits = builder.bitcast(arguments[0], whole)
        odd = builder.and_(builder.lshr(bits, ir.Constant(whole, 16)), ir.Constant(whole, 1))
        upper = builder.lshr(builder.add(builder.add(bits, ir.Constant(whole, 0x7FFF)), odd), ir.Constant(whole, 16))
        nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.trunc(builder.select(nan, ir.Constant(whole, 0x7FC0), upper), ir.IntType(16))

    return types.uint16(types.float32), write


def widened(stored: Any) -> Any:
    """Return the float32 of a stored element: float32, or uint16 for bfloat16."""
    raise NotImplementedError("only kernels can call this")


@overload(widened, inline="always")
def _widened(stored: Any) -> Any:
    if stored == types.uint16:

        def read(stored: Any) -> Any:
            return _of_bits(_U(stored) << _U(16))
    else:

        def read(stored: Any) -> Any:
            return stored

    return read


def narrowed(number: Any, like: Any) -> Any:
    """Return a float32 as the array `like` stores it: uint16 is the nearest bfloat16, ties to even; NaN stays."""
    raise NotImplementedError("only kernels can call this")


@overload(narrowed, inline="always")
def _narrowed(number: Any, like: Any) -> Any:
    if like.dtype == types.uint16:

        def write(number: Any, like: Any) -> Any:
            return _rounded(_F(number))
    else:

        def write(number: Any, like: Any) -> Any:
            return number

    return write


@njit(inline="always")
def exponential(x: np.float32) -> np.float32:
    """Return e to the power of x for x up to 88, within 1.2e-7 of it; 0 below -87; NaN for NaN.

    x is n ln 2 + r with |r| <= ln 2 / 2, and e^r is a polynomial of degree 6 through the Chebyshev points there.
    """
    n = np.floor(x * _F(1.4426950408889634) + _F(0.5))
    n = n if n > _F(-126.0) else _F(-126.0)
    r = (x - n * _F(0.693359375)) + n * _F(2.1219444e-4)  # ln 2 in two parts, the first of few bits
    y = _F(_EXP[6])
    y = y * r + _F(_EXP[5])
    y = y * r + _F(_EXP[4])
    y = y * r + _F(_EXP[3])
    y = y * r + _F(_EXP[2])
    y = y * r + _F(_EXP[1])
    y = y * r + _F(_EXP[0])
    y *= _of_bits(_U(np.int32(n) + np.int32(127)) << _U(23))
    return _F(0.0) if x < _F(-87.0) else y


def _exponential_polynomial() -> tuple[float, ...]:
    """Return its coefficients from degree 0 up."""
    half = np.log(2.0) / 2.0 * 1.0001
    fitted = np.polynomial.Chebyshev.interpolate(np.exp, 6, [-half, half])
    return tuple(float(value) for value in fitted.convert(kind=np.polynomial.Polynomial).coef)


_EXP = _exponential_polynomial()


@njit(inline="always")
def normal_share(x: np.float32, bell: np.float32) -> np.float32:
    """Return the standard normal distribution function of x within 1.5e-7, given `bell` = exp(-x^2 / 2).

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    t = _F(1.0) / (_F(1.0) + _F(0.3275911 * 0.7071067811865476) * abs(x))
    y = _F(1.061405429)
    y = y * t - _F(1.453152027)
    y = y * t + _F(1.421413741)
    y = y * t - _F(0.284496736)
    y = y * t + _F(0.254829592)
    tail = _F(0.5) * y * t * bell
    return tail if x < _F(0.0) else _F(1.0) - tail


@intrinsic
def mixed(typing_context: Any, index: Any, first: Any, second: Any) -> Any:
    """Return the bits by which dropout keeps or drops one element, as `model.dropout.keep_mask` does.

    Arguments and result are uint32. In Python's syntax Numba would compute in 64 bits, which takes twice as long.
    """

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def number(value: int) -> Any:
            return ir.Constant(ir.IntType(32), value)

        def folded(x: Any, bits: int) -> Any:
            return builder.xor(x, builder.lshr(x, number(bits)))

        index, first, second = arguments
        x = builder.add(builder.mul(index, number(0x9E3779B1)), first)
        x = builder.mul(folded(x, 16), number(0x21F0AAAD))
        x = builder.mul(folded(builder.xor(x, second), 15), number(0xD35A2D97))
        return folded(x, 15)

    return types.uint32(types.uint32, types.uint32, types.uint32), write
