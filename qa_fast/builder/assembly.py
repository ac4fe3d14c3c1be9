"""All of a source's shards, by an engine: what an earlier run finished is kept, and what repeats an id is made again.

The blocks' facts are then one folder's: counts added up, rejects in the source's order, the index last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

import numpy as np
import xxhash

from qa_fast import store
from qa_fast.builder.featurizer import SplitCounts
from qa_fast.builder.repeats import digest, repeated_rows
from qa_fast.builder.staging import commit
from qa_fast.errors import UserError
from qa_fast.progress import Reporter
from qa_fast.schema import Int64s
from qa_fast.shards.format import CHECKSUM, FILE_FACTS, REJECTED
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.shards.write import write_for_datasets
from qa_fast.sources import Source
from qa_fast.sources.pieces import Block

Job = tuple[Block, Int64s | None]
"""A block and the rows to leave out of it."""
BlockEngine = Callable[[Iterator[Job]], Iterator[tuple[Block, BlockFacts]]]
"""Makes the shards of jobs and yields the facts of each block, in any order. It decides nothing about the bits."""
Made = list[tuple[Block, BlockFacts]]


class Jobs(Iterator[Job]):
    """The blocks of a source that are still to be made; those that are there already are noted on the way.

    Attributes:
        order: All blocks so far.
        kept: Of them, those that were there, with what became of them.
        journal: Knows what is there; None where nothing can be.
        report: Told of rows that were there.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.order: list[Block] = []
        self.kept: dict[Block, BlockFacts] = {}
        self.journal: Journal | None = None
        self.report = Reporter()
        self._blocks = iter(blocks)

    def __next__(self) -> Job:
        for block in self._blocks:
            self.order.append(block)
            facts = self.journal and self.journal.finished(block)
            if not facts:
                return block, None
            self.kept[block] = facts
            if self.report.progress:
                self.report.progress(block.split, facts.rows, None)
        raise StopIteration


def make_all(journal: Journal, jobs: Jobs, engine: BlockEngine, report: Reporter) -> Made:
    """Make the shards of all blocks that are not there yet.

    Args:
        journal: Of the build.
        jobs: The source's blocks.
        engine: Makes what is missing.
        report: Told what was kept.

    Returns:
        Each block with what became of it, in the source's order.

    Raises:
        UserError: A block cannot be read, or its shard not be written; what is finished stays, for the next run.
    """
    done = dict(engine(jobs))
    if jobs.kept:
        report.say(f"{len(jobs.kept)} of {len(jobs.order)} shards were there from an interrupted run, and are whole")
    done |= jobs.kept
    order = jobs.order
    again = []
    for _, of_split in itertools.groupby(order, key=attrgetter("split")):
        split_blocks = list(of_split)
        repeats = repeated_rows(journal, split_blocks)
        for number, block in enumerate(split_blocks):
            rows = repeats.get(number)
            if done[block].without != digest(rows):
                again.append((block, np.zeros(0, np.int64) if rows is None else rows))
    for block, facts in engine(iter(again)) if again else ():
        done[block] = facts
    return [(block, done[block]) for block in order]


def put_together(
    journal: Journal, source: Source, made: Made, about: dict[str, Any], strict: bool = False
) -> dict[str, Any]:
    """Make finished blocks a folder of shards; the index vouches for it at the end.

    Args:
        journal: Of the build.
        source: What was featurized.
        made: All its blocks.
        about: What the index says besides the splits.
        strict: Make any rejected example an error.

    Returns:
        The index.

    Raises:
        UserError: A split has no good example, or `strict` and one is rejected.
    """
    splits: dict[str, dict[str, Any]] = {}
    for split in source.splits:
        of_split = [facts for block, facts in made if block.split == split]
        counts = SplitCounts()
        for facts in of_split:
            counts.add(SplitCounts(**facts.counts))
        first = next((facts.first_reject for facts in of_split if facts.first_reject), None)
        if strict and first:
            raise UserError(
                f"--strict allows no rejected example; received {counts.rejected} in {split}, the first "
                f"{first[0] or 'without id'}: {first[1]}"
            )
        if counts.features == 0:
            why = f", the first {first[0] or 'without id'}: {first[1]}" if first else ""
            raise UserError(
                f"a split must hold at least one good example; {source.name} {split} has none "
                f"({counts.rejected} rejected{why}): check --columns and the file"
            )
        # Facts that were read from a file have their keys in another order, which the index must not have.
        files = [{name: file[name] for name in FILE_FACTS} for facts in of_split for file in facts.files]
        splits[split] = {**counts.to_dict(), "shards": files}
    index = {**about, "splits": splits, "rejected": _write_rejects(journal, made)}
    write_for_datasets(journal.out, {split: list(said["shards"]) for split, said in splits.items()})
    commit(journal.out, index)
    journal.clear()
    return index


def _write_rejects(journal: Journal, made: Made) -> dict[str, Any] | None:
    """All rejects in one file, in the source's order; what tells that it is whole, or None where there are none."""
    place = journal.out / REJECTED
    with_some = [block for block, facts in made if facts.counts["rejected"]]
    if not with_some:
        store.remove(place)
        return None
    checksum, size = xxhash.xxh3_128(), 0
    with store.whole_file(place) as local, local.open("wb") as file:
        for block in with_some:
            lines = journal.rejected(block)
            checksum.update(lines)
            size += len(lines)
            file.write(lines)
    return {"bytes": size, CHECKSUM: checksum.hexdigest()}
