"""A source to a whole folder of shards: the main job, from names to the index that marks it finished.

Splits are read, checked, featurized and written table by table; `staging` puts the folder in place when all are whole.
The index, qa_fast.json, holds a fingerprint of everything that decides the bits: a second run knows its work is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast.errors import UserError
from qa_fast.model.folder import known_config
from qa_fast.parallel import Ahead
from qa_fast.progress import Reporter, StageClock
from qa_fast.schema import LABEL_MODES, FeatureConfig, canonical_json
from qa_fast.shards import FORMAT_VERSION, REJECTED, damaged_file
from qa_fast.sources import resolve_model, resolve_source
from qa_fast.sources.cache import local_path
from qa_fast.staging import check_out, check_replaceable, finished, locked, put_in_place, staged
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.encode import TextEncoder

# Tables read before the tokenizer and the kernels are there to take them.
_TABLES_AHEAD = 4


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
    clock = StageClock()
    with contextlib.ExitStack() as stack:
        tables = clock.each("load", found.tables(max_examples))
        describe = found.describe
        if workers > 1:
            pool = stack.enter_context(ThreadPoolExecutor(1))
            describe = pool.submit(describe).result
            if finished(out) is None:
                tables = stack.enter_context(contextlib.closing(Ahead(tables, _TABLES_AHEAD)))
        # While the source is read, since loading the kernels takes longer than reading most sources.
        from qa_fast.kernels.load import load_kernels

        load_kernels(side_by_side=workers > 1)
        from qa_fast.encode import load_encoder
        from qa_fast.pipeline import Pipeline

        encoder = load_encoder(folder, encode, report.say)
        _check_room(config, encoder)
        _check_longest(config, folder)
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
            damaged = damaged_file(out, there, contents=True)
            if damaged is None:
                _check_strict(out, there, strict)
                report.say(f"{out} is up to date: same source, model and options")
                return BuildResult(out, there, True, time.perf_counter() - started, {})
            report.say(f"{out}: {damaged} is missing or damaged, featurizing again")
        elif there is not None and not overwrite:
            raise UserError(
                f"{out} holds shards made with other inputs or options ({_changes(there, decides)}): "
                "pass --overwrite to replace them, or choose another --out"
            )
        check_replaceable(out, found.splits)
        partial = stack.enter_context(staged(out))
        pipeline = Pipeline(found, encoder, config, max_examples, workers, strict, report, clock)
        counts, shards = pipeline.write(tables, partial)
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


def _check_longest(config: FeatureConfig, folder: Path) -> None:
    """Refuse windows that the model cannot take; of a model that is not supported, only the tokenizer counts."""
    known = known_config(folder)
    if known is not None and config.max_length > known.max_length:
        raise UserError(
            f"--max-length must be at most {known.max_length}, the longest input of {folder.name}; received "
            f"{config.max_length}: lower it, or choose another --model"
        )


def _check_strict(out: Path, there: dict[str, Any], strict: bool) -> None:
    rejected = sum(split["rejected"] for split in there["splits"].values())
    if strict and rejected:
        raise UserError(
            f"--strict allows no rejected example; {out} was made with {rejected} of them: "
            f"see {out / REJECTED} and mend the source"
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
