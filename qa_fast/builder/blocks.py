"""Blocks of a source to shards: read, checked, featurized side by side, written in order, each noted when it is there.

`ShardMaker` is all that a process needs to make the shard of any block, and pickles; `make_shards` is the local engine,
threads that share the tables of all blocks. Kernels are loaded with this module, so `build` imports it late.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast import store
from qa_fast.buffers import one_chunk
from qa_fast.builder.assembly import BlockEngine, Job
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

# Told: the block, and how many more of its rows are done.
Progress = Callable[[Block, int], None]


@dataclass(frozen=True)
class ShardMaker:
    """All that decides a block's shard, and where it is put.

    Attributes:
        encoder: The tokenizer.
        config: Window sizes and kind of labels.
        columns: Ours -> theirs.
        out: The shards' folder.
        fingerprint: Of the build.
    """

    encoder: TextEncoder
    config: FeatureConfig
    columns: dict[str, str]
    out: Path
    fingerprint: str

    @cached_property
    def journal(self) -> Journal:
        """Where finished blocks are noted."""
        return Journal(self.out, self.fingerprint)

    def make(self, block: Block, left_out: Int64s | None = None, strict: bool = False) -> BlockFacts:
        """Make one block's shard; nothing of it is in its place before all is.

        Args:
            block: Of the source.
            left_out: Rows to leave out since their ids came before, in other blocks.
            strict: Make any rejected example an error.

        Raises:
            UserError: The block cannot be read, or its shard not be written.
        """
        clock = StageClock()
        tables = read_tables([(block, left_out)], self.columns, clock)
        ((_, facts),) = make_shards(self, tables, 1, strict, clock)
        return facts


def local_engine(
    maker: ShardMaker,
    workers: int,
    strict: bool,
    clock: StageClock,
    progress: Progress | None,
    tables: Iterator[BlockTable] | None = None,
) -> BlockEngine:
    """Return an engine that uses the threads of this machine: one reads, several featurize, one writes.

    Args:
        maker: Makes the shards.
        workers: Number of threads that featurize.
        strict: Make any rejected example an error.
        clock: Times the stages.
        progress: Called for each table.
        tables: The tables of the engine's first call where reading them has begun.
    """
    begun = [] if tables is None else [tables]

    def run(jobs: Iterator[Job]) -> Iterator[tuple[Block, BlockFacts]]:
        read = begun.pop() if begun else read_tables(jobs, maker.columns, clock)
        return make_shards(maker, read, workers, strict, clock, progress)

    return run


@dataclass(frozen=True)
class _Prepared:
    """A table, featurized."""

    table: BlockTable
    done: FeaturizedTable | None


def make_shards(
    maker: ShardMaker,
    tables: Iterator[BlockTable],
    workers: int,
    strict: bool = False,
    clock: StageClock | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Block, BlockFacts]]:
    """Make the shards of blocks, on this machine's threads, and note each.

    Args:
        maker: The recipe.
        tables: As `read_tables` gives them.
        workers: Threads that featurize; where there are more than one, another reads and another writes beside them.
        strict: Make any rejected example an error.
        clock: Times the stages.
        progress: Told of each table.

    Yields:
        Each block with what became of it, in order.

    Raises:
        UserError: A block cannot be read, or its shard not be written.
    """
    clock = clock or StageClock()

    def prepare(table: BlockTable) -> _Prepared:
        if table.rows is None:
            return _Prepared(table, None)
        featurizer = Featurizer.of_encoder(maker.encoder, maker.config, table.block.split)
        return _Prepared(table, featurizer.featurize(table.rows, table.repeated, table.unreadable, clock))

    prepared: Any = in_order(prepare, _with_repeats(tables, clock), workers)
    with contextlib.closing(prepared):
        while (facts := _write_block(maker, prepared, strict, clock, progress)) is not None:
            yield facts


def _with_repeats(tables: Iterator[BlockTable], clock: StageClock) -> Iterator[BlockTable]:
    """The tables with which of their ids came before in the block, which only one after the other can tell."""
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
    """Write what comes up to the next block's end; None behind the last."""
    first = next(prepared, None)
    if first is None:
        return None
    block, counts, rejects, hashes, rows = first.table.block, SplitCounts(), [], [], 0
    with contextlib.ExitStack() as stack:
        with clock("write"):
            folder = _folder_for(maker, stack)
            writer = BlockWriter(folder, block.split, maker.fingerprint, block.number)
            stack.callback(writer.abort)
        part: _Prepared | None = first
        while part is not None and part.done is not None:
            _write_table(part.done, writer, clock)
            counts.add(part.done.counts)
            rejects += part.done.rejects
            if strict and rejects:
                raise UserError(
                    f"--strict allows no rejected example; received {len(rejects)} or more in {block.split}, the "
                    f"first {rejects[0].id or 'without id'}: {rejects[0].reason}"
                )
            assert part.table.rows is not None
            assert part.table.hashes is not None
            hashes.append(part.table.hashes)
            rows += part.table.rows.num_rows
            if progress:
                progress(block, part.table.rows.num_rows)
            part = next(prepared, None)
        assert part is not None  # a block's end
        with clock("write"):
            files = writer.close()
            for file in files:
                store.put_file(folder / file["file"], maker.out / block.split / file["file"])
            first_reject = (rejects[0].id, rejects[0].reason) if rejects else None
            facts = BlockFacts(rows, counts.to_dict(), files, first_reject, digest(part.table.left_out))
            all_hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
            maker.journal.write(block, facts, all_hashes, rejects)
    return block, facts


def _folder_for(maker: ShardMaker, stack: contextlib.ExitStack) -> Path:
    """Where files are written before they are whole: beside their places, or on this machine."""
    if not store.is_local(maker.out):
        return stack.enter_context(store.scratch())
    maker.journal.folder.mkdir(parents=True, exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix="writing-", dir=maker.journal.folder, ignore_cleanup_errors=True)
    return Path(stack.enter_context(folder))


def _write_table(done: FeaturizedTable, writer: BlockWriter, clock: StageClock) -> None:
    for batch in done.batches:
        with clock("write"):
            writer.add_features(batch)
    with clock("write"):
        writer.add_examples(done.examples, done.contexts, done.leading_chars, done.feature_counts)
