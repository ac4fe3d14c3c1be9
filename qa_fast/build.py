"""A source to a whole folder of shards: the main job, from names to the index that marks it finished.

Splits are read, checked, featurized and written table by table; `staging` puts the folder in place when all are whole.
The index, qa_fast.json, holds a fingerprint of everything that decides the bits: a second run knows its work is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from qa_fast.buffers import one_chunk
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.examples import IdSet, Reject, check_examples
from qa_fast.featurize import BATCH_TOKENS, Featurized, featurize_examples
from qa_fast.parallel import Ahead, in_order
from qa_fast.schema import LABEL_MODES, FeatureConfig, canonical_json
from qa_fast.shards import FORMAT_VERSION, TRAIN, SplitWriter, damaged_file, feature_batch, write_json
from qa_fast.sources import Source, resolve_model, resolve_source
from qa_fast.sources.cache import local_path
from qa_fast.staging import check_out, check_replaceable, finished, locked, put_in_place, staged
from qa_fast.version import __version__

_REJECTED = "rejected.jsonl"


@dataclass
class SplitCounts:
    """What became of a split's examples.

    Attributes:
        examples: Examples that have features.
        features: Windows.
        impossible: Features labelled at CLS.
        rejected: Examples left out.
        repaired: Answers shifted to where their text stands.
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
class BuildResult:
    """A finished build.

    Attributes:
        out: The shard folder.
        manifest: Its index.
        up_to_date: Whether it was there already and nothing was done.
        seconds: Wall time of the whole job.
        stage_seconds: Wall time by stage, over all splits and threads.
    """

    out: Path
    manifest: dict[str, Any]
    up_to_date: bool
    seconds: float
    stage_seconds: dict[str, float]


@dataclass(frozen=True)
class Reporter:
    """Where a build says what it does: a line, or so many more examples of a split done, of a total if it is known."""

    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str, int, int | None], None] | None = None


def build_shards(
    source: str,
    out: str | Path,
    model: str = "minilm",
    config: FeatureConfig | None = None,
    *,
    columns: dict[str, str] | None = None,
    splits: list[str] | None = None,
    max_examples: int | None = None,
    encode: str = "auto",
    workers: int = 1,
    overwrite: bool = False,
    strict: bool = False,
    report: Reporter | None = None,
) -> BuildResult:
    """Featurize a source into a folder of shards.

    Args:
        source: "squad", a local file or folder, or a Hub dataset id.
        out: The folder to make.
        model: Whose tokenizer: "minilm", a local folder, or a Hub model id.
        config: Window sizes and kind of labels.
        columns: Ours -> theirs, for data with other column names.
        splits: Only these.
        max_examples: At most so many examples of each split, the first ones.
        encode: "auto", "direct" or "words": see `encode.load_encoder`; the shards are the same.
        workers: Threads that featurize; where there are more than one, another reads and another writes beside them.
        overwrite: Replace shards that were made with other inputs or options.
        strict: Make any rejected example an error.
        report: Where to say what is done.

    Raises:
        UserError: For anything the user can put right; nothing in `out` is changed then.
    """
    started = time.perf_counter()
    config, report, out = config or FeatureConfig(), report or Reporter(), local_path(str(out))
    _check_options(config, max_examples, workers)
    check_out(out)
    found = resolve_source(source, columns, splits, report.say)
    folder = resolve_model(model, report.say, weights=False)
    clock = _Clock()
    with contextlib.ExitStack() as stack:
        tables = _tables(found, max_examples, clock)
        describe = found.describe
        if workers > 1:  # a first look at the source, while the tokenizer is loaded
            pool = stack.enter_context(ThreadPoolExecutor(1))
            describe = pool.submit(describe).result
            if finished(out) is None:
                tables = stack.enter_context(contextlib.closing(Ahead(tables)))
        encoder = load_encoder(folder, encode, report.say)
        _check_room(config, encoder)
        about_source = describe()
        decides = {
            "format": FORMAT_VERSION,
            "version": __version__,
            "config": config.to_dict(),
            "tokenizer": encoder.tokenizer_hash,
            "token_types": encoder.has_token_types,
            "source": about_source["sha256"],
            "columns": found.columns,
            "splits": list(found.splits),
            "max_examples": max_examples,
        }
        fingerprint = hashlib.sha256(canonical_json(decides).encode("utf-8", "surrogateescape")).hexdigest()
        stack.enter_context(locked(out))
        there = finished(out)
        if there is not None and there.get("fingerprint") == fingerprint:
            damaged = damaged_file(out, there)
            if damaged is None:
                _check_strict(out, there, strict)
                report.say(f"{out} is up to date: same source, model and options")
                return BuildResult(out, there, True, time.perf_counter() - started, {})
            report.say(f"{out}: {damaged} is missing or cut short, featurizing again")
        elif there is not None and not overwrite:
            raise UserError(
                f"{out} holds shards made with other inputs or options ({_changes(there, decides)}): "
                "pass --overwrite to replace them, or choose another --out"
            )
        check_replaceable(out, found.splits)
        partial = stack.enter_context(staged(out))
        counts, shards = _Job(found, encoder, config, max_examples, workers, strict, report, clock).write(
            tables, partial
        )
        manifest = {
            "qa_fast_version": __version__,
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "config": config.to_dict(),
            "decided_by": decides,
            "model": _about_model(model, folder, encoder),
            "source": about_source,
            "splits": {split: {**counts[split].to_dict(), "shards": shards[split]} for split in found.splits},
        }
        put_in_place(partial, out, manifest)
    return BuildResult(out, manifest, False, time.perf_counter() - started, clock.seconds)


@dataclass(frozen=True)
class _Raw:
    """A table of a split's raw examples, which of its ids came before, and the rows that could not enter it."""

    split: str
    table: pa.Table
    repeated: np.ndarray
    unreadable: list[Reject]


@dataclass(frozen=True)
class _Prepared:
    """A table of `rows` raw examples of a split, featurized, with the rejects and how many answers were shifted.

    `batches` are its features as they are written; they are made as they are asked for where there are many.
    """

    split: str
    rows: int
    done: Featurized
    batches: Iterable[pa.RecordBatch]
    rejects: list[Reject]
    repaired: int


@dataclass(frozen=True)
class _Job:
    """What stays the same over a build's splits."""

    source: Source
    encoder: TextEncoder
    config: FeatureConfig
    max_examples: int | None
    workers: int
    strict: bool
    report: Reporter
    clock: _Clock

    def write(
        self, tables: Iterator[_Raw], folder: Path
    ) -> tuple[dict[str, SplitCounts], dict[str, list[dict[str, Any]]]]:
        """Write every split into a folder; counts and files by split."""
        counts: dict[str, SplitCounts] = {}
        shards: dict[str, list[dict[str, Any]]] = {}
        prepared: Any = in_order(self._prepare, tables, self.workers)
        with (
            (folder / _REJECTED).open("w", encoding="utf-8", errors="backslashreplace") as rejected,
            contextlib.closing(prepared),
        ):
            for split, parts in itertools.groupby(prepared, key=attrgetter("split")):
                counts[split], shards[split] = self._write_split(split, parts, folder / split, rejected)
        for split in self.source.splits:
            if split not in counts:
                raise self._no_examples(split, SplitCounts(), None)
        if not any(split.rejected for split in counts.values()):
            (folder / _REJECTED).unlink()
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

    def _prepare(self, raw: _Raw) -> _Prepared:
        """Check and featurize a table; several threads do so at once."""
        split, clock = raw.split, self.clock
        with clock("check"):
            examples, misplaced, repaired = check_examples(raw.table, raw.repeated)
        drop = self.config.drop_impossible and split == TRAIN
        done = featurize_examples(examples, self.encoder, self.config, drop, clock)
        ids = done.encoded.examples.ids

        laid_out = clock.each("lay out", done.batches(self.encoder))
        batches: Iterable[pa.RecordBatch] = (feature_batch(features, ids, split) for features in laid_out)
        if done.windows.lengths.sum(dtype=np.int64) <= BATCH_TOKENS:
            batches = list(batches)
        return _Prepared(
            split, raw.table.num_rows, done, batches, [*raw.unreadable, *misplaced, *done.rejects], repaired
        )

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


def _tables(source: Source, max_examples: int | None, clock: _Clock) -> Iterator[_Raw]:
    """The tables of all splits, one split after the other, no more examples of each than wanted."""
    for split in source.splits:
        left, seen = max_examples, IdSet()
        for table, unreadable in clock.each("load", source.read(split)):
            if left is not None:
                table, left = table.slice(0, left), max(left - table.num_rows, 0)
            with clock("check"):
                repeated = seen.add(one_chunk(table["id"]))
            yield _Raw(split, table, repeated, unreadable)
            if left == 0:
                break


class _Clock:
    """Adds up wall time by stage, of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - begun
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + took

    def each(self, stage: str, items: Iterator[Any]) -> Iterator[Any]:
        """The items, the time to make each one counted to the stage."""
        while True:
            with self(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def _check_options(config: FeatureConfig, max_examples: int | None, workers: int) -> None:
    if config.labels not in LABEL_MODES:
        raise UserError(f"--labels must be one of {', '.join(LABEL_MODES)}; received {config.labels!r}")
    if config.max_length < 1 or config.doc_stride < 0:
        raise UserError(
            "--max-length must be positive and --doc-stride not negative; "
            f"received {config.max_length} and {config.doc_stride}"
        )
    if config.doc_stride >= config.max_length:
        raise UserError(
            "--doc-stride (the overlap of windows) must be smaller than --max-length; "
            f"received {config.doc_stride} and {config.max_length}: lower it or raise --max-length"
        )
    if max_examples is not None and max_examples < 1:
        raise UserError(f"--max-examples must be at least 1; received {max_examples}")
    if workers < 1:
        raise UserError(f"--workers must be at least 1; received {workers}")


def _check_room(config: FeatureConfig, encoder: TextEncoder) -> None:
    room = config.max_length - encoder.template.special_tokens
    if config.doc_stride >= room:
        raise UserError(
            f"--doc-stride (the overlap of windows) must be smaller than the room for context, at most {room} tokens "
            f"with --max-length {config.max_length}; received {config.doc_stride}: lower it or raise --max-length"
        )


def _check_strict(out: Path, there: dict[str, Any], strict: bool) -> None:
    rejected = sum(split["rejected"] for split in there["splits"].values())
    if strict and rejected:
        raise UserError(
            f"--strict allows no rejected example; {out} was made with {rejected} of them: "
            f"see {out / _REJECTED} and mend the source"
        )


def _changes(there: dict[str, Any], decides: dict[str, Any]) -> str:
    """Which inputs and options differ from those of the finished shards."""
    known = there.get("decided_by")
    before: dict[str, Any] = known if isinstance(known, dict) else {}
    old, new = ({**each, **(each.get("config") or {})} for each in (before, decides))
    changed = []
    for name, value in new.items():
        if name == "config" or old.get(name) == value:
            continue
        is_long = isinstance(value, dict | list) or name in ("tokenizer", "source")
        changed.append(f"another {name}" if is_long else f"{name} {old.get(name)} -> {value}")
    return ", ".join(changed) or "another version"


def _about_model(name: str, folder: Path, encoder: TextEncoder) -> dict[str, Any]:
    return {
        "name": str(folder.resolve()) if local_path(name) == folder else name,
        "tokenizer_hash": encoder.tokenizer_hash,
        "cls_token_id": encoder.cls_id,
        "pad_token_id": encoder.pad_id,
        "has_token_types": encoder.has_token_types,
    }
