"""Finds ids that repeat across the blocks of a split, from the hashes of their ids on disk.

Blocks are featurized independently, in any order and by any process, as if all their ids were unique. Once all blocks
are made, their sorted hashes are compared range by range, so memory is bounded however many ids there are. A block that
repeats an id of an earlier block is made again without those rows. Data with repeated ids is rare, and mostly small.
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

# Number of ids compared at a time, at 24 bytes each, and as much again to sort them.
_IDS_AT_A_TIME = 1 << 21
# Size of the header of a numpy file; a file without rows cannot be mapped.
_HEADER_BYTES = 128


def repeated_rows(journal: Journal, blocks: Sequence[Block]) -> dict[int, Int64s]:
    """Return the rows whose ids occur in an earlier block of the split.

    Args:
        journal: Holds the hashes of all blocks.
        blocks: All blocks of one split, in order.

    Returns:
        Place in `blocks` -> sorted rows of that block, counted from 0. Blocks without such rows are left out.
    """
    if len(blocks) < 2:
        return {}
    repeats: dict[int, list[np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(journal.ids(block)) for block in blocks]
        parts = -(-sum(len(_mapped(file)) for file in files) // _IDS_AT_A_TIME)
        bounds = np.linspace(0, 2.0**64, parts + 1)[1:-1].astype(np.uint64)
        cuts = []
        for file in files:
            high = _mapped(file)[:, 0]
            cuts.append([0, *np.searchsorted(high, bounds).tolist(), len(high)])
        for part in range(parts):
            # Mapped anew each time, since pages that were read stay in memory as long as they are mapped.
            ranges = [np.array(_mapped(file)[cut[part] : cut[part + 1]]) for file, cut in zip(files, cuts, strict=True)]
            counts = np.array([len(ids) for ids in ranges])
            for block, rows in _repeats_of(np.concatenate(ranges), np.repeat(np.arange(len(blocks)), counts)):
                repeats.setdefault(block, []).append(rows)
    return {block: np.sort(np.concatenate(rows)).astype(np.int64) for block, rows in repeats.items()}


def _mapped(file: Path) -> np.ndarray:
    """Return the uint64[n, 3] of a file that `Journal.ids` yields."""
    return np.load(file, mmap_mode="r" if file.stat().st_size > _HEADER_BYTES else None)


def _repeats_of(ids: np.ndarray, block_of: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each block's rows whose hash an earlier block has too; `ids` are uint64[n, 3], hashes and row."""
    order = np.argsort(ids[:, 0], kind="stable")
    high = ids[order, 0]
    near = np.flatnonzero(high[1:] == high[:-1])
    if not len(near):
        return []
    # Only the few ids whose first words are equal are sorted by both words and by block.
    few = order[np.unique(np.concatenate([near, near + 1]))]
    few = few[np.lexsort((block_of[few], ids[few, 1], ids[few, 0]))]
    same = np.all(ids[few[1:], :2] == ids[few[:-1], :2], axis=1)
    group = np.concatenate([[0], np.cumsum(~same)])
    first_block = block_of[few][np.searchsorted(group, group)]
    late = few[block_of[few] > first_block]
    return [(int(block), ids[late[block_of[late] == block], 2]) for block in np.unique(block_of[late])]


def digest(rows: Int64s | None) -> str:
    """Return a hash that differs for different sets of rows; "" for no rows."""
    if rows is None or not len(rows):
        return ""
    return hashlib.sha256(np.asarray(rows, np.int64).tobytes()).hexdigest()[:16]
