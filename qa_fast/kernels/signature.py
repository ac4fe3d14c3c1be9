"""Types for the explicit signatures of the kernels, and how their values are handed to machine code.

Arrays that a kernel only reads are declared read-only, since Arrow's buffers are; writable arrays are accepted as well.
This holds for arguments alone: the arrays in a record must all be writable. The types are those of Numba, which is
imported only to compile.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scalar:
    """A number, or nothing, with its name in Numba."""

    name: str

    def __call__(self, *arguments: Type) -> Signature:
        """Return the signature of a kernel with these arguments that returns this type."""
        return Signature(self, arguments)

    @property
    def in_c(self) -> Any:
        """The type in C."""
        others = {"boolean": ctypes.c_uint8, "none": ctypes.c_void_p}
        return others.get(self.name) or getattr(ctypes, f"c_{self.name}")

    def plain(self, value: Any) -> Any:
        """Return the value."""
        return value

    def in_numba(self) -> Any:
        """Return Numba's type."""
        from numba import types

        return getattr(types, self.name)


@dataclass(frozen=True)
class Array:
    """A C-contiguous array of numbers."""

    dtype: np.dtype[Any]
    readonly: bool
    dimensions: int = 1

    def plain(self, value: Any) -> np.ndarray:
        """Return a view of an array, of the class and with the very dtype that machine code knows by their addresses.

        Raises:
            TypeError: The kernel was not compiled for such a value.
        """
        right = isinstance(value, np.ndarray) and value.dtype == self.dtype and value.ndim == self.dimensions
        flags = value.flags if right else None
        if not flags or not (flags.c_contiguous and flags.aligned and (self.readonly or flags.writeable)):
            raise TypeError(f"a kernel takes {self}; received {value!r:.80}")
        return value.view(self.dtype, np.ndarray)

    def in_numba(self) -> Any:
        """Return Numba's type."""
        from numba import from_dtype, types

        return types.Array(from_dtype(self.dtype), self.dimensions, "C", readonly=self.readonly)


@dataclass(frozen=True)
class Record:
    """A NamedTuple class with the types of its fields."""

    kind: Any
    fields: tuple[Scalar | Array, ...]

    def in_numba(self) -> Any:
        """Return Numba's type."""
        from numba import types

        return types.BaseTuple.from_types([field.in_numba() for field in self.fields], self.kind)


@dataclass(frozen=True)
class Signature:
    """The types of a kernel's result and arguments."""

    returns: Scalar
    arguments: tuple[Type, ...]

    @property
    def flat(self) -> list[Scalar | Array]:
        """The types of all arguments, with those of its fields for a record."""
        parts = [kind.fields if isinstance(kind, Record) else (kind,) for kind in self.arguments]
        return [part for kinds in parts for part in kinds]

    def in_numba(self) -> Any:
        """Return Numba's signature."""
        return self.returns.in_numba()(*(argument.in_numba() for argument in self.arguments))


Type = Scalar | Array | Record


def record(kind: Any, *fields: Scalar | Array) -> Record:
    """Return the type of a NamedTuple class whose fields have the given types."""
    return Record(kind, fields)


def _array(dtype: Any, readonly: bool, dimensions: int = 1) -> Array:
    return Array(np.dtype(dtype), readonly, dimensions)


U8_IN, U8_OUT = _array(np.uint8, True), _array(np.uint8, False)
I8_IN, I8_OUT = _array(np.int8, True), _array(np.int8, False)
I32_IN, I32_OUT = _array(np.int32, True), _array(np.int32, False)
I64_IN, I64_OUT = _array(np.int64, True), _array(np.int64, False)
U64_IN, U64_OUT = _array(np.uint64, True), _array(np.uint64, False)
F32_OUT, F64_OUT = _array(np.float32, False), _array(np.float64, False)
I8_ROWS_OUT = _array(np.int8, False, 2)
F32_ROWS_IN, F32_ROWS_OUT = _array(np.float32, True, 2), _array(np.float32, False, 2)
I32_ROWS_IN, I32_ROWS_OUT = _array(np.int32, True, 2), _array(np.int32, False, 2)
I64_ROWS_IN, I64_ROWS_OUT = _array(np.int64, True, 2), _array(np.int64, False, 2)
U64_ROWS_IN, U64_ROWS_OUT = _array(np.uint64, True, 2), _array(np.uint64, False, 2)
I64 = Scalar("int64")
I32 = Scalar("int32")
BOOL = Scalar("boolean")
VOID = Scalar("none")
