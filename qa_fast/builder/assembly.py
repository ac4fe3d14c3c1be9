"""Makes all blocks of a source with an engine, and turns the finished blocks into one folder of shards.

Blocks that an interrupted run finished are kept. A block that repeats an id of an earlier block is made again without
the repeated rows. The folder's index adds up the counts of all blocks; rejects keep the order of the source.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

import numpy as np

from qa_fast import store
from qa_fast.builder.featurizer import SplitCounts
from qa_fast.builder.repeats import digest, repeated_rows
from qa_fast.builder.staging import commit
from qa_fast.errors import UserError
from qa_fast.progress import Reporter
from qa_fast.schema import Int64s
from qa_fast.shards.format import CHECKSUM, FILE_FACTS, REJECTED, REPAIRED, file_checksum
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.shards.write import write_for_datasets
from qa_fast.sources import Source
from qa_fast.sources.pieces import Block

Job = tuple[Block, Int64s | None]
"""A block, and the rows to leave out of it."""
BlockEngine = Callable[[Iterator[Job]], Iterator[tuple[Block, BlockFacts]]]
"""Makes the shards of jobs and yields the facts of each block, in any order. It decides nothing about the bits."""
MadeBlocks = list[tuple[Block, BlockFacts]]
"""All blocks in the order of the source, each with its facts."""
STRICT = "--strict allows no rejected and no repaired example, and no answer that is left out"


class Jobs(Iterator[Job]):
    """Iterates over the blocks of a source that must be made, and notes those that are finished already.

    Attributes:
        order: All blocks so far.
        kept: Those of them that were finished already, with their facts.
        journal: Knows which blocks are finished; None if none can be.
        report: Receives the rows of finished blocks as progress.
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


def make_all(journal: Journal, jobs: Jobs, engine: BlockEngine, report: Reporter) -> MadeBlocks:
    """Make the shards of all blocks that are not finished yet.

    Args:
        journal: The journal of the build.
        jobs: The blocks of the source.
        engine: Makes the missing shards.
        report: Receives a message if shards were kept.

    Raises:
        UserError: A block cannot be read, or its shard not written. Finished blocks are kept for the next run.
    """
    facts = dict(engine(jobs))
    if jobs.kept:
        report.say(f"{len(jobs.kept)} of {len(jobs.order)} shards were finished by an interrupted run and are kept")
    facts |= jobs.kept
    again: list[Job] = []
    for _, blocks_of_split in itertools.groupby(jobs.order, key=attrgetter("split")):
        blocks = list(blocks_of_split)
        repeats = repeated_rows(journal, blocks)
        for number, block in enumerate(blocks):
            rows = repeats.get(number, np.zeros(0, np.int64))
            if facts[block].without != digest(rows):
                again.append((block, rows))
    if again:
        facts |= dict(engine(iter(again)))
    return [(block, facts[block]) for block in jobs.order]


def refused_by_strict(counts: Mapping[str, Any]) -> str | None:
    """Return what `--strict` refuses first among the counts of a split, such as "3 rejected"; None if nothing."""
    for name in ("rejected", "repaired", "unplaced", "misplaced"):
        if counts.get(name):
            return f"{counts[name]} {name}"
    return None


def put_together(
    journal: Journal, source: Source, made: MadeBlocks, head: dict[str, Any], strict: bool = False
) -> dict[str, Any]:
    """Turn finished blocks into a folder of shards, and write its index last.

    Args:
        journal: The journal of the build.
        source: The source that was featurized.
        made: All its blocks.
        head: The index without its splits and rejects.
        strict: Make any rejected or repaired example an error.

    Returns:
        The index.

    Raises:
        UserError: A split has no good example, or `strict` and one is rejected or repaired.
    """
    splits: dict[str, dict[str, Any]] = {}
    for split in source.splits:
        facts_of_split = [facts for block, facts in made if block.split == split]
        counts = SplitCounts()
        for facts in facts_of_split:
            counts.add(SplitCounts(**facts.counts))
        reject = next((facts.first_reject for facts in facts_of_split if facts.first_reject), None)
        first = f"the first {reject[0] or 'without id'}: {reject[1]}" if reject else ""
        refused = refused_by_strict(counts.to_dict()) if strict else None
        if refused:
            raise UserError(f"{STRICT}; received {refused} in {split}{f', {first}' if first else ''}")
        if counts.features == 0:
            raise UserError(
                f"a split must hold at least one good example; {source.name} {split} has none "
                f"({counts.rejected} rejected{f', {first}' if first else ''}): check --columns and the file"
            )
        # Facts that were read from a file have their keys in another order, which the index must not have.
        files = [{name: file[name] for name in FILE_FACTS} for facts in facts_of_split for file in facts.files]
        splits[split] = {**counts.to_dict(), "shards": files}
    index = {
        **head,
        "splits": splits,
        "rejected": _write_list(journal, made, REJECTED),
        "repaired": _write_list(journal, made, REPAIRED),
    }
    write_for_datasets(journal.out, {split: facts["shards"] for split, facts in splits.items()})
    commit(journal.out, index)
    journal.clear()
    return index


def _write_list(journal: Journal, made: MadeBlocks, name: str) -> dict[str, Any] | None:
    """Write all rejects or repairs into one file and return its size and checksum; None if there are none."""
    path = journal.out / name
    counted = ("rejected",) if name == REJECTED else ("repaired", "unplaced")
    blocks = [block for block, facts in made if any(facts.counts.get(count) for count in counted)]
    if not blocks:
        store.remove(path)
        return None
    with store.whole_file(path) as local:
        with local.open("wb") as file:
            for block in blocks:
                file.write(journal.listed(block, name))
        return {"bytes": store.size_of(local), CHECKSUM: file_checksum(local)}
