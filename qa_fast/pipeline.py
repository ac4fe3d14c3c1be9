"""Tables of raw examples to files of features: checked, featurized side by side, written in order.

Kernels are loaded with this module, so `build` imports it late.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from qa_fast.buffers import one_chunk
from qa_fast.encode import TextEncoder
from qa_fast.errors import UserError
from qa_fast.examples import IdSet, check_examples
from qa_fast.features import BATCH_TOKENS, Featurized, featurize_examples
from qa_fast.parallel import in_order
from qa_fast.progress import Reporter, StageClock
from qa_fast.raw import Reject, SplitTable
from qa_fast.schema import FeatureConfig
from qa_fast.shards import REJECTED, TRAIN, SplitWriter, feature_batch, write_json
from qa_fast.sources import Source


@dataclass
class SplitCounts:
    """What became of a split's examples.

    Attributes:
        examples: Examples that have features.
        features: Windows.
        impossible: Features labelled at CLS.
        rejected: Examples left out.
        repaired: First answers put where their text stands.
        tokens: Tokens of all features, special ones included.
        differences: Features that `exact` and `reference` labels differ on, by cause.
    """

    examples: int = 0
    features: int = 0
    impossible: int = 0
    rejected: int = 0
    repaired: int = 0
    tokens: int = 0
    differences: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The counts as the index holds them."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Prepared:
    """A table of `rows` raw examples of a split, featurized, with the rejects and how many answers were repaired.

    `batches` are its features as they are written; they are made as they are asked for where there are many.
    """

    split: str
    rows: int
    done: Featurized
    batches: Iterable[pa.RecordBatch]
    rejects: list[Reject]
    repaired: int


@dataclass(frozen=True)
class Pipeline:
    """A build's way from tables of raw examples to files of features; what stays the same over its splits."""

    source: Source
    encoder: TextEncoder
    config: FeatureConfig
    max_examples: int | None
    workers: int
    strict: bool
    report: Reporter
    clock: StageClock

    def write(
        self, tables: Iterator[SplitTable], folder: Path
    ) -> tuple[dict[str, SplitCounts], dict[str, list[dict[str, Any]]]]:
        """Write every split into a folder; counts and files by split."""
        counts: dict[str, SplitCounts] = {}
        shards: dict[str, list[dict[str, Any]]] = {}
        prepared: Any = in_order(self._prepare, self._with_repeats(tables), self.workers)
        with (
            (folder / REJECTED).open("w", encoding="utf-8", errors="backslashreplace") as rejected,
            contextlib.closing(prepared),
        ):
            for split, parts in itertools.groupby(prepared, key=attrgetter("split")):
                counts[split], shards[split] = self._write_split(split, parts, folder / split, rejected)
        for split in self.source.splits:
            if split not in counts:
                raise self._no_examples(split, SplitCounts(), None)
        if not any(split.rejected for split in counts.values()):
            (folder / REJECTED).unlink()
        write_json(folder / "dataset_dict.json", {"splits": list(self.source.splits)})
        return counts, shards

    def _write_split(
        self, split: str, parts: Iterable[_Prepared], folder: Path, rejected: TextIO
    ) -> tuple[SplitCounts, list[dict[str, Any]]]:
        counts, first_reject = SplitCounts(), None
        progress = self.report.progress
        total = self.source.rows(split) if progress else None
        if total is not None and self.max_examples is not None:
            total = min(total, self.max_examples)
        writer = SplitWriter(folder, split)
        try:
            for part in parts:
                self._write_table(part, writer, counts)
                first_reject = first_reject or next(iter(part.rejects), None)
                self._reject(part.rejects, split, rejected)
                if progress:
                    progress(split, part.rows, total)
            if counts.features == 0:
                raise self._no_examples(split, counts, first_reject)
            with self.clock("write"):
                return counts, writer.close()
        finally:
            writer.abort()

    def _no_examples(self, split: str, counts: SplitCounts, first: Reject | None) -> UserError:
        why = f", the first {first.id or 'without id'}: {first.reason}" if first else ""
        return UserError(
            f"a split must hold at least one good example; {self.source.name} {split} has none "
            f"({counts.rejected} rejected{why}): check --columns and the file"
        )

    def _with_repeats(self, tables: Iterator[SplitTable]) -> Iterator[tuple[SplitTable, np.ndarray]]:
        """The tables with which of their ids came before in the split, which only one after the other can tell."""
        for _, of_split in itertools.groupby(tables, key=attrgetter("split")):
            seen = IdSet()
            for table in of_split:
                with self.clock("check"):
                    repeated = seen.add(one_chunk(table.rows["id"]))
                yield table, repeated

    def _prepare(self, raw: tuple[SplitTable, np.ndarray]) -> _Prepared:
        """Check and featurize a table; several threads do so at once."""
        (table, repeated), clock = raw, self.clock
        with clock("check"):
            examples, misplaced, repaired = check_examples(table.rows, repeated)
        drop = self.config.drop_impossible and table.split == TRAIN
        done = featurize_examples(examples, self.encoder, self.config, drop, clock)
        ids = done.encoded.examples.ids

        laid_out = clock.each("lay out", done.batches(self.encoder))
        batches: Iterable[pa.RecordBatch] = (feature_batch(features, ids, table.split) for features in laid_out)
        if done.windows.lengths.sum(dtype=np.int64) <= BATCH_TOKENS:
            batches = list(batches)
        rejects = [*table.unreadable, *misplaced, *done.rejects]
        return _Prepared(table.split, table.rows.num_rows, done, batches, rejects, repaired)

    def _write_table(self, part: _Prepared, writer: SplitWriter, counts: SplitCounts) -> None:
        """Write one table's features, and count them."""
        done = part.done
        examples = done.encoded.examples
        for batch in part.batches:
            with self.clock("write"):
                writer.add_features(batch)
        with self.clock("write"):
            feature_counts = np.bincount(done.windows.example_index, minlength=len(examples)).astype(np.int32)
            writer.add_examples(examples, done.encoded.contexts, done.encoded.leading_chars, feature_counts)
        counts.examples += len(examples)
        counts.features += len(done.windows)
        counts.impossible += int((done.labels.start_positions == done.windows.cls_position).sum())
        counts.repaired += part.repaired
        counts.rejected += len(part.rejects)
        counts.tokens += int(done.windows.lengths.sum(dtype=np.int64))
        for cause, count in done.labels.differences.items():
            counts.differences[cause] = counts.differences.get(cause, 0) + count

    def _reject(self, rejects: list[Reject], split: str, file: TextIO) -> None:
        if rejects and self.strict:
            first = rejects[0]
            raise UserError(
                f"--strict allows no rejected example; received {len(rejects)} or more in {split}, the first "
                f"{first.id or 'without id'}: {first.reason}"
            )
        for reject in rejects:
            line = {"split": split, "id": reject.id, "reason": reject.reason}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
