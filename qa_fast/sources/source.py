"""A source: the data files of each split, or examples in memory, as blocks and as tables of examples."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from qa_fast import store
from qa_fast.errors import UserError, without_secrets
from qa_fast.raw import SplitTable
from qa_fast.sources.files import row_count
from qa_fast.sources.held import IN_MEMORY, HeldTables
from qa_fast.sources.memory import blocks_in
from qa_fast.sources.pieces import Block, blocks_of
from qa_fast.sources.read import form_of, read_block
from qa_fast.sources.rows import Batch


@dataclass(frozen=True)
class Source:
    """The data files of each split, and the names of their columns.

    Attributes:
        name: The name that the user gave.
        origin: Where the files came from, in words.
        splits: Split -> files, in reading order.
        columns: Our column names -> those of the files, where they differ.
        skipped: Name of each file of the folder that is not read -> the reason.
    """

    name: str
    origin: str
    splits: dict[str, list[Path]]
    columns: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """What the files were taken for, in words, such as "gzip, JSON lines". The start of each file is read.

        Raises:
            UserError: A file cannot be read.
        """
        counts = Counter(form_of(path, self.columns) for paths in self.splits.values() for path in paths)
        if len(counts) == 1:
            return next(iter(counts))
        return "; ".join(f"{form} ({count} file{'s' * (count > 1)})" for form, count in counts.items())

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks of all splits in order; each becomes one shard."""
        return blocks_of(self.splits)

    def first_blocks(self, max_examples: int) -> Iterator[Block]:
        """Yield the blocks of the first examples of each split. The source is read to count them."""
        for _, blocks in itertools.groupby(self.blocks(), key=attrgetter("split")):
            left = max_examples
            for block in blocks:
                rows = sum(table.num_rows for table, _ in self.read(replace(block, limit=left)))
                yield replace(block, limit=left) if rows >= left else block
                left -= rows
                if left <= 0:
                    break

    def read(self, block: Block) -> Iterator[Batch]:
        """Yield the tables of examples of a block, each with its rejects."""
        return read_block(block, self.columns)

    def tables(self, max_examples: int | None = None) -> Iterator[SplitTable]:
        """Yield the tables of all splits in order, with at most `max_examples` examples of each split."""
        for split, blocks in itertools.groupby(self.blocks(), key=attrgetter("split")):
            left = max_examples
            for block in blocks:
                for table, unreadable in self.read(replace(block, limit=left)):
                    left = None if left is None else left - table.num_rows
                    yield SplitTable(split, table, unreadable)
                if left == 0:
                    break

    def rows(self, split: str) -> int | None:
        """Return the approximate number of examples of a split; None if all of a file must be read to know it."""
        counts = [row_count(path, self.columns.get("question", "question")) for path in self.splits[split]]
        return None if None in counts else sum(count for count in counts if count is not None)

    def checksums(self) -> dict[str, str]:
        """Return the `store.identity` of every file, which differs if the file was changed.

        Raises:
            UserError: A file cannot be read.
        """
        sums = {}
        for split, paths in sorted(self.splits.items()):
            for number, path in enumerate(paths):
                try:
                    with store.reached(path, "SOURCE"):
                        sums[without_secrets(f"{split}/{number}/{path.name}")] = store.identity(path)
                except OSError as error:
                    raise UserError(f"{path} must be readable; {error.strerror}") from None
        return sums

    def describe(self) -> dict[str, Any]:
        """Return what the index of shards records about their source."""
        sums = self.checksums()
        listed = "\n".join(f"{name} {value}" for name, value in sums.items())
        whole = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
        return {"name": self.name, "origin": self.origin, "files": sums, "sha256": whole, "columns": self.columns}


@dataclass(frozen=True)
class MemorySource(Source):
    """Examples in memory; no split has files.

    Attributes:
        held: Split -> its examples.
    """

    held: dict[str, HeldTables] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """See `Source`."""
        return IN_MEMORY

    def blocks(self) -> Iterator[Block]:
        """See `Source`."""
        return itertools.chain.from_iterable(blocks_in(split, self.held[split]) for split in self.splits)

    def rows(self, split: str) -> int:
        """Return the number of examples of a split."""
        return sum(table.num_rows for table, _ in self.held[split])

    def checksums(self) -> dict[str, str]:
        """Return a hash of each split, which differs if an example differs."""
        sums = {}
        for split in sorted(self.splits):
            state = hashlib.sha256()
            for table, rejects in self.held[split].packed():
                state.update(table)
                state.update(rejects.encode())
            sums[split] = state.hexdigest()
        return sums
