"""What a build under way has finished: a fact file for each block, written when the block's shard is in its place.

A later run with the same fingerprint keeps the blocks whose facts are there and whose files are as the facts say, so a
build that was killed goes on from there, whichever process made which block. It is a folder inside the shards', and is
taken away once the index vouches for them.

    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.json            counts, files with checksums, the first reject
    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.ids.npy         uint64[n, 3], sorted: hash of each id, and its row
    OUT/.qa_fast-partial/FFFFFFFFFFFFFFFF/train-00000.rejected.jsonl  only where examples were rejected
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast import store
from qa_fast.raw import Reject
from qa_fast.schema import canonical_json
from qa_fast.shards.format import is_whole
from qa_fast.sources.pieces import Block

PARTIAL = ".qa_fast-partial"
_NAME_DIGITS = 16


@dataclass(frozen=True)
class BlockFacts:
    """What became of a block.

    Attributes:
        rows: Raw examples, good or not.
        counts: As `featurizer.SplitCounts.to_dict`.
        files: As `BlockWriter.close` gives them.
        first_reject: Id and reason of the first, if any.
        without: Hash of the rows that were left out since their ids came before, in other blocks.
    """

    rows: int
    counts: dict[str, Any]
    files: list[dict[str, Any]] = field(default_factory=list)
    first_reject: tuple[str, str] | None = None
    without: str = ""


class Journal:
    """The fact files of one build.

    Args:
        out: The shards' folder.
        fingerprint: Of the build.
        with_ids: Whether hashes of ids are kept, and each split's files lie in a folder of its own.
    """

    def __init__(self, out: Path, fingerprint: str, with_ids: bool = True) -> None:
        self.out, self.fingerprint, self.with_ids = out, fingerprint, with_ids
        self.folder = out / PARTIAL / fingerprint[:_NAME_DIGITS]

    def open(self) -> None:
        """Make the folder, which marks `out` as one that a build is at; take away what other builds left."""
        if store.is_local(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name in store.names_in(self.out / PARTIAL):
            if name != self.folder.name and len(name) == _NAME_DIGITS:
                store.remove_folder(self.out / PARTIAL / name)

    def finished(self, block: Block, contents: bool = True) -> BlockFacts | None:
        """What is known of a block, if its files are whole.

        Args:
            block: Of this build's source.
            contents: Compare checksums, which reads the files, and not lengths only.
        """
        facts = self.known(block)
        if facts is None or (self.with_ids and not self._place(block, "ids.npy").is_file()):
            return None
        folder = self.out / block.split if self.with_ids else self.out
        whole = all(is_whole(folder / file["file"], file, contents) for file in facts.files)
        return facts if whole else None

    def known(self, block: Block) -> BlockFacts | None:
        """What the block's fact file says, if there is one."""
        said = store.read_json(self._place(block, "json"))
        try:
            return BlockFacts(**said)
        except TypeError:
            return None

    def write(self, block: Block, facts: BlockFacts, hashes: np.ndarray | None, rejects: list[Reject]) -> None:
        """Note a block whose files are in their places.

        Args:
            block: The block.
            facts: What became of it.
            hashes: uint64[2n], of its rows' ids in their order, where they are kept.
            rejects: Its rejects.
        """
        rejected = self._place(block, "rejected.jsonl")
        if rejects:
            lines = (
                json.dumps({"split": block.split, "id": reject.id, "reason": reject.reason}, ensure_ascii=False)
                for reject in rejects
            )
            store.write_whole(rejected, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        elif rejected.is_file():
            store.remove(rejected)
        if hashes is not None:
            store.write_whole(self._place(block, "ids.npy"), _saved(hashes))
        store.write_whole(self._place(block, "json"), canonical_json(asdict(facts)).encode())

    def rejected(self, block: Block) -> bytes:
        """The lines of a block's rejects."""
        try:
            return self._place(block, "rejected.jsonl").read_bytes()
        except FileNotFoundError:
            return b""

    @contextlib.contextmanager
    def ids(self, block: Block) -> Iterator[np.ndarray]:
        """uint64[n, 3]: high and low word of each id's hash, and its row; sorted by all three."""
        with store.local_copy(self._place(block, "ids.npy")) as local:
            yield np.load(local, mmap_mode="r" if local.stat().st_size > 256 else None)

    def clear(self) -> None:
        """Take the fact files away."""
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
