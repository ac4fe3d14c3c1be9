from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.buffers import (
    grown,
    list_array,
    offsets_of,
    ragged_from,
    strings_from,
    text_buffers,
)
from qa_fast.schema import Ragged


@settings(deadline=None)
@given(st.lists(st.text()), st.integers(0, 3), st.booleans())
def test_strings_survive_the_way_to_bytes_and_back(strings: list[str], skip: int, wide: bool) -> None:
    array = pa.array(strings, pa.large_string() if wide else pa.string()).slice(skip)
    flat = text_buffers(array)
    shown = [bytes(flat.values[flat.offsets[i] : flat.offsets[i + 1]]).decode() for i in range(len(flat))]
    assert shown == strings[skip:]
    assert strings_from(flat).to_pylist() == strings[skip:]


@settings(deadline=None)
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


def test_grown_keeps_what_it_holds_and_doubles() -> None:
    pairs = np.arange(6).reshape(3, 2)
    assert grown(pairs, 3) is pairs
    larger = grown(pairs, 4)
    assert larger.shape == (6, 2)
    assert larger[:3].tolist() == pairs.tolist()
    assert grown(pairs, 100).shape == (100, 2)
