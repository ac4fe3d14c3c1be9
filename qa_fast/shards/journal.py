"""Records the finished blocks of a running build: a fact file for each block, written after the block's shard.

A later run with the same fingerprint keeps the blocks whose files agree with their facts, so a build that was killed
continues from there, whichever process made which block. The journal is a folder inside that of the shards, and is
deleted once the index lists them.

    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.json            counts, files with checksums, the first reject
    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.ids.npy         uint64[n, 3], sorted: hash of each id, and its row
    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.rejected.jsonl  only if examples were rejected
    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.repaired.jsonl  only if answers were repaired
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast import store
from qa_fast.raw import Reject, Repair
from qa_fast.schema import canonical_json
from qa_fast.shards.format import REJECTED, REPAIRED, is_whole
from qa_fast.sources.pieces import Block

PARTIAL = ".qa_fast-partial"
_NAME_DIGITS = 16


@dataclass(frozen=True)
class BlockFacts:
    """The outcome of a block.

    Attributes:
        rows: Raw examples, rejected ones included.
        counts: Its `SplitCounts.to_dict()`.
        files: The facts that `BlockWriter.close` returns.
        first_reject: Id and reason of the first reject, if any.
        without: Hash of the rows that were left out because earlier blocks have their ids.
    """

    rows: int
    counts: dict[str, Any]
    files: list[dict[str, Any]] = field(default_factory=list)
    first_reject: tuple[str, str] | None = None
    without: str = ""


class Journal:
    """The fact files of one build.

    Args:
        out: The folder of the shards.
        fingerprint: The fingerprint of the build.
        with_ids: Whether hashes of ids are kept, and the files of each split are in a folder of their own.
    """

    def __init__(self, out: Path, fingerprint: str, with_ids: bool = True) -> None:
        self.out, self.fingerprint, self.with_ids = out, fingerprint, with_ids
        self.folder = out / PARTIAL / fingerprint[:_NAME_DIGITS]

    def open(self) -> None:
        """Make the folder, which marks `out` as being written by a build, and delete the journals of other builds."""
        if store.is_local(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name in store.names_in(self.out / PARTIAL):
            if name != self.folder.name and len(name) == _NAME_DIGITS:
                store.remove_folder(self.out / PARTIAL / name)

    def finished(self, block: Block) -> BlockFacts | None:
        """Return the facts of a block; None if it is not finished or its files differ from their checksums."""
        facts = self.known(block)
        if facts is None or (self.with_ids and not self._place(block, "ids.npy").is_file()):
            return None
        folder = self.out / block.split if self.with_ids else self.out
        whole = all(is_whole(folder / file["file"], file, contents=True) for file in facts.files)
        return facts if whole else None

    def known(self, block: Block) -> BlockFacts | None:
        """Return the content of a block's fact file; None if there is none."""
        facts = store.read_json(self._place(block, "json"))
        try:
            return BlockFacts(**facts)
        except TypeError:
            return None

    def write(
        self,
        block: Block,
        facts: BlockFacts,
        hashes: np.ndarray | None,
        rejects: Sequence[Reject],
        repairs: Sequence[Repair] = (),
    ) -> None:
        """Record a block whose files are in their places.

        Args:
            block: The block.
            facts: Its facts.
            hashes: uint64[2n], the hashes of its rows' ids in order, or None if they are not kept.
            rejects: Its rejects.
            repairs: Its repairs.
        """
        for name, listed in ((REJECTED, rejects), (REPAIRED, repairs)):
            place = self._place(block, name)
            if listed:
                lines = (json.dumps({"split": block.split, **asdict(each)}, ensure_ascii=False) for each in listed)
                store.write_whole(place, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
            elif place.is_file():
                store.remove(place)
        if hashes is not None:
            store.write_whole(self._place(block, "ids.npy"), _saved(hashes))
        store.write_whole(self._place(block, "json"), canonical_json(asdict(facts)).encode())

    def listed(self, block: Block, name: str) -> bytes:
        """Return the lines of a block's rejects (`REJECTED`) or repairs (`REPAIRED`)."""
        try:
            return self._place(block, name).read_bytes()
        except FileNotFoundError:
            return b""

    def ids(self, block: Block) -> AbstractContextManager[Path]:
        """Hold a local file that numpy loads as uint64[n, 3]: both words of each id's hash and its row, sorted."""
        return store.local_copy(self._place(block, "ids.npy"))

    def clear(self) -> None:
        """Delete the journals in `out`."""
        store.remove_folder(self.out / PARTIAL)

    def _place(self, block: Block, ending: str) -> Path:
        return self.folder / f"{block.name}.{ending}"


def _saved(hashes: np.ndarray) -> bytes:
    rows = np.arange(len(hashes) // 2, dtype=np.uint64)
    high, low = hashes[0::2], hashes[1::2]
    order = np.lexsort((rows, low, high))
    buffer = io.BytesIO()
    np.save(buffer, np.stack([high[order], low[order], rows[order]], axis=1))
    return buffer.getvalue()
