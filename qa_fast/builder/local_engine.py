"""This machine's threads: one reads, several featurize, one writes."""

from __future__ import annotations

from collections.abc import Iterator

from qa_fast.builder.blocks import Progress, ShardMaker, make_shards
from qa_fast.builder.engines import Engine, Job
from qa_fast.progress import StageClock
from qa_fast.shards.journal import BlockFacts
from qa_fast.sources.pieces import Block
from qa_fast.sources.read import BlockTable, read_tables


def local_engine(
    maker: ShardMaker,
    workers: int,
    strict: bool,
    clock: StageClock,
    progress: Progress | None,
    under_way: Iterator[BlockTable] | None = None,
) -> Engine:
    """An engine of threads.

    Args:
        maker: The recipe of a shard.
        workers: Threads that featurize.
        strict: Make any rejected example an error.
        clock: Times the stages.
        progress: Told of each table.
        under_way: Tables of the first jobs, where their reading has begun.
    """
    begun = [under_way] if under_way is not None else []

    def run(jobs: Iterator[Job]) -> Iterator[tuple[Block, BlockFacts]]:
        tables = begun.pop() if begun else read_tables(jobs, maker.columns, clock)
        return make_shards(maker, tables, workers, strict, clock, progress)

    return run
