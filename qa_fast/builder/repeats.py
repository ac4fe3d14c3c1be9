"""Ids that came before, in another block: found over all blocks at once, from their ids' hashes on disk.

Blocks are featurized on their own, in any order and by any process, each as if its ids were not in the others. Once all
are made, the sorted hashes are gone through a range at a time, so memory is bounded however many ids there are; a block
that holds an id of an earlier one is made again without those rows. Files with such ids are rare, and small where they
are not.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qa_fast.schema import Int64s
from qa_fast.shards.journal import Journal
from qa_fast.sources.pieces import Block

# Ids gone through at a time, at 24 bytes each and as much again to order them.
_IDS_AT_A_TIME = 1 << 21
# Of a numpy file; one without rows cannot be mapped.
_HEADER_BYTES = 128


def repeated_rows(journal: Journal, blocks: Sequence[Block]) -> dict[int, Int64s]:
    """Rows whose ids came in an earlier block of the split.

    Args:
        journal: With the hashes of all blocks.
        blocks: All of one split, in order.

    Returns:
        Of each block that has some, by its place in `blocks`: its rows, in order, counted from 0.
    """
    if len(blocks) < 2:
        return {}
    found: dict[int, list[np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(journal.ids(block)) for block in blocks]
        parts = -(-sum(len(_mapped(file)) for file in files) // _IDS_AT_A_TIME)
        bounds = np.linspace(0, 2.0**64, parts + 1)[1:-1].astype(np.uint64)
        cuts = []
        for file in files:
            high = _mapped(file)[:, 0]
            cuts.append([0, *np.searchsorted(high, bounds).tolist(), len(high)])
        for part in range(parts):
            # Mapped anew each time: what stays mapped stays in memory once it was looked at.
            ranges = [np.array(_mapped(file)[cut[part] : cut[part + 1]]) for file, cut in zip(files, cuts, strict=True)]
            counts = np.array([len(each) for each in ranges])
            for block, rows in _repeats_of(np.concatenate(ranges), np.repeat(np.arange(len(blocks)), counts)):
                found.setdefault(block, []).append(rows)
    return {block: np.sort(np.concatenate(rows)).astype(np.int64) for block, rows in found.items()}


def _mapped(file: Path) -> np.ndarray:
    """uint64[n, 3] of a file that `Journal.ids` gives."""
    return np.load(file, mmap_mode="r" if file.stat().st_size > _HEADER_BYTES else None)


def _repeats_of(ids: np.ndarray, block_of: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Of uint64[n, 3] from the blocks int[n]: each block's rows whose hash an earlier block has too."""
    order = np.argsort(ids[:, 0], kind="stable")
    high = ids[order, 0]
    near = np.flatnonzero(high[1:] == high[:-1])
    if not len(near):
        return []
    # The few whose first words are equal are ordered by both words and by their blocks.
    few = order[np.unique(np.concatenate([near, near + 1]))]
    few = few[np.lexsort((block_of[few], ids[few, 1], ids[few, 0]))]
    same = np.all(ids[few[1:], :2] == ids[few[:-1], :2], axis=1)
    group = np.concatenate([[0], np.cumsum(~same)])
    first_block = block_of[few][np.searchsorted(group, group)]
    late = few[block_of[few] > first_block]
    return [(int(block), ids[late[block_of[late] == block], 2]) for block in np.unique(block_of[late])]


def digest(rows: Int64s | None) -> str:
    """Tells sets of rows apart; empty for none."""
    if rows is None or not len(rows):
        return ""
    return hashlib.sha256(np.asarray(rows, np.int64).tobytes()).hexdigest()[:16]
