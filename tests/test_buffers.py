from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.buffers import (
    ahead,
    list_array,
    offsets_of,
    over_rows,
    ragged_from,
    row_ranges,
    strings_from,
    text_buffers,
)
from qa_fast.schema import Ragged


@given(st.lists(st.text()), st.integers(0, 3), st.booleans())
def test_strings_survive_the_way_to_bytes_and_back(strings: list[str], skip: int, wide: bool) -> None:
    array = pa.array(strings, pa.large_string() if wide else pa.string()).slice(skip)
    flat = text_buffers(array)
    shown = [bytes(flat.values[flat.offsets[i] : flat.offsets[i + 1]]).decode() for i in range(len(flat))]
    assert shown == strings[skip:]
    assert strings_from(flat).to_pylist() == strings[skip:]


@given(st.lists(st.lists(st.integers(-5, 5))))
def test_lists_survive_the_way_to_arrow_and_back(rows: list[list[int]]) -> None:
    values = np.array([value for row in rows for value in row], np.int32)
    ragged = Ragged(values, offsets_of(np.array([len(row) for row in rows], np.int64)))
    array = list_array(ragged, pa.int32())
    assert array.to_pylist() == rows
    back = ragged_from(array)
    assert [back[i].tolist() for i in range(len(back))] == rows


def test_a_batch_of_too_many_values_is_refused() -> None:
    huge = Ragged(np.zeros(0, np.int8), np.array([0, 2**31], np.int64))
    with pytest.raises(ValueError, match=r"less than 2\*\*31 values; received 2147483648"):
        list_array(huge, pa.int8())


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 8))
def test_ranges_are_all_rows_once(costs: list[int], parts: int) -> None:
    ranges = row_ranges(offsets_of(np.array(costs, np.int64)), parts)
    assert [row for begin, end in ranges for row in range(begin, end)] == list(range(len(costs)))
    assert len(ranges) <= parts


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_over_rows_raises_what_a_thread_raises(workers: int) -> None:
    def work(begin: int, end: int) -> None:
        raise RuntimeError("broken row")

    with pytest.raises(RuntimeError, match="broken row"):
        over_rows(work, np.arange(11), workers)


def test_ahead_gives_every_item_in_order_and_the_error_in_its_place() -> None:
    def items():
        yield 1
        yield 2
        raise ValueError("third")

    assert list(ahead(iter(range(100)))) == list(range(100))
    stream = ahead(items())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(stream)


def test_ahead_makes_one_item_while_another_is_used() -> None:
    made = threading.Event()

    def items():
        yield "first"
        made.set()
        yield "second"

    stream = ahead(items())
    assert next(stream) == "first"
    assert made.wait(5)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
