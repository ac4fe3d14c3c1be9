"""Makes the shards of blocks: reads, checks, featurizes and writes them, and notes each finished block in the journal.

`ShardMaker` is all that a process needs to make the shard of any block, and can be pickled. `local_engine` makes the
shards with the threads of this machine. Kernels are loaded with this module, so `job` imports it late.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast import store, temporary
from qa_fast.buffers import one_chunk
from qa_fast.builder.assembly import STRICT, BlockEngine, Job
from qa_fast.builder.featurizer import FeaturizedTable, Featurizer, SplitCounts
from qa_fast.builder.repeats import digest
from qa_fast.encode import TextEncoder
from qa_fast.errors import UserError
from qa_fast.features.examples import IdSet, id_hashes
from qa_fast.parallel import in_order
from qa_fast.progress import StageClock
from qa_fast.schema import FeatureConfig, Int64s
from qa_fast.shards import BlockWriter
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.sources.pieces import Block
from qa_fast.sources.read import BlockTable, read_tables

Progress = Callable[[Block, int], None]
"""Called with a block and the number of its rows that were finished since the last call."""


@dataclass(frozen=True)
class ShardMaker:
    """Everything that decides the shard of a block, and the folder it is written to.

    Attributes:
        encoder: The tokenizer.
        config: Window sizes and kind of labels.
        columns: Our column names -> those of the source.
        out: The folder of the shards.
        fingerprint: The fingerprint of the build.
    """

    encoder: TextEncoder
    config: FeatureConfig
    columns: dict[str, str]
    out: Path
    fingerprint: str

    @cached_property
    def journal(self) -> Journal:
        """The journal of the build."""
        return Journal(self.out, self.fingerprint)

    def make(self, block: Block, left_out: Int64s | None = None, strict: bool = False) -> BlockFacts:
        """Make the shard of one block. Its files appear in their places once all of them are complete.

        Args:
            block: A block of the source.
            left_out: Rows to leave out because earlier blocks have their ids.
            strict: Make any rejected or repaired example an error.

        Raises:
            UserError: The block cannot be read, or its shard not written.
        """
        clock = StageClock()
        tables = read_tables([(block, left_out)], self.columns, clock)
        ((_, facts),) = _make_shards(self, tables, 1, strict, clock, None)
        return facts


def local_engine(
    maker: ShardMaker,
    workers: int,
    strict: bool,
    clock: StageClock,
    progress: Progress | None,
    tables: Iterator[BlockTable] | None = None,
) -> BlockEngine:
    """Return an engine that uses the threads of this machine.

    Args:
        maker: Decides the shards.
        workers: Number of threads that featurize; with more than one, another thread reads and another writes.
        strict: Make any rejected or repaired example an error.
        clock: Times the stages.
        progress: Called for each table.
        tables: The tables of the engine's first call, if reading them has begun.
    """
    begun = [] if tables is None else [tables]

    def run(jobs: Iterator[Job]) -> Iterator[tuple[Block, BlockFacts]]:
        read = begun.pop() if begun else read_tables(jobs, maker.columns, clock)
        return _make_shards(maker, read, workers, strict, clock, progress)

    return run


# A table with its features; the end of a block has none.
_Prepared = tuple[BlockTable, FeaturizedTable | None]


def _make_shards(
    maker: ShardMaker,
    tables: Iterator[BlockTable],
    workers: int,
    strict: bool,
    clock: StageClock,
    progress: Progress | None,
) -> Iterator[tuple[Block, BlockFacts]]:
    """Make the shards of blocks from their tables (see `read_tables`); yield each block with its facts, in order."""

    def prepare(table: BlockTable) -> _Prepared:
        if table.rows is None:
            return table, None
        featurizer = Featurizer.of_encoder(maker.encoder, maker.config, table.block.split)
        return table, featurizer.featurize(table.rows, table.repeated, table.unreadable, clock)

    prepared: Any = in_order(prepare, _with_repeats(tables, clock), workers)
    with contextlib.closing(prepared):
        while (made := _write_block(maker, prepared, strict, clock, progress)) is not None:
            yield made


def _with_repeats(tables: Iterator[BlockTable], clock: StageClock) -> Iterator[BlockTable]:
    """Add to each table which of its ids came before in the same block; this needs the tables in order."""
    seen, row = IdSet(), 0
    for table in tables:
        if table.rows is None:
            seen, row = IdSet(), 0
            yield table
            continue
        with clock("check"):
            hashes = id_hashes(one_chunk(table.rows["id"]))
            repeated, end = seen.add_hashes(hashes), row + table.rows.num_rows
            if table.left_out is not None:
                repeated[table.left_out[(table.left_out >= row) & (table.left_out < end)] - row] = True
        yield replace(table, hashes=hashes, repeated=repeated)
        row = end


def _write_block(
    maker: ShardMaker, prepared: Iterator[_Prepared], strict: bool, clock: StageClock, progress: Progress | None
) -> tuple[Block, BlockFacts] | None:
    """Write all tables up to the end of the next block; return None after the last block."""
    table, part = next(prepared, (None, None))
    if table is None:
        return None
    block, counts, rejects, repairs, hashes, rows = table.block, SplitCounts(), [], [], [np.zeros(0, np.uint64)], 0
    with contextlib.ExitStack() as stack:
        with clock("write"):
            if store.is_local(maker.out):  # incomplete files are on the disk of the shards, or on this machine
                maker.journal.folder.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(temporary.temporary_folder("writing-", maker.journal.folder))
            else:
                folder = stack.enter_context(temporary.scratch())
            writer = BlockWriter(folder, block.split, maker.fingerprint, block.number)
            stack.callback(writer.abort)
        while part is not None:
            _write_table(part, writer, clock)
            counts.add(part.counts)
            rejects += part.rejects
            repairs += part.repairs
            if strict and (refused := rejects or repairs):
                raise UserError(
                    f"{STRICT}; received {len(refused)} or more {'rejected' if rejects else 'repaired'} in "
                    f"{block.split}, the first {refused[0].id or 'without id'}: {refused[0].reason}"
                )
            if strict and counts.misplaced:
                raise UserError(
                    f"{STRICT}; received {counts.misplaced} or more in {block.split} after the first ones of their "
                    "questions, which are not at their answer_start: correct the source"
                )
            assert table.rows is not None
            assert table.hashes is not None
            hashes.append(table.hashes)
            rows += table.rows.num_rows
            if progress:
                progress(block, table.rows.num_rows)
            table, part = next(prepared)
        with clock("write"):
            files = writer.close()
            for file in files:
                store.put_file(folder / file["file"], maker.out / block.split / file["file"])
            first_reject = (rejects[0].id, rejects[0].reason) if rejects else None
            facts = BlockFacts(rows, counts.to_dict(), files, first_reject, digest(table.left_out))
            maker.journal.write(block, facts, np.concatenate(hashes), rejects, repairs)
    return block, facts


def _write_table(table: FeaturizedTable, writer: BlockWriter, clock: StageClock) -> None:
    writer.add_labels(table.further)
    for batch in table.batches:  # which may be computed only now, and is not writing
        with clock("write"):
            writer.add_features(batch)
    with clock("write"):
        writer.add_examples(table.examples, table.contexts, table.leading_chars, table.feature_counts)
