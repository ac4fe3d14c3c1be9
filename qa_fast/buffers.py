"""Views between Arrow arrays and flat numpy buffers, and the spreading of work over threads.

Arrow's string and list arrays are a values buffer and an offsets buffer, which is the layout of `schema.Ragged`;
these functions hand those buffers over without copying the values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from qa_fast.schema import Int64s, Ragged

Item = TypeVar("Item")


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as a single array; copies only where there are several chunks."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def text_buffers(strings: pa.Array) -> Ragged:
    """The UTF-8 bytes of a string array.

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
    """The inverse of `text_buffers`: large_string [n] over the given bytes, which must be UTF-8."""
    offsets = np.ascontiguousarray(text.offsets, np.int64)
    return pa.LargeStringArray.from_buffers(len(text), pa.py_buffer(offsets), pa.py_buffer(text.values))


def list_array(rows: Ragged, value_type: pa.DataType) -> pa.Array:
    """A list array [n] over the ragged values, with 32-bit offsets as `datasets` expects."""
    if rows.offsets[-1] - rows.offsets[0] >= 2**31:
        raise ValueError(f"a record batch holds less than 2**31 values; received {rows.offsets[-1]}")
    start, end = int(rows.offsets[0]), int(rows.offsets[-1])
    values = pa.array(rows.values[start:end], type=value_type)
    return pa.ListArray.from_arrays(pa.array((rows.offsets - start).astype(np.int32)), values)


def ragged_from(column: pa.Array) -> Ragged:
    """The numbers of a list array [n] without nulls, as a view."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    return Ragged(column.values.to_numpy(zero_copy_only=True), offsets)


def offsets_of(lengths: np.ndarray) -> Int64s:
    """int64[n + 1] offsets for rows of the given lengths [n]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def row_ranges(weights: Int64s, parts: int) -> list[tuple[int, int]]:
    """Cut rows into up to `parts` ranges of about equal cost.

    Args:
        weights: int64[n + 1], cumulative cost of the rows.
        parts: At least 1.

    Returns:
        (begin, end) of each range that is not empty, in order; together they are all rows.
    """
    shares = np.linspace(weights[0], weights[-1], parts + 1)[1:-1]
    cuts = [0, *np.searchsorted(weights, shares).tolist(), len(weights) - 1]
    return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def over_rows(kernel: Callable[[int, int], Any], weights: Int64s, workers: int) -> None:
    """Run `kernel(row_begin, row_end)` over all rows, in threads that own disjoint ranges.

    Args:
        kernel: Releases the GIL and writes its own rows only, so the result does not depend on `workers`.
        weights: int64[n + 1], cumulative cost of the rows; ranges are cut at equal cost.
        workers: Number of threads, at least 1.
    """
    ranges = row_ranges(weights, workers)
    if len(ranges) <= 1:
        for row_begin, row_end in ranges:
            kernel(row_begin, row_end)
        return
    with ThreadPoolExecutor(len(ranges)) as pool:
        for done in [pool.submit(kernel, a, b) for a, b in ranges]:
            done.result()


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before it is in use.

    Where making and using release the GIL, as kernels, Arrow and files do, both run at once. At most one item waits, so
    memory stays bounded. An error in making an item is raised where that item would come; a consumer that stops early
    leaves no thread behind.

    Args:
        items: Its `next` is called by one other thread at a time.
    """
    with ThreadPoolExecutor(1) as pool:
        end = object()
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
