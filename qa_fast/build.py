"""A source to a whole folder of shards: the main job, from names to the index that marks it finished.

Everything is written inside OUT under a temporary folder; when all splits are whole they are renamed into place, and
qa_fast.json is written last. A run that is killed leaves no index, so nothing half-written is trusted, and the next run
clears it away. The index holds a fingerprint of everything that decides the bits, so a second run knows its work is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.examples import IdSet, Reject, check_examples
from qa_fast.featurize import featurize_examples
from qa_fast.schema import LABEL_MODES, FeatureConfig, canonical_json
from qa_fast.shards import FORMAT_VERSION, INDEX, TRAIN, SplitWriter, damaged_file, write_json
from qa_fast.sources import Source, resolve_model, resolve_source
from qa_fast.version import __version__

_PARTIAL = ".qa_fast-partial"
_OWNER = "pid"
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
        seconds: Wall time, by stage.
    """

    examples: int = 0
    features: int = 0
    impossible: int = 0
    rejected: int = 0
    repaired: int = 0
    tokens: int = 0
    differences: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The counts as the index holds them (no times: the same input gives the same bytes)."""
        return {name: value for name, value in vars(self).items() if name != "seconds"}


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    Attributes:
        out: The shard folder.
        manifest: Its index.
        up_to_date: Whether it was there already and nothing was done.
        seconds: Wall time of the whole job.
        stage_seconds: Wall time by stage, over all splits.
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
    progress: Callable[[str, int, int | None], None] = lambda split, done, total: None


def build_shards(
    source: str,
    out: str | Path,
    model: str = "minilm",
    config: FeatureConfig | None = None,
    *,
    columns: dict[str, str] | None = None,
    splits: list[str] | None = None,
    max_examples: int | None = None,
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
        workers: Threads.
        overwrite: Replace shards that were made with other inputs or options.
        strict: Make any rejected example an error.
        report: Where to say what is done.

    Raises:
        UserError: For anything the user can put right; nothing in `out` is changed then.
    """
    started = time.perf_counter()
    config, report, out = config or FeatureConfig(), report or Reporter(), Path(out).expanduser()
    _check_options(config, max_examples, workers)
    _check_out(out)
    found = resolve_source(source, columns, splits, report.say)
    folder = resolve_model(model, report.say)
    encoder = load_encoder(folder)
    _check_room(config, encoder)
    about_source = found.describe()
    decides = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "config": config.to_dict(),
        "tokenizer": encoder.tokenizer_hash,
        "source": about_source["sha256"],
        "columns": found.columns,
        "splits": list(found.splits),
        "max_examples": max_examples,
        "strict": strict,
    }
    fingerprint = hashlib.sha256(canonical_json(decides).encode()).hexdigest()
    there = _finished(out)
    if there is not None and there.get("fingerprint") == fingerprint:
        damaged = damaged_file(out, there)
        if damaged is None:
            report.say(f"{out} is up to date: same source, model and options")
            return BuildResult(out, there, True, time.perf_counter() - started, {})
        report.say(f"{out}: {damaged} is missing or cut short, featurizing again")
    elif there is not None and not overwrite:
        raise UserError(
            f"{out} holds shards made with other inputs or options ({_changes(there, decides)}): "
            "pass --overwrite to replace them, or choose another --out"
        )
    with _writing(out) as partial:
        counts, files, rejects = {}, {}, 0
        with (partial / _REJECTED).open("w", encoding="utf-8") as rejected:
            for split in found.splits:
                writer = SplitWriter(partial / split, split)
                try:
                    counts[split] = _build_split(
                        found, split, writer, encoder, config, max_examples, workers, strict, rejected, report
                    )
                    begun = time.perf_counter()
                    files[split] = writer.close()
                    counts[split].seconds["write"] += time.perf_counter() - begun
                finally:
                    writer.abort()
                rejects += counts[split].rejected
        if not rejects:
            (partial / _REJECTED).unlink()
        manifest = {
            "qa_fast_version": __version__,
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "config": config.to_dict(),
            "decided_by": decides,
            "model": _about_model(model, folder, encoder),
            "source": about_source,
            "splits": {split: {**counts[split].to_dict(), "shards": files[split]} for split in found.splits},
        }
        write_json(partial / "dataset_dict.json", {"splits": list(found.splits)})
        _put_in_place(partial, out)
        write_json(out / INDEX, manifest)
    stages: dict[str, float] = {}
    for split_counts in counts.values():
        for stage, seconds in split_counts.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return BuildResult(out, manifest, False, time.perf_counter() - started, stages)


def _build_split(
    source: Source,
    split: str,
    writer: SplitWriter,
    encoder: TextEncoder,
    config: FeatureConfig,
    max_examples: int | None,
    workers: int,
    strict: bool,
    rejected: Any,
    report: Reporter,
) -> SplitCounts:
    counts, seen = SplitCounts(), IdSet()
    clock = _Clock(counts.seconds)
    left, total = max_examples, source.rows(split)
    if total is not None and left is not None:
        total = min(total, left)
    report.progress(split, 0, total)
    for table, unreadable in clock.each("load", source.read(split)):
        if left is not None:
            table, left = table.slice(0, left), max(left - table.num_rows, 0)
        with clock("check"):
            examples, misplaced, repaired = check_examples(table, seen, workers)
        with clock("featurize"):
            done = featurize_examples(examples, encoder, config, config.drop_impossible and split == TRAIN, workers)
        rejects = [*unreadable, *misplaced, *done.rejects]
        _reject(rejects, split, strict, rejected)
        examples = done.encoded.examples
        for features in clock.each("lay out", done.batches(encoder, workers)):
            with clock("write"):
                writer.add_features(features, examples.ids)
        with clock("write"):
            feature_counts = np.bincount(done.windows.example_index, minlength=len(examples)).astype(np.int32)
            writer.add_examples(examples, done.encoded.contexts, done.encoded.leading_chars, feature_counts)
        counts.examples += len(examples)
        counts.features += len(done.windows)
        counts.impossible += int((done.labels.start_positions == done.windows.cls_position).sum())
        counts.rejected += len(rejects)
        counts.repaired += repaired
        counts.tokens += int(done.windows.lengths.sum(dtype=np.int64))
        for cause, count in done.labels.differences.items():
            counts.differences[cause] = counts.differences.get(cause, 0) + count
        report.progress(split, len(examples), total)
        if left == 0:
            break
    if counts.examples == 0:
        raise UserError(
            f"a split must hold at least one good example; {source.name} {split} has none "
            f"({counts.rejected} rejected): check --columns and the file"
        )
    return counts


class _Clock:
    """Adds up wall time by stage."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun

    def each(self, stage: str, items: Iterator[Any]) -> Iterator[Any]:
        """The items, the time to make each one counted to the stage."""
        while True:
            with self(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


def _reject(rejects: list[Reject], split: str, strict: bool, file: Any) -> None:
    if rejects and strict:
        first = rejects[0]
        raise UserError(
            f"--strict allows no rejected example; received {len(rejects)} or more in {split}, the first "
            f"{first.id or 'without id'}: {first.reason}"
        )
    for reject in rejects:
        file.write(json.dumps({"split": split, "id": reject.id, "reason": reject.reason}, ensure_ascii=False) + "\n")


def _check_options(config: FeatureConfig, max_examples: int | None, workers: int) -> None:
    if config.labels not in LABEL_MODES:
        raise UserError(f"--labels must be one of {', '.join(LABEL_MODES)}; received {config.labels!r}")
    if config.max_length < 1 or config.doc_stride < 0:
        raise UserError(
            f"--max-length must be positive and --doc-stride not negative; received {config.max_length} and {config.doc_stride}"
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


def _check_out(out: Path) -> None:
    """Refuse a folder that is not ours to write, before any work is done."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder; received {out}, which is a file: choose another --out")
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if names and INDEX not in names and _PARTIAL not in names:
            raise UserError(
                f"--out must be new, empty or a folder of shards; {out} holds other files "
                f"({', '.join(sorted(names)[:3])}): choose another --out"
            )


def _finished(out: Path) -> dict[str, Any] | None:
    """The index of finished shards, if there is one that can be read."""
    try:
        value = json.loads((out / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and "splits" in value else None


def _changes(there: dict[str, Any], decides: dict[str, Any]) -> str:
    """Which inputs and options differ from those of the finished shards."""
    before = there.get("decided_by", {})
    changed = []
    for name, value in decides.items():
        if name == "config":
            changed += [f"{key} {before.get('config', {}).get(key)} -> {v}" for key, v in value.items()
                        if before.get("config", {}).get(key) != v]  # fmt: skip
        elif before.get(name) != value:
            changed.append(f"another {name}")
    return ", ".join(changed) or "another version"


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """A temporary folder inside `out`, taken away again if anything fails; storage errors become UserError."""
    partial = out / _PARTIAL
    _refuse_while_busy(partial)
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if partial.exists():
            shutil.rmtree(partial)  # a killed run's
        partial.mkdir()
        (partial / _OWNER).write_text(str(os.getpid()))
        yield partial
        shutil.rmtree(partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise UserError(f"--out must be a folder that can be written, with room; {out}: {reason}") from None
        raise


def _refuse_while_busy(partial: Path) -> None:
    """Do not clear away another run that is still at work."""
    try:
        pid = int((partial / _OWNER).read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return
    if pid != os.getpid():
        raise UserError(
            f"one run at a time may write {partial.parent}; process {pid} is at it: wait for it, or stop it"
        )


def _put_in_place(partial: Path, out: Path) -> None:
    """Replace what is in `out` by the finished files; the index goes first, so nothing old vouches for what is new."""
    (out / INDEX).unlink(missing_ok=True)
    (partial / _OWNER).unlink()
    for path in out.iterdir():
        if path.name != _PARTIAL:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in list(partial.iterdir()):
        path.rename(out / path.name)


def _about_model(name: str, folder: Path, encoder: TextEncoder) -> dict[str, Any]:
    return {
        "name": name if name == "minilm" or not Path(name).expanduser().exists() else str(folder.resolve()),
        "tokenizer_hash": encoder.tokenizer_hash,
        "cls_token_id": encoder.cls_id,
        "pad_token_id": encoder.pad_id,
        "has_token_types": encoder.has_token_types,
    }
