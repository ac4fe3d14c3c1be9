"""Products of small bfloat16 matrices by the instruction `vdpbf16ps` of AVX-512 BF16, for use within other kernels.

The instruction multiplies pairs of bfloat16 numbers and adds both products to a float32, in 16 lanes. A tile of 8 rows
and 32 columns of the result stays in 16 registers while both matrices are read once. Matrices in the first cache are
multiplied at 460 to 560 GFLOP/s on a core of an AMD EPYC; with the short sums of attention oneDNN reaches 170 to 360
on two. Numba has no vectors, hence these functions are written in LLVM's language.
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from qa_fast.kernels.floats import quick_inner
from qa_fast.kernels.jit import njit

ROWS, COLUMNS = 8, 32
_LANES = 16
_WORD, _INDEX = ir.IntType(32), ir.IntType(64)
_WORDS, _FLOATS = ir.VectorType(_WORD, _LANES), ir.VectorType(ir.FloatType(), _LANES)
_SHORTS = ir.VectorType(ir.IntType(16), _LANES)


class _BFloat(ir.Type):
    """LLVM's type of a bfloat16, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"


_BFLOAT = _BFloat()


def supported() -> bool:
    """Return whether this processor has AVX-512 BF16, and no AMX, with which oneDNN's products may be faster."""
    chosen = os.environ.get("NUMBA_CPU_NAME") or os.environ.get("NUMBA_CPU_FEATURES")
    features = llvm.get_host_cpu_features()
    return not chosen and bool(features.get("avx512bf16")) and not features.get("amx-bf16")


@quick_inner
def multiply(
    a: np.ndarray,  # [M, 2 P] bfloat16 numbers, in pairs
    a_at: int,  # the first pair; this and other positions and distances count numbers of 32 bits
    a_row: int,  # the distance between rows of `a`
    a_pair: int,  # the distance between pairs of a row
    b: np.ndarray,  # [P, N] pairs of bfloat16 numbers, see `interleave` and `transpose`
    b_at: int,  # the first pair
    pairs: int,  # P, at least 1
    out: np.ndarray,  # float32[M, N], M a multiple of ROWS, N of COLUMNS
    more: bool,  # whether to add to `out`
) -> None:
    """Write the product of `a` and `b`. Both arrays may have numbers of 16 or 32 bits."""
    rows, columns = out.shape
    for j in range(0, columns, COLUMNS):
        for i in range(0, rows, ROWS):
            _multiply_tile(a, a_at + i * a_row, a_row, a_pair, b, b_at + j, pairs, out, i * columns + j, columns, more)


@quick_inner
def transpose(
    rows: np.ndarray,  # uint16[N or more, 2 P], bfloat16 numbers
    out: np.ndarray,  # uint32[P, N]
) -> None:
    """Write the matrix `b` whose columns are these rows."""
    for pair in range(out.shape[0]):
        for t in range(out.shape[1]):
            out[pair, t] = _pair(rows[t, 2 * pair], rows[t, 2 * pair + 1])


@quick_inner
def interleave(
    rows: np.ndarray,  # uint16[2 P, N], bfloat16 numbers
    out: np.ndarray,  # uint32[P, N]
) -> None:
    """Write the matrix `b` that has these rows."""
    for pair in range(out.shape[0]):
        for d in range(out.shape[1]):
            out[pair, d] = _pair(rows[2 * pair, d], rows[2 * pair + 1, d])


@njit(inline="always")
def _pair(first: np.uint16, second: np.uint16) -> np.uint32:
    return np.uint32(first) | np.uint32(np.uint32(second) << np.uint32(16))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any, kind: Any) -> Any:
    """Return a pointer to a number or vector of LLVM's type `kind`, after `at` such numbers of the array."""
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    first = builder.bitcast(context.make_array(array_type)(context, builder, array).data, number.as_pointer())
    return builder.bitcast(builder.gep(first, [at]), kind.as_pointer())


def _in_all_lanes(builder: Any, number: Any) -> Any:
    """Return a vector of 16 equal numbers."""
    undefined = ir.Constant(ir.VectorType(number.type, _LANES), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_WORDS, [0] * _LANES))


def _not_unrolled(module: Any) -> Any:
    """Return what tells LLVM not to unroll a loop: it then runs out of registers, which halved the speed."""
    option = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(module, [], name=str(len(module.metadata)))
    loop.operands = (loop, option)  # a loop's name is a node that begins with itself
    return loop


@intrinsic
def shortened(typing_context: Any, number: Any) -> Any:
    """Return the nearest bfloat16 as uint16, by one instruction; numbers below 1.2e-38 become 0."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], _BFLOAT), ir.IntType(16))

    return types.uint16(types.float32), write


@intrinsic
def move(typing_context: Any, x: Any, x_at: Any, bias: Any, bias_at: Any, factor: Any, out: Any, out_at: Any) -> Any:
    """Write 16 numbers, (x + bias) * factor, as bfloat16.

    `x` is float32 or uint16, `bias` float32 or None, `out` uint16, each used as if it had one axis. Loops of Numba's
    over so few numbers hardly use vector instructions.
    """

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def place(array: int, kind: Any) -> Any:
            return _pointer(context, builder, signature.args[array], arguments[array], arguments[array + 1], kind)

        if signature.args[0].dtype == types.uint16:
            bits = builder.zext(builder.load(place(0, _SHORTS), align=2), _WORDS)
            y = builder.bitcast(builder.shl(bits, ir.Constant(_WORDS, [16] * _LANES)), _FLOATS)
        else:
            y = builder.load(place(0, _FLOATS), align=4)
        if signature.args[2] != types.none:
            y = builder.fadd(y, builder.load(place(2, _FLOATS), align=4))
        y = builder.fmul(y, _in_all_lanes(builder, arguments[4]))
        y = builder.fptrunc(y, ir.VectorType(_BFLOAT, _LANES))
        builder.store(builder.bitcast(y, _SHORTS), place(5, _SHORTS), align=2)
        return context.get_dummy_value()

    return types.none(x, types.int64, bias, types.int64, types.float32, out, types.int64), write


@intrinsic
def prefetch(typing_context: Any, x: Any, at: Any) -> Any:
    """Load the cache line of number `at` of an array into the cache."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _WORD, _WORD, _WORD])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        builder.call(function, [pointer, *(ir.Constant(_WORD, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(x, types.int64), write


@intrinsic
def _multiply_tile(
    typing_context: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_pair: Any,
    b: Any,
    b_at: Any,
    pairs: Any,
    out: Any,
    out_at: Any,
    columns: Any,
    more: Any,
) -> Any:
    """Write the tile that begins at `out_at`, where `b` and `out` have so many columns. See `multiply`."""
    bfloats, vectors = ir.VectorType(_BFLOAT, 2 * _LANES), range(COLUMNS // _LANES)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, a_at, a_row, a_pair, _, b_at, pairs, _, out_at, columns, more = arguments

        def place(array: int, at: Any, step: Any, steps: Any, vector: int, kind: Any) -> Any:
            steps = ir.Constant(_INDEX, steps) if isinstance(steps, int) else steps
            at = builder.add(builder.add(at, builder.mul(step, steps)), ir.Constant(_INDEX, vector * _LANES))
            return _pointer(context, builder, signature.args[array], arguments[array], at, kind)

        instruction = builder.module.declare_intrinsic(
            "llvm.x86.avx512bf16.dpbf16ps.512", fnty=ir.FunctionType(_FLOATS, [_FLOATS, bfloats, bfloats])
        )
        outs = [place(7, out_at, columns, row, vector, _FLOATS) for row in range(ROWS) for vector in vectors]
        none = ir.Constant(_FLOATS, [0.0] * _LANES)
        before = [builder.select(more, builder.load(pointer, align=4), none) for pointer in outs]
        start, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)

        builder.position_at_end(loop)
        pair, sums = builder.phi(_INDEX), [builder.phi(_FLOATS) for _ in outs]
        rows = [builder.load(place(4, b_at, columns, pair, vector, _WORDS), align=4) for vector in vectors]
        first, after = builder.add(a_at, builder.mul(a_pair, pair)), []
        for row in range(ROWS):
            two = builder.load(place(0, first, a_row, row, 0, _WORD), align=4)
            many = builder.bitcast(_in_all_lanes(builder, two), bfloats)
            for vector in vectors:
                factors = many, builder.bitcast(rows[vector], bfloats)
                after.append(builder.call(instruction, [sums[len(after)], *factors]))
        following = builder.add(pair, ir.Constant(_INDEX, 1))
        for phi, old, new in zip([pair, *sums], [ir.Constant(_INDEX, 0), *before], [following, *after], strict=True):
            phi.add_incoming(old, start)
            phi.add_incoming(new, loop)
        again = builder.cbranch(builder.icmp_signed("<", following, pairs), loop, done)
        again.set_metadata("llvm.loop", _not_unrolled(builder.module))

        builder.position_at_end(done)
        for pointer, total in zip(outs, after, strict=True):
            builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    n = types.int64
    return types.none(a, n, n, n, b, n, n, out, n, n, types.boolean), write
