"""Ids that repeat across blocks are found, however many are compared at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.builder import repeats
from qa_fast.builder.repeats import digest, repeated_rows
from qa_fast.features.examples import id_hashes
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.sources.pieces import Block
from tests.memory_place import memory_place


def noted(out: Path, ids: list[list[str]]) -> tuple[Journal, list[Block]]:
    journal, blocks = Journal(out, "f" * 64), []
    journal.open()
    for number, some in enumerate(ids):
        blocks.append(Block("train", number, ()))
        journal.write(blocks[-1], BlockFacts(len(some), {}), id_hashes(pa.array(some, pa.string())), [])
    return journal, blocks


def expected(ids: list[list[str]]) -> dict[int, list[int]]:
    seen: set[str] = set()
    found = {}
    for number, some in enumerate(ids):
        if late := [row for row, name in enumerate(some) if name in seen]:
            found[number] = late
        seen |= set(some)
    return found


@settings(deadline=None, max_examples=60)
@given(
    ids=st.lists(st.lists(st.integers(0, 30).map(str), max_size=20), max_size=5),
    at_a_time=st.sampled_from([1, 3, 1 << 21]),
)
def test_rows_are_found_whose_ids_an_earlier_block_has(
    ids: list[list[str]], at_a_time: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_IDS_AT_A_TIME", at_a_time)
        journal, blocks = noted(tmp_path_factory.mktemp("ids"), ids)
        found = repeated_rows(journal, blocks)
    assert {block: rows.tolist() for block, rows in found.items()} == expected(ids)


def test_many_ids_elsewhere() -> None:
    ids = [[f"{block}-{row}" for row in range(3000)] for block in range(4)]
    ids[3][5:7] = ids[0][2999], ids[2][0]
    ids[1][0] = ids[0][0]
    journal, blocks = noted(memory_place(), ids)
    assert {block: rows.tolist() for block, rows in repeated_rows(journal, blocks).items()} == {1: [0], 3: [5, 6]}


def test_digests_tell_sets_of_rows_apart() -> None:
    import numpy as np

    sets = [None, np.array([1]), np.array([2]), np.array([1, 2])]
    assert len({digest(rows) for rows in sets}) == 4
    assert digest(np.zeros(0, np.int64)) == digest(None) == ""
