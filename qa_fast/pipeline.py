"""Tables of raw examples to files of features: checked, featurized side by side, written in order.

Kernels are loaded with this module, so `build` imports it late.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from qa_fast.buffers import one_chunk
from qa_fast.encode import TextEncoder
from qa_fast.errors import UserError
from qa_fast.examples import IdSet
from qa_fast.featurizer import FeaturizedTable, Featurizer, SplitCounts
from qa_fast.parallel import in_order
from qa_fast.progress import Reporter, StageClock
from qa_fast.raw import Reject, SplitTable
from qa_fast.schema import FeatureConfig
from qa_fast.shards import REJECTED, SplitWriter, write_json
from qa_fast.sources import Source


@dataclass(frozen=True)
class _Prepared:
    """A table of `rows` raw examples of a split, featurized."""

    split: str
    rows: int
    done: FeaturizedTable


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
                self._write_table(part.done, writer)
                counts.add(part.done.counts)
                first_reject = first_reject or next(iter(part.done.rejects), None)
                self._reject(part.done.rejects, split, rejected)
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
        table, repeated = raw
        featurizer = Featurizer.of_encoder(self.encoder, self.config, table.split)
        done = featurizer.featurize(table.rows, repeated, table.unreadable, self.clock)
        return _Prepared(table.split, table.rows.num_rows, done)

    def _write_table(self, done: FeaturizedTable, writer: SplitWriter) -> None:
        for batch in done.batches:
            with self.clock("write"):
                writer.add_features(batch)
        with self.clock("write"):
            writer.add_examples(done.examples, done.contexts, done.leading_chars, done.feature_counts)

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
