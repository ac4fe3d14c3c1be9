"""A source to a whole folder of shards: the main job, from names to the index that marks it finished.

Splits are read, checked, featurized and written table by table; `staging` puts the folder in place when all are whole.
The index, qa_fast.json, holds a fingerprint of everything that decides the bits: a second run knows its work is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast import store
from qa_fast.builder.assembly import Jobs, make_all, put_together
from qa_fast.builder.engines import ENGINES, LOCAL, RAY
from qa_fast.builder.featurizer import Featurizer, check_longest, check_room
from qa_fast.builder.staging import check_out, check_replaceable, finished, leave, locked, not_writable, sweep_others
from qa_fast.errors import UnreachableError, UserError
from qa_fast.parallel import Ahead, processors
from qa_fast.progress import Reporter, StageClock, on_stderr
from qa_fast.schema import FeatureConfig, canonical_json
from qa_fast.shards import FORMAT_VERSION, INDEX, REJECTED, TRAIN, Shards, damaged_file, open_shards
from qa_fast.sources import Source, resolve_model, resolve_source
from qa_fast.sources.cache import cache_folder
from qa_fast.sources.pieces import Block
from qa_fast.sources.resolve import split_names
from qa_fast.store import local_path, write_json
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.encode import TextEncoder

# Tables read before the tokenizer and the kernels are there to take them.
_TABLES_AHEAD = 4
# Of a fingerprint, enough to tell folders in the cache apart.
_NAME_DIGITS = 20


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    Attributes:
        out: The shard folder.
        manifest: Its index.
        up_to_date: Whether it was there already and nothing was done.
        seconds: Wall time of the whole job.
        fetch_seconds: Of it, until the source's and the model's files were there.
        compile_seconds: Of it, until the kernels were loaded or, the first time on a machine, compiled.
        stage_seconds: Wall time by stage, over all splits and threads.
    """

    out: Path
    manifest: dict[str, Any]
    up_to_date: bool
    seconds: float
    fetch_seconds: float
    compile_seconds: float
    stage_seconds: dict[str, float]

    @property
    def featurize_seconds(self) -> float:
        """What is left of the whole job without fetching and loading kernels."""
        return self.seconds - self.fetch_seconds - self.compile_seconds


def build_shards(
    source: str,
    out: str | Path | None,
    model: str = "minilm",
    config: FeatureConfig | None = None,
    *,
    columns: dict[str, str] | None = None,
    splits: list[str] | None = None,
    max_examples: int | None = None,
    encode: str = "auto",
    workers: int | None = 1,
    overwrite: bool = False,
    strict: bool = False,
    engine: str = LOCAL,
    address: str | None = None,
    report: Reporter | None = None,
) -> BuildResult:
    """Featurize a source into a folder of shards.

    Args:
        source: "squad", a local file or folder, a URL, or a Hub dataset id.
        out: The folder to make, here or a URL; None makes one in the cache, named after all that decides its bits.
        model: Whose tokenizer: "minilm", a local folder, or a Hub model id.
        config: Window sizes and kind of labels.
        columns: Ours -> theirs, for data with other column names.
        splits: Only these; for a single file, one split names it.
        max_examples: At most so many examples of each split, the first ones.
        encode: "auto", "direct" or "words": see `encode.load_encoder`; the shards are the same.
        workers: Threads that featurize; where there are more than one, another reads and another writes beside them.
            Of Ray, actors, a core each. None takes all cores that there are.
        overwrite: Replace shards that were made with other inputs or options.
        strict: Make any rejected example an error.
        engine: "local" or "ray"; the shards are the same.
        address: Of a Ray cluster; None starts one on this machine, or takes the one that RAY_ADDRESS names.
        report: Where to say what is done.

    Raises:
        UserError: For anything the user can put right; what `out` vouched for before, it does then, too.
    """
    started = time.perf_counter()
    config, report = config or FeatureConfig(), report or Reporter()
    named = None if out is None else store.place(out)
    threads = workers or processors()
    config.check()
    _check_options(max_examples, workers, engine)
    if named is not None:
        check_out(named)
    found = resolve_source(source, columns, splits, report.say)
    folder = resolve_model(model, report.say, weights=False)
    fetched = time.perf_counter()
    clock = StageClock()
    with contextlib.ExitStack() as stack:
        jobs = Jobs(found.blocks() if max_examples is None else found.first_blocks(max_examples))
        describe, under_way = found.describe, None
        if threads > 1:
            pool = stack.enter_context(ThreadPoolExecutor(1))
            describe = pool.submit(describe).result
            if engine == LOCAL and named is not None and not store.names_in(named):
                from qa_fast.sources.read import read_tables

                tables = read_tables(jobs, found.columns, clock)
                under_way = stack.enter_context(contextlib.closing(Ahead(tables, _TABLES_AHEAD)))
        # While the source is read, since loading the kernels takes longer than reading most sources.
        from qa_fast.kernels.load import load_kernels

        load_kernels(side_by_side=threads > 1)
        loaded = time.perf_counter()
        from qa_fast.builder.blocks import ShardMaker
        from qa_fast.builder.local_engine import local_engine
        from qa_fast.encode import load_encoder

        encoder = load_encoder(folder, encode, report.say)
        check_room(config, encoder)
        check_longest(config, folder)
        about_source = describe()
        decides = {
            **Featurizer.of_encoder(encoder, config, TRAIN).decides,
            "source": about_source["sha256"],
            "columns": found.columns,
            "splits": list(found.splits),
            "max_examples": max_examples,
        }
        fingerprint = hashlib.sha256(canonical_json(decides).encode("utf-8", "surrogateescape")).hexdigest()
        about_model = _about_model(model, folder, encoder)
        # Another model with the same tokenizer makes the same features; but they name the model to train.
        both = hashlib.sha256(f"{fingerprint} {about_model['name']}".encode("utf-8", "surrogateescape")).hexdigest()
        out = named or cache_folder() / "shards" / both[:_NAME_DIGITS]
        stack.enter_context(locked(out, wait=named is None))
        there = finished(out)
        if there is not None and there.get("fingerprint") == fingerprint:
            damaged = damaged_file(out, there, contents=store.is_local(out))
            if damaged is None:
                _check_strict(out, there, strict)
                report.say(f"{out} is up to date: same source, model and options")
                if there.get("model") != about_model:
                    there = {**there, "model": about_model}
                    write_json(out / INDEX, there)
                    report.say(
                        f"{out}: made with the tokenizer of {about_model['name']}, too, which its index names now"
                    )
                return BuildResult(
                    out, there, True, time.perf_counter() - started, fetched - started, loaded - fetched, {}
                )
            report.say(f"{out}: {damaged} is missing or damaged, featurizing again")
        elif there is not None and not overwrite:
            raise UserError(
                f"{out} holds shards made with other inputs or options ({_changes(there, decides)}): "
                "pass --overwrite to replace them, or choose another --out"
            )
        check_replaceable(out, found.splits)
        about = {
            "qa_fast_version": __version__,
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "config": config.to_dict(),
            "decided_by": decides,
            "model": about_model,
            "source": about_source,
        }
        maker = ShardMaker(encoder, config, found.columns, out, fingerprint)
        if under_way is None and engine == LOCAL:  # Ray's actors look for themselves, side by side
            jobs.journal, jobs.report = maker.journal, report
        try:
            with store.reached(out, "--out"):
                sweep_others(out, fingerprint)
                maker.journal.open()
                progress = _progress(report, found, max_examples)
                if engine == RAY:
                    from qa_fast.builder.ray_engine import ray_engine

                    make = ray_engine(maker, workers, strict, address, report, progress)
                else:
                    make = local_engine(maker, threads, strict, clock, progress, under_way)
                made = make_all(maker.journal, jobs, make, report)
                manifest = put_together(maker.journal, found, made, about, strict)
        except BaseException as error:
            with contextlib.suppress(OSError, UserError):
                # Where the input or the options must be mended, another build's fingerprint will be looked for.
                may_go_on = not isinstance(error, UserError) or isinstance(error, UnreachableError)
                if kept := leave(out, maker.journal, found.splits, may_go_on):
                    report.say(f"{out}: {kept} finished shards are kept; the same command goes on from them")
            if isinstance(error, OSError):
                raise not_writable(out, error) from None
            raise
    seconds = time.perf_counter() - started
    return BuildResult(out, manifest, False, seconds, fetched - started, loaded - fetched, clock.seconds)


def featurize(
    source: str = "squad",
    model: str = "minilm",
    *,
    out: str | Path | None = None,
    max_length: int = FeatureConfig.max_length,
    doc_stride: int = FeatureConfig.doc_stride,
    labels: str = FeatureConfig.labels,
    drop_impossible: bool = FeatureConfig.drop_impossible,
    columns: dict[str, str] | None = None,
    splits: str | Sequence[str] | None = None,
    max_examples: int | None = None,
    encode: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    engine: str = LOCAL,
    address: str | None = None,
    say: Callable[[str], None] = on_stderr,
) -> Shards:
    """Question-answering data to model inputs, as `qa-fast featurize` does; what is there already is not made again.

    Args:
        source: "squad", a local file or folder, or a Hub dataset id.
        model: Whose tokenizer: "minilm", a local folder, or a Hub model id.
        out: Folder for the shards; None keeps them in the cache, under a name that hangs on all that decides them.
        max_length: Longest feature in tokens, question and special tokens included.
        doc_stride: OVERLAP of neighbouring windows in tokens, not the step.
        labels: "exact", or "reference": as the tutorial labels, quirks included.
        drop_impossible: Leave out train windows that do not hold their question's answer.
        columns: Ours -> theirs, for data with other column names.
        splits: Only this, or these; for a single file, one split names it.
        max_examples: At most so many examples of each split, the first ones.
        encode: See `build_shards`, as for `overwrite` and `strict`.
        workers: Threads, or Ray's actors; None takes the processors that there are.
        overwrite: Replace other shards in `out`.
        strict: Make any rejected example an error.
        engine: "local", this machine's threads, or "ray"; the shards are the same.
        address: Of a Ray cluster, see `build_shards`.
        say: Told in lines what is done.

    Returns:
        The shards, as `open_shards` gives them.

    Raises:
        UserError: For anything the user can put right.
    """
    config = FeatureConfig(max_length, doc_stride, labels, drop_impossible)
    result = build_shards(
        str(source),
        out,
        str(model),
        config,
        columns=columns,
        splits=split_names(splits),
        max_examples=max_examples,
        encode=encode,
        workers=workers,
        overwrite=overwrite,
        strict=strict,
        engine=engine,
        address=address,
        report=Reporter(say),
    )
    return open_shards(result.out)


def _check_options(max_examples: int | None, workers: int | None, engine: str) -> None:
    if engine not in ENGINES:
        raise UserError(f"--engine must be one of {', '.join(ENGINES)}; received {engine!r}")
    if max_examples is not None and max_examples < 1:
        raise UserError(f"--max-examples must be at least 1; received {max_examples}")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1; received {workers}")


def _progress(report: Reporter, source: Source, max_examples: int | None) -> Callable[[Block, int], None] | None:
    """Tells the report of rows done, of a split's total where that is known."""
    told = report.progress
    if told is None:
        return None
    totals: dict[str, int | None] = {}

    def progress(block: Block, rows: int) -> None:
        if block.split not in totals:
            total = source.rows(block.split)
            totals[block.split] = total if total is None or max_examples is None else min(total, max_examples)
        told(block.split, rows, totals[block.split])

    return progress


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
