"""The main job: from a source to a finished folder of shards.

A build opens its inputs, settles the fingerprint of everything that decides the shards' bits, returns shards with that
fingerprint if they are already finished, and otherwise makes all blocks and commits them with an index, qa_fast.json.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast import store
from qa_fast.builder.assembly import STRICT, Jobs, make_all, put_together, refused_by_strict
from qa_fast.builder.featurizer import Featurizer, check_longest, check_room
from qa_fast.builder.options import LOCAL, RAY, BuildOptions
from qa_fast.builder.staging import check_out, check_replaceable, finished, leave, locked, not_writable, sweep_others
from qa_fast.cache import cache_folder
from qa_fast.errors import MissingExtraError, UnreachableError, UserError, without_secrets
from qa_fast.options import takes
from qa_fast.parallel import Ahead, processors
from qa_fast.progress import Reporter, StageClock, on_stderr
from qa_fast.schema import FeatureConfig, canonical_json
from qa_fast.shards import FORMAT_VERSION, INDEX, REJECTED, REPAIRED, TRAIN, Shards, damaged_file, open_shards
from qa_fast.shards.summary import remarks
from qa_fast.sources import Source, resolve_model, resolve_source
from qa_fast.sources.documents import divide
from qa_fast.sources.pieces import Block
from qa_fast.version import __version__

if TYPE_CHECKING:
    from qa_fast.encode import TextEncoder
    from qa_fast.sources.read import BlockTable

# Number of tables that are read before the tokenizer and the kernels are loaded.
_TABLES_AHEAD = 4
# Digits of a fingerprint that tell folders in the cache apart.
_NAME_DIGITS = 20

Manifest = dict[str, Any]


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    Attributes:
        out: The folder of shards.
        manifest: Its index, the content of qa_fast.json.
        up_to_date: Whether the shards were finished already, so that nothing was made.
        seconds: Wall time of the whole job.
        fetch_seconds: The part of `seconds` until the files of the source and the model were found or fetched.
        compile_seconds: The part of `seconds` in which kernels were loaded or, the first time on a machine, compiled.
        stage_seconds: Wall time by stage, summed over all splits and threads.

    Examples:
        >>> result = build_shards("squad", "shards")
        >>> result.manifest["splits"]["train"]["features"]
    """

    out: Path
    manifest: Manifest
    up_to_date: bool
    seconds: float
    fetch_seconds: float
    compile_seconds: float
    stage_seconds: dict[str, float]

    @property
    def featurize_seconds(self) -> float:
        """Wall time without fetching files and loading kernels."""
        return self.seconds - self.fetch_seconds - self.compile_seconds


@dataclass(frozen=True)
class _Run:
    """The options of a build, and what it reports to.

    `phases` times fetching files and loading kernels, `stages` the stages of featurizing.
    """

    config: FeatureConfig
    options: BuildOptions
    report: Reporter
    phases: StageClock = field(default_factory=StageClock)
    stages: StageClock = field(default_factory=StageClock)

    @property
    def threads(self) -> int:
        """The number of threads that featurize."""
        return self.options.workers or processors()


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a build. `tables` are the first tables of the jobs if reading them has begun."""

    source: Source
    model: Path
    encoder: TextEncoder
    jobs: Jobs
    tables: Iterator[BlockTable] | None
    about_source: dict[str, Any]


@takes(BuildOptions)
def build_shards(
    source: Any,
    out: str | Path | None,
    model: str = "minilm",
    config: FeatureConfig | None = None,
    *,
    workers: int | None = 1,
    report: Reporter | None = None,
    **options: Any,
) -> BuildResult:
    """Featurize a source into a folder of shards.

    Args:
        source: As for `featurize`.
        out: The folder to make, a path or a URL; None makes one in the cache, named after everything that decides its
            bits.
        model: The model whose tokenizer is used: "minilm", a local folder, or a Hub model id.
        config: Window sizes and kind of labels; the defaults of `FeatureConfig` where it is None.
        workers: Number of threads that featurize; with more than one, another thread reads and another writes. With
            engine="ray", the number of actors. None takes one for each processor.
        report: Receives messages and progress; None reports nothing.
        options: The fields of `BuildOptions`.

    Raises:
        UserError: The user can correct the cause. Finished shards in `out` are then left as they were.

    Examples:
        >>> result = build_shards("squad", "shards", config=FeatureConfig(max_length=512), splits=["train"])
    """
    return build(source, out, model, config or FeatureConfig(), BuildOptions(workers=workers, **options), report)


@takes(FeatureConfig, BuildOptions)
def featurize(
    source: Any = "squad",
    model: str | Path = "minilm",
    *,
    out: str | Path | None = None,
    say: Callable[[str], None] = on_stderr,
    **options: Any,
) -> Shards:
    """Turn question-answering data into model inputs, as `qa-fast featurize` does. Finished shards are not made again.

    Args:
        source: "squad", a local file or folder, a URL, or a Hub dataset id; or a table, or a dict from split to table.
            A table is a data frame (pandas, polars, DuckDB), an Arrow table, a list of dicts, a dict of lists, or a
            split of `load` or of the `datasets` library. A single table is train, unless `splits` names another split.
        model: The model whose tokenizer is used: "minilm", a local folder, or a Hub model id.
        out: Folder for the shards; None keeps them in the cache, under a name that depends on everything that decides
            their content.
        say: Called with each message.
        options: The fields of `FeatureConfig` and `BuildOptions`.

    Returns:
        The shards, as `open_shards` returns them.

    Raises:
        UserError: The user can correct the cause.

    Examples:
        >>> shards = featurize("squad", max_length=512, doc_stride=128)
        >>> shards["train"][0]["input_ids"]
        >>> shards = featurize({"train": frame, "validation": other_frame}, columns={"question": "frage"})
    """
    names = {option.name for option in fields(FeatureConfig)}.intersection(options)
    config = FeatureConfig(**{name: options.pop(name) for name in names})
    result = build(source, out, str(model), config, BuildOptions(**options), Reporter(say))
    return open_shards(result.out)


def build(
    source: Any,
    out: str | Path | None,
    model: str,
    config: FeatureConfig,
    options: BuildOptions,
    report: Reporter | None = None,
) -> BuildResult:
    """Featurize a source into a folder of shards; see `build_shards`, which takes the options as keywords."""
    started = time.perf_counter()
    run = _Run(config, options, report or Reporter())
    named = None if out is None else store.place(out)
    config.check()
    options.check()
    if named is not None:
        check_out(named)
    with run.phases("fetch"):
        files = resolve_source(source, options.columns, options.splits, run.report.say)
        if options.validation_share is not None:
            files = divide(files, options.validation_share, run.report.say)
        folder = resolve_model(model, run.report.say, weights=False)
    with contextlib.ExitStack() as stack:
        inputs = _open(run, files, folder, named, stack)
        head = _settle(run, inputs, model)
        # Another model with the same tokenizer makes the same features, but its shards name it as the model to train.
        key = _sha256(f"{head['fingerprint']} {head['model']['name']}")[:_NAME_DIGITS]
        place = named or cache_folder() / "shards" / key
        stack.enter_context(locked(place, wait=named is None))
        manifest = _reusable(run, place, head)
        up_to_date = manifest is not None
        if manifest is None:
            check_replaceable(place, files.splits)
            for name in (REJECTED, REPAIRED):  # which an earlier run made, but this one may read
                store.check_output(place / name, "--out", reads=itertools.chain(*files.splits.values()), overwrite=True)
            manifest = _make(run, place, head, inputs)
    for remark in remarks(manifest, place):
        run.report.say(remark)
    return BuildResult(
        out=place,
        manifest=manifest,
        up_to_date=up_to_date,
        seconds=time.perf_counter() - started,
        fetch_seconds=run.phases.seconds["fetch"],
        compile_seconds=run.phases.seconds["compile"],
        stage_seconds={} if up_to_date else run.stages.seconds,
    )


def _open(run: _Run, source: Source, folder: Path, out: Path | None, stack: contextlib.ExitStack) -> _Inputs:
    """Load the kernels and the tokenizer while another thread reads the source, if there are several workers."""
    options, threads = run.options, run.threads
    jobs = Jobs(source.blocks() if options.max_examples is None else source.first_blocks(options.max_examples))
    describe, tables = source.describe, None
    if threads > 1:
        describe = stack.enter_context(ThreadPoolExecutor(1)).submit(describe).result
        if options.engine == LOCAL and out is not None and not store.names_in(out):
            from qa_fast.sources.read import read_tables

            ahead = Ahead(read_tables(jobs, source.columns, run.stages), _TABLES_AHEAD)
            tables = stack.enter_context(contextlib.closing(ahead))
    with run.phases("compile"):  # which takes longer than reading most sources
        from qa_fast.kernels.load import load_kernels

        load_kernels(side_by_side=threads > 1)
    from qa_fast.encode import load_encoder

    encoder = load_encoder(folder, options.encode, run.report.say)
    return _Inputs(source, folder, encoder, jobs, tables, describe())


def _settle(run: _Run, inputs: _Inputs, model: str) -> Manifest:
    """Return the index without its splits: everything that decides the shards, and its fingerprint."""
    config, encoder = run.config, inputs.encoder
    check_room(config, encoder)
    check_longest(config, inputs.model)
    decided_by = {
        **Featurizer.of_encoder(encoder, config, TRAIN).decides,
        "source": inputs.about_source["sha256"],
        "columns": inputs.source.columns,
        "splits": list(inputs.source.splits),
        "max_examples": run.options.max_examples,
        "validation_share": run.options.validation_share,
    }
    is_folder = store.local_path(model) == inputs.model
    return {
        "qa_fast_version": __version__,
        "format_version": FORMAT_VERSION,
        "fingerprint": _sha256(canonical_json(decided_by)),
        "config": config.to_dict(),
        "decided_by": decided_by,
        "model": {
            "name": str(inputs.model.resolve()) if is_folder else without_secrets(model),
            "tokenizer_hash": encoder.tokenizer_hash,
            "cls_token_id": encoder.cls_id,
            "pad_token_id": encoder.pad_id,
            "has_token_types": encoder.has_token_types,
        },
        "source": inputs.about_source,
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _reusable(run: _Run, out: Path, head: Manifest) -> Manifest | None:
    """Return the index of finished shards that are the same as this build's; None if they must be made."""
    index = finished(out)
    if index is None:
        return None
    if index.get("fingerprint") != head["fingerprint"]:
        if run.options.overwrite:
            return None
        raise UserError(
            f"{out} holds shards made with other inputs or options ({_changes(index, head['decided_by'])}): "
            "pass --overwrite to replace them, or choose another --out"
        )
    damaged = damaged_file(out, index, contents=store.is_local(out))
    if damaged is not None:
        run.report.say(f"{out}: {damaged} is missing or damaged, featurizing again")
        return None
    for split, counts in index["splits"].items() if run.options.strict else ():
        refused = refused_by_strict(counts)
        if refused:
            raise UserError(
                f"{STRICT}; {out} was made with {refused} in {split}: see {REJECTED} and {REPAIRED} there, and "
                "correct the source"
            )
    run.report.say(f"{out} is up to date: same source, model and options")
    if index.get("model") != head["model"]:
        index = {**index, "model": head["model"]}
        store.write_json(out / INDEX, index)
        run.report.say(f"{out}: its index now names {head['model']['name']}, which has the same tokenizer")
    return index


def _changes(index: Manifest, decided_by: dict[str, Any]) -> str:
    """Return which inputs and options differ from those of finished shards, in words."""
    known = index.get("decided_by")
    before: dict[str, Any] = known if isinstance(known, dict) else {}
    old, new = ({**decided, **(decided.get("config") or {})} for decided in (before, decided_by))
    changed = []
    for name, value in new.items():
        if name == "config" or old.get(name) == value:
            continue
        is_long = isinstance(value, dict | list) or name in ("tokenizer", "source")
        changed.append(f"another {name}" if is_long else f"{name} {old.get(name)} -> {value}")
    return ", ".join(changed) or "another version"


def _make(run: _Run, out: Path, head: Manifest, inputs: _Inputs) -> Manifest:
    """Make the shards of all blocks, commit them, and return the index."""
    # Imported late, since it loads the kernels.
    from qa_fast.builder.blocks import ShardMaker, local_engine

    source, jobs, options, report = inputs.source, inputs.jobs, run.options, run.report
    maker = ShardMaker(inputs.encoder, run.config, source.columns, out, head["fingerprint"])
    progress = _progress(report, source, options.max_examples)
    if options.engine == RAY:
        from qa_fast.builder.ray_engine import ray_engine

        make = ray_engine(maker, options.workers or None, options.strict, options.address, report, progress)
    else:
        make = local_engine(maker, run.threads, options.strict, run.stages, progress, inputs.tables)
        if inputs.tables is None:  # Ray's actors look for finished blocks themselves, side by side
            jobs.journal, jobs.report = maker.journal, report
    try:
        with store.reached(out, "--out"):
            sweep_others(out, maker.fingerprint)
            maker.journal.open()
            made = make_all(maker.journal, jobs, make, report)
            return put_together(maker.journal, source, made, head, options.strict)
    except BaseException as error:
        with contextlib.suppress(OSError, UserError):
            # After a correction of the input or the options, the fingerprint is another one.
            may_go_on = not isinstance(error, UserError) or isinstance(error, UnreachableError | MissingExtraError)
            if kept := leave(out, maker.journal, source.splits, may_go_on):
                report.say(f"{out}: {kept} finished shards are kept; the same command continues from them")
        if isinstance(error, OSError):
            raise not_writable(out, error) from None
        raise


def _progress(report: Reporter, source: Source, max_examples: int | None) -> Callable[[Block, int], None] | None:
    """Return a function that reports rows as done, with the split's total where it is known."""
    report_rows = report.progress
    if report_rows is None:
        return None
    totals: dict[str, int | None] = {}

    def progress(block: Block, rows: int) -> None:
        if block.split not in totals:
            total = source.rows(block.split)
            totals[block.split] = total if total is None or max_examples is None else min(total, max_examples)
        report_rows(block.split, rows, totals[block.split])

    return progress
