"""Views between Arrow arrays and flat numpy buffers.

Arrow's string and list arrays are a values buffer and an offsets buffer, which is the layout of `schema.Ragged`;
these functions pass those buffers on without copying the values.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.schema import Int32s, Int64s, Ragged


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return the column as a single array; copy only if there are several chunks."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def text_buffers(strings: pa.Array) -> Ragged:
    """Return the UTF-8 bytes of a string array.

    Args:
        strings: Arrow string or large_string [n]; a null row counts as empty.

    Returns:
        uint8 Ragged[n], a view of the array's own buffer.
    """
    wide = pa.types.is_large_string(strings.type)
    width = 8 if wide else 4
    _, offsets, values = strings.buffers()
    if len(strings) == 0 or offsets is None:
        return Ragged(np.zeros(0, np.uint8), np.zeros(len(strings) + 1, np.int64))
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32, len(strings) + 1, strings.offset * width)
    data = np.frombuffer(values, np.uint8) if values is not None and values.size else np.zeros(0, np.uint8)
    return Ragged(data, bounds.astype(np.int64))


def strings_from(text: Ragged) -> pa.Array:
    """Return large_string [n] over bytes of UTF-8, without a copy: the inverse of `text_buffers`."""
    offsets = np.ascontiguousarray(text.offsets, np.int64)
    return pa.LargeStringArray.from_buffers(len(text), pa.py_buffer(offsets), pa.py_buffer(text.values))


def list_array(rows: Ragged, value_type: pa.DataType) -> pa.Array:
    """Return a list array [n] over the ragged values, with 32-bit offsets, as `datasets` expects.

    Raises:
        ValueError: There are too many values for 32-bit offsets.
    """
    if rows.offsets[-1] - rows.offsets[0] >= 2**31:
        raise ValueError(f"a record batch must hold less than 2**31 values; received {rows.offsets[-1]}")
    start, end = int(rows.offsets[0]), int(rows.offsets[-1])
    values = pa.array(rows.values[start:end], type=value_type)
    return pa.ListArray.from_arrays(pa.array((rows.offsets - start).astype(np.int32)), values)


def ragged_from(column: pa.Array) -> Ragged:
    """Return the numbers of a list array [n] without nulls, as a view."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    return Ragged(column.values.to_numpy(zero_copy_only=True), offsets)


def list_lengths(lists: pa.Array) -> np.ndarray:
    """Return the number of values of each list [n]; 0 for a null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))


def offsets_of(lengths: np.ndarray) -> Int64s:
    """Return the offsets int64[n + 1] of rows of the given lengths [n]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def used_rows(index: np.ndarray, size: int) -> tuple[Int64s, Int32s]:
    """Return which of `size` rows an index [n] uses, int64[.], and the index into only those rows, int32[n]."""
    used = np.zeros(size, bool)
    used[index] = True
    return np.flatnonzero(used), (np.cumsum(used, dtype=np.int32) - np.int32(1))[index]


def grown(array: np.ndarray, size: int) -> np.ndarray:
    """Return the array [n, ...] if it has `size` rows, else a copy with at least twice as many rows."""
    if size <= len(array):
        return array
    larger = np.empty((max(size, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
