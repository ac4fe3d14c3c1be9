"""Products of small matrices in bfloat16 or float32, for use within other kernels.

The instruction `vdpbf16ps` of AVX-512 BF16 multiplies pairs of bfloat16 numbers and adds both products to a float32, in
16 lanes. In float32 a product and a sum are one instruction, too. A tile of the result stays in registers while both
matrices are read once. Matrices in the first cache are multiplied at 460 to 560 GFLOP/s in bfloat16 on a core of an AMD
EPYC; with the short sums of attention oneDNN reaches 170 to 360 on two. Numba has no vectors, hence these functions are
written in LLVM's language.

A *word* has 32 bits: a pair of bfloat16 numbers, stored as uint16, or one float32.
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from qa_fast.kernels.floats import quick_inner

ROWS, COLUMNS = 8, 32  # multiples of those of any tile
_LANES = 16
_WORD, _INDEX = ir.IntType(32), ir.IntType(64)
_WORDS, _FLOATS = ir.VectorType(_WORD, _LANES), ir.VectorType(ir.FloatType(), _LANES)
_SHORTS = ir.VectorType(ir.IntType(16), _LANES)


class _BFloat(ir.Type):
    """LLVM's type of a bfloat16, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"


_BFLOAT = _BFloat()
_FEATURES = llvm.get_host_cpu_features()
# Rows, columns and lanes of a float32 tile: with AVX2 there are 16 registers of 8 lanes, with AVX-512 32 of 16.
_FLOAT_TILE = (8, 32, 16) if _FEATURES.get("avx512f") else (4, 16, 8)


def supported(dtype: str) -> bool:
    """Return whether products of this dtype are fast here.

    bfloat16 needs AVX-512 BF16, and no AMX, with which oneDNN's products may be faster; float32 needs AVX2.
    """
    if os.environ.get("NUMBA_CPU_NAME") or os.environ.get("NUMBA_CPU_FEATURES"):
        return False
    if dtype == "float32":
        return bool(_FEATURES.get("avx2") and _FEATURES.get("fma"))
    return dtype == "bfloat16" and bool(_FEATURES.get("avx512bf16")) and not _FEATURES.get("amx-bf16")


def tile(b: Any) -> tuple[int, int]:
    """Return the rows and columns of a tile, given the matrix `b`."""
    raise NotImplementedError("only kernels can call this")


@overload(tile, inline="always", strict=False)
def _tile(b: Any) -> Any:
    shape = _FLOAT_TILE[:2] if b.dtype == types.float32 else (ROWS, COLUMNS)
    return lambda b: shape


@quick_inner
def multiply(
    a: np.ndarray,  # [M, W] words
    a_at: int,  # the first word; this and other positions and distances count words
    a_row: int,  # the distance between rows of `a`
    a_word: int,  # the distance between words of a row
    b: np.ndarray,  # [W, N] words, see `interleave` and `transpose`
    b_at: int,  # the first word
    words: int,  # W, at least 1
    out: np.ndarray,  # float32[M, N], M a multiple of ROWS, N of COLUMNS
    more: bool,  # whether to add to `out`
) -> None:
    """Write the product of `a` and `b`. An array of bfloat16 numbers may hold them as 16 or 32 bits."""
    (rows, columns), (height, width) = out.shape, tile(b)
    for j in range(0, columns, width):
        for i in range(0, rows, height):
            _multiply_tile(a, a_at + i * a_row, a_row, a_word, b, b_at + j, words, out, i * columns + j, columns, more)


@quick_inner
def transpose(
    rows: np.ndarray,  # [N or more, 2 W] bfloat16 or [N or more, W] float32
    out: np.ndarray,  # [W, N] words
) -> None:
    """Write the matrix `b` whose columns are these rows."""
    for word in range(out.shape[0]):
        for t in range(out.shape[1]):
            out[word, t] = _word_along(rows, t, word)


@quick_inner
def interleave(
    rows: np.ndarray,  # [2 W, N] bfloat16 or [W, N] float32
    out: np.ndarray,  # [W, N] words
) -> None:
    """Write the matrix `b` that has these rows."""
    for word in range(out.shape[0]):
        for d in range(out.shape[1]):
            out[word, d] = _word_across(rows, word, d)


@intrinsic
def _pair(typing_context: Any, first: Any, second: Any) -> Any:
    """Return two uint16 as a word, uint32."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lower, upper = (builder.zext(number, _WORD) for number in arguments)
        return builder.or_(lower, builder.shl(upper, ir.Constant(_WORD, 16)))

    return types.uint32(types.uint16, types.uint16), write


def _word_along(rows: Any, t: int, word: int) -> Any:
    """Return a word of a row."""
    raise NotImplementedError("only kernels can call this")


@overload(_word_along, inline="always", strict=False)
def _of_row(rows: Any, t: Any, word: Any) -> Any:
    if rows.dtype == types.float32:
        return lambda rows, t, word: rows[t, word]
    return lambda rows, t, word: _pair(rows[t, 2 * word], rows[t, 2 * word + 1])


def _word_across(rows: Any, word: int, d: int) -> Any:
    """Return a word of a column."""
    raise NotImplementedError("only kernels can call this")


@overload(_word_across, inline="always", strict=False)
def _of_column(rows: Any, word: Any, d: Any) -> Any:
    if rows.dtype == types.float32:
        return lambda rows, word, d: rows[word, d]
    return lambda rows, word, d: _pair(rows[2 * word, d], rows[2 * word + 1, d])


def words_like(x: Any, words: int, columns: int) -> Any:
    """Return an uninitialised matrix of words for numbers that are stored as those of `x`."""
    raise NotImplementedError("only kernels can call this")


@overload(words_like, inline="always", strict=False)
def _words_like(x: Any, words: Any, columns: Any) -> Any:
    kind = np.float32 if x.dtype == types.float32 else np.uint32
    return lambda x, words, columns: np.empty((words, columns), kind)


def shortened(number: Any, like: Any) -> Any:
    """Return a float32 as the array `like` stores it: uint16 is the nearest bfloat16, or 0 below 1.2e-38."""
    raise NotImplementedError("only kernels can call this")


@overload(shortened, inline="always", strict=False)
def _shortened_like(number: Any, like: Any) -> Any:
    if like.dtype == types.float32:
        return lambda number, like: number
    return lambda number, like: _shortened(number)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any, kind: Any) -> Any:
    """Return a pointer to a number or vector of LLVM's type `kind`, after `at` such numbers of the array."""
    number = kind.element if isinstance(kind, ir.VectorType) else kind
    first = builder.bitcast(context.make_array(array_type)(context, builder, array).data, number.as_pointer())
    return builder.bitcast(builder.gep(first, [at]), kind.as_pointer())


def _in_all_lanes(builder: Any, number: Any, lanes: int = _LANES) -> Any:
    """Return a vector of equal numbers."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_WORD, lanes), [0] * lanes))


def _not_unrolled(module: Any) -> Any:
    """Return what tells LLVM not to unroll a loop: it then runs out of registers, which halved the speed."""
    option = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(module, [], name=str(len(module.metadata)))
    loop.operands = (loop, option)  # a loop's name is a node that begins with itself
    return loop


@intrinsic
def _shortened(typing_context: Any, number: Any) -> Any:
    """Return the nearest bfloat16 as uint16, by one instruction; numbers below 1.2e-38 become 0."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], _BFLOAT), ir.IntType(16))

    return types.uint16(types.float32), write


@intrinsic
def move(typing_context: Any, x: Any, x_at: Any, bias: Any, bias_at: Any, factor: Any, out: Any, out_at: Any) -> Any:
    """Write 16 numbers, (x + bias) * factor.

    `x` and `out` are float32, or uint16 for bfloat16, and `bias` is float32 or None, each used as if it had one axis.
    Loops of Numba's over so few numbers hardly use vector instructions.
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
        if signature.args[5].dtype == types.uint16:
            y = builder.fptrunc(y, ir.VectorType(_BFLOAT, _LANES))
            builder.store(builder.bitcast(y, _SHORTS), place(5, _SHORTS), align=2)
        else:
            builder.store(y, place(5, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.none(x, types.int64, bias, types.int64, types.float32, out, types.int64), write


@intrinsic
def prefetch(typing_context: Any, x: Any, at: Any) -> Any:
    """Load COLUMNS numbers of an array, from number `at` on, into the cache."""
    a_line = 64 * 8 // x.dtype.bitwidth  # numbers

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        for number in range(0, COLUMNS, a_line):
            place = builder.gep(data, [builder.add(arguments[1], ir.Constant(_INDEX, number))])
            pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, _WORD, _WORD, _WORD])
            function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
            builder.call(function, [pointer, *(ir.Constant(_WORD, option) for option in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(x, types.int64), write


@intrinsic
def _multiply_tile(
    typing_context: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_word: Any,
    b: Any,
    b_at: Any,
    words: Any,
    out: Any,
    out_at: Any,
    columns: Any,
    more: Any,
) -> Any:
    """Write the tile that begins at `out_at`, where `b` and `out` have so many columns. See `multiply`."""
    in_float = b.dtype == types.float32
    height, width, lanes = _FLOAT_TILE if in_float else (ROWS, COLUMNS, _LANES)
    floats, bfloats = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(_BFLOAT, 2 * lanes)
    number = ir.FloatType() if in_float else _WORD
    loaded, vectors = ir.VectorType(number, lanes), range(width // lanes)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, a_at, a_row, a_word, _, b_at, words, _, out_at, columns, more = arguments

        def place(array: int, at: Any, step: Any, steps: Any, vector: int, kind: Any) -> Any:
            steps = ir.Constant(_INDEX, steps) if isinstance(steps, int) else steps
            at = builder.add(builder.add(at, builder.mul(step, steps)), ir.Constant(_INDEX, vector * lanes))
            return _pointer(context, builder, signature.args[array], arguments[array], at, kind)

        def add_product(total: Any, left: Any, right: Any) -> Any:
            if in_float:  # one instruction where there is one
                return builder.fadd(total, builder.fmul(left, right, ("contract",)), ("contract",))
            kind = ir.FunctionType(floats, [floats, bfloats, bfloats])
            instruction = builder.module.declare_intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", fnty=kind)
            return builder.call(instruction, [total, builder.bitcast(left, bfloats), builder.bitcast(right, bfloats)])

        outs = [place(7, out_at, columns, row, vector, floats) for row in range(height) for vector in vectors]
        none = ir.Constant(floats, [0.0] * lanes)
        before = [builder.select(more, builder.load(pointer, align=4), none) for pointer in outs]
        start, loop, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(loop)

        builder.position_at_end(loop)
        word, sums = builder.phi(_INDEX), [builder.phi(floats) for _ in outs]
        rows = [builder.load(place(4, b_at, columns, word, vector, loaded), align=4) for vector in vectors]
        first, after = builder.add(a_at, builder.mul(a_word, word)), []
        for row in range(height):
            one = builder.load(place(0, first, a_row, row, 0, number), align=4)
            many = _in_all_lanes(builder, one, lanes)
            after += [add_product(sums[len(vectors) * row + vector], many, rows[vector]) for vector in vectors]
        following = builder.add(word, ir.Constant(_INDEX, 1))
        for phi, old, new in zip([word, *sums], [ir.Constant(_INDEX, 0), *before], [following, *after], strict=True):
            phi.add_incoming(old, start)
            phi.add_incoming(new, loop)
        again = builder.cbranch(builder.icmp_signed("<", following, words), loop, done)
        again.set_metadata("llvm.loop", _not_unrolled(builder.module))

        builder.position_at_end(done)
        for pointer, total in zip(outs, after, strict=True):
            builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    n = types.int64
    return types.none(a, n, n, n, b, n, n, out, n, n, types.boolean), write
