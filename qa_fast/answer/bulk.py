"""Answers all questions of some files: into one file, or into a folder of parts that can be resumed and shared out.

A folder is made like a folder of shards: the input is cut into blocks, and a process that holds a model makes one part
of the output from each block. The parts keep the order of the input. The next run keeps the parts that an interrupted
run finished, the index is written last, and no process holds more than the rows of one block. The processes may be
actors on a Ray cluster.

    OUT/part-FFFFFFFF-00000.jsonl (or .parquet)   answers, in the order of the input: part by part, row by row
    OUT/rejected.jsonl                            rows that could not be answered, with reasons
    OUT/qa_fast_answers.json                      the index: options, source, model, counts and checksums
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import orjson

from qa_fast import store
from qa_fast.answer.answerer import Answerer
from qa_fast.answer.calibration import NOT_CALIBRATED
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.parts import FORMATS, PART, AnswerWriter, PartMaker, writable
from qa_fast.answer.settings import read_settings
from qa_fast.builder.staging import locked
from qa_fast.errors import UnreachableError, UserError, without_secrets
from qa_fast.infer.graphs import model_key
from qa_fast.infer.recipe import read_recipe
from qa_fast.model.folder import tokenizer_files
from qa_fast.progress import Reporter
from qa_fast.schema import canonical_json
from qa_fast.shards.format import FILE_FACTS, REJECTED, is_whole
from qa_fast.shards.journal import PARTIAL, BlockFacts
from qa_fast.sources import resolve_model
from qa_fast.sources.files import find_files
from qa_fast.sources.pieces import Block, blocks_of
from qa_fast.version import __version__

ANSWERS_INDEX = "qa_fast_answers.json"
_REJECTED = "rejected.jsonl"
_FORMAT_VERSION = 1
# Bytes of input for one part: some thousand questions, about a minute of one core, which is all that a stop can lose.
PART_BYTES = 1 << 20
_PART_NAME = re.compile(rf"{PART}-[0-9a-f]{{8}}-[0-9]{{5,}}\.({'|'.join(FORMATS)})")
# An output with one of these endings is a single file, in this format.
_FILE_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class BulkResult:
    """The outcome of a run.

    Attributes:
        out: The file or folder of answers.
        answered: Number of rows answered.
        rejected: Number of rows rejected.
        rejects: The file with the reasons; None if no row was rejected.
        parts: Number of parts in the folder; None for a single file.
        up_to_date: Whether the folder held all answers already.
    """

    out: Path
    answered: int
    rejected: int
    rejects: Path | None
    parts: int | None = None
    up_to_date: bool = False


def answer_all(
    model: str | Path,
    source: str,
    out: str | Path,
    options: AnswerOptions | None = None,
    *,
    form: str = "jsonl",
    columns: dict[str, str] | None = None,
    precision: str = "auto",
    engine: str = "auto",
    ray: bool = False,
    address: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    report: Reporter | None = None,
) -> BulkResult:
    """Answer all questions of some files.

    Args:
        model: A model folder, local or a URL, a Hub id, or "minilm".
        source: A file or folder, local or a URL: JSON lines, JSON, Parquet or Arrow with the columns question, context
            and optionally id; or SQuAD's nested JSON. Rows without an id get one from their file and line, "row-0".
        out: Where the answers go, local or a URL. A name that ends in .jsonl (or .ndjson, .json, .txt) or .parquet is a
            single file, with rejected rows beside it in "<name>.rejected.jsonl". Any other name is a folder of parts.
        options: Options for all questions; None in them means the model's own.
        form: Format of a folder's parts. "jsonl" has the fields id, question and those of `Answer`, or with top_k > 1 a
            list "answers" of these, or with evidence of `Evidence`; "parquet" has the same as columns.
        columns: Our names of columns -> the input's names.
        precision: See `infer.open_engine`. "auto" is chosen by each machine; name precision and engine to have every
            machine compute alike.
        engine: "auto", "keras", "openvino" or "onnx".
        ray: Answer on a Ray cluster, with one model for each actor.
        address: Address of the cluster; see `builder.ray_engine.connected`.
        workers: Number of actors, which share the cores of the cluster evenly; None means one for each core.
        overwrite: Replace the file `out` and its file of rejected rows, or other answers in the folder `out`.
        report: Receives messages and progress.

    Raises:
        UserError: A file, option or model cannot be used. Finished parts stay for the next run.
    """
    report, options, columns = report or Reporter(), options or AnswerOptions(), columns or {}
    if form not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; received {form!r}")
    place = store.place(out)
    file_form = None if store.is_folder(place) else _FILE_FORMATS.get(place.suffix.lower())
    if file_form and ray:
        raise UserError(f"Ray writes answers into a folder; received --output {out}, which is a file: name a folder")
    folder = resolve_model(model, report.say)
    options = options.over(read_settings(folder))
    if options.calibration is None:
        report.say(NOT_CALIBRATED)
    if not file_form:
        _check_folder(place)
    found = find_files(store.place(source))
    if found.skipped:
        report.say(f"{without_secrets(str(source))}: {found.remark}")
    files = [path for paths in found.splits.values() for path in paths]
    files.sort(key=str)
    for output in [place, _rejects_beside(place)] if file_form else _replaced_inputs(place, files):
        store.check_output(output, "--output", reads=[*files, folder], overwrite=overwrite or not file_form)

    def progress(rows: int) -> None:
        if report.progress:
            report.progress(PART, rows, None)

    answerer = cache(partial(Answerer.from_pretrained, folder, precision, engine, report.say))
    if file_form:
        writer = AnswerWriter(options, columns, file_form)
        return _answer_to_file(writer, files, place, answerer, progress, overwrite)

    with store.reached(files[0], "SOURCE"):
        identities = {
            without_secrets(f"{number}/{path.name}"): store.identity(path) for number, path in enumerate(files)
        }
    weights = model_key(folder)
    decided_by = {
        "format": _FORMAT_VERSION, "version": __version__, "form": form, "model": weights,
        "recipe": _recipe_key(folder, weights, precision), "tokenizer": _tokenizer_key(folder),
        "precision": precision, "engine": engine, "options": asdict(options),
        "source": identities, "columns": columns, "part_bytes": PART_BYTES,
    }  # fmt: skip
    fingerprint = hashlib.sha256(canonical_json(decided_by).encode("utf-8", "surrogateescape")).hexdigest()
    for_workers = str(folder) if store.is_local(store.place(str(model))) else str(model)
    writer = AnswerWriter(options, columns, form)
    maker = PartMaker(for_workers, precision, engine, writer, place, fingerprint)
    make = partial(_made_by_ray, maker, address, workers) if ray else partial(_made_here, maker, answerer)
    with locked(place):
        index = _index_of(place)
        if index is not None and _is_up_to_date(place, index, fingerprint, overwrite, report):
            return _result(place, index, up_to_date=True)
        index = _answer_to_folder(maker, files, make, decided_by, progress)
    return _result(place, index)


_Made = Iterator[tuple[Block, BlockFacts]]


def _answer_to_folder(
    maker: PartMaker,
    files: list[Path],
    make: Callable[[list[Block]], _Made],
    decided_by: dict[str, Any],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Answer all questions of some files into a locked folder, and return its index."""
    blocks, is_continued = list(blocks_of({PART: files}, PART_BYTES)), False
    try:
        with writable(maker.out), store.reached(maker.out, "--output"):
            maker.journal.open()
            is_continued = _has_finished(maker)
            facts = {}
            for block, block_facts in make(blocks):
                facts[block] = block_facts
                progress(block_facts.rows)
            return _commit(maker, blocks, facts, decided_by)
    except BaseException as error:
        is_fault_of_input = isinstance(error, UserError) and not isinstance(error, UnreachableError)
        _clean_up(maker, resumable=is_continued or not is_fault_of_input)
        raise


def _answer_to_file(
    writer: AnswerWriter,
    files: list[Path],
    out: Path,
    answerer: Callable[[], Answerer],
    progress: Callable[[int], None],
    overwrite: bool,
) -> BulkResult:
    """Answer all questions of some files into one file, which appears once it is complete."""
    rejects_file = _rejects_beside(out)
    loaded = answerer()
    with writable(out), store.whole_file(out, replace=overwrite) as local:
        answered, rejects = writer.write(local, blocks_of({PART: files}, PART_BYTES), loaded, progress)
        with store.reached(out, "--output"):
            if rejects:
                lines = [_reject_line(reject.id, reject.reason) for reject in rejects]
                store.write_whole(rejects_file, b"".join(lines), replace=overwrite)
            elif overwrite:
                store.remove(rejects_file)
    return BulkResult(out, answered, len(rejects), rejects_file if rejects else None)


def _rejects_beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}.rejected.jsonl")


def _reject_line(row_id: str, reason: str) -> bytes:
    return orjson.dumps({"id": row_id, "reason": reason}, option=orjson.OPT_APPEND_NEWLINE)


def _result(out: Path, index: dict[str, Any], up_to_date: bool = False) -> BulkResult:
    rejects = out / _REJECTED if index["rejected"] else None
    return BulkResult(out, index["answered"], index["rejected"], rejects, len(index["parts"]), up_to_date)


def _is_up_to_date(out: Path, index: dict[str, Any], fingerprint: str, overwrite: bool, report: Reporter) -> bool:
    """Return whether the folder holds all answers of this run.

    Raises:
        UserError: The folder holds other answers, which may not be overwritten.
    """
    if index.get("fingerprint") != fingerprint:
        if not overwrite:
            raise UserError(
                f"{out} holds answers to other questions, or made with another model or other options: pass "
                "--overwrite to replace them, or choose another --output"
            )
        return False
    damaged = [part["file"] for part in index["parts"] if not is_whole(out / part["file"], part, store.is_local(out))]
    if damaged:
        report.say(f"{out}: {damaged[0]} is missing or damaged, answering again")
    else:
        report.say(f"{out} is up to date: same questions, model and options")
    return not damaged


def _made_here(maker: PartMaker, answerer: Callable[[], Answerer], blocks: list[Block]) -> _Made:
    """Make one part after the other in this process, where the model uses all cores."""
    for block in blocks:
        yield block, maker.keep_or_make(block, answerer)


def _made_by_ray(maker: PartMaker, address: str | None, workers: int | None, blocks: list[Block]) -> _Made:
    """Make parts with the actors of a Ray cluster; the results come in any order."""
    from qa_fast.builder.ray_engine import connected, mapped

    with connected(address, workers) as actors:
        import ray

        actors = min(actors, len(blocks))
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)) // actors)
        jobs = [pickle.dumps(block) for block in blocks]
        with contextlib.closing(mapped(jobs, _Actor, (maker, cores), actors, cores)) as results:
            for result in results:
                yield pickle.loads(result)


class _Actor:
    """A Ray actor, which holds a model and answers the blocks that it receives."""

    def __init__(self, maker: PartMaker, cores: int) -> None:
        os.environ["QA_FAST_PROCESSORS"] = str(cores)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        self._maker = maker
        self._answerer = cache(partial(Answerer.from_pretrained, maker.model, maker.precision, maker.engine))

    def __call__(self, job: bytes) -> bytes:
        block = pickle.loads(job)
        return pickle.dumps((block, self._maker.keep_or_make(block, self._answerer)))


def _commit(
    maker: PartMaker, blocks: list[Block], facts: dict[Block, BlockFacts], decided_by: dict[str, Any]
) -> dict[str, Any]:
    """Write the index over the parts of all blocks, remove the parts that it does not list, and return the index."""
    out = maker.out
    counts = {name: sum(facts[block].counts[name] for block in blocks) for name in ("answered", "rejected")}
    if counts["rejected"]:
        with store.whole_file(out / _REJECTED) as local, local.open("wb") as file:
            for block in blocks:
                for line in maker.journal.listed(block, REJECTED).splitlines():
                    reject = json.loads(line)
                    file.write(_reject_line(reject["id"], reject["reason"]))
    else:
        store.remove(out / _REJECTED)
    parts = [{name: file[name] for name in FILE_FACTS} for block in blocks for file in facts[block].files]
    index = {"fingerprint": maker.fingerprint, "decided_by": decided_by, **counts, "parts": parts}
    store.write_json(out / ANSWERS_INDEX, index)
    _remove_parts(out, kept=index)
    maker.journal.clear()
    return index


def _has_finished(maker: PartMaker) -> bool:
    return any(name.endswith(".json") for name in store.names_in(maker.journal.folder))


def _clean_up(maker: PartMaker, resumable: bool) -> None:
    """Clean up after a failure. Finished parts stay, unless the input or the options must be changed anyway.

    Those of an earlier run always stay: what failed now may be the engine, the cluster or the cache.
    """
    with contextlib.suppress(OSError, UserError):
        if resumable and _has_finished(maker):
            return
        maker.journal.clear()
        _remove_parts(maker.out, kept=_index_of(maker.out))


def _remove_parts(out: Path, kept: dict[str, Any] | None) -> None:
    """Remove the parts in a folder that an index does not list."""
    listed = {part["file"] for part in kept["parts"]} if kept else set()
    for path in _ours_in(out):
        if path.name not in listed:
            store.remove(path)


def _replaced_inputs(out: Path, files: list[Path]) -> list[Path]:
    """Return the input files that a run into a folder would replace or remove."""
    ours = {*(path.name for path in _ours_in(out)), _REJECTED}
    real_out, *real_files = (path.resolve() if store.is_local(path) else path for path in (out, *files))
    return [file for file in real_files if file.parent == real_out and file.name in ours]


def _ours_in(out: Path) -> list[Path]:
    """Return the parts in a folder, by the form of their names."""
    return [out / name for name in store.names_in(out) if _PART_NAME.fullmatch(name)]


def _index_of(out: Path) -> dict[str, Any] | None:
    """Return the index of a folder of answers, or None if it has none."""
    index = store.read_json(out / ANSWERS_INDEX)
    return index if isinstance(index, dict) and isinstance(index.get("parts"), list) else None


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds other files, before any work is done.

    Raises:
        UserError: The path is a file, or a folder with files that are not answers.
    """
    with store.reached(out, "--output"):
        if store.is_file(out):
            raise UserError(
                f"--output must be a folder, or a file that ends in .jsonl or .parquet; received {out}, which is a "
                "file: choose another"
            )
        names = store.names_in(out) if store.is_folder(out) else []
    if names and ANSWERS_INDEX not in names and PARTIAL not in names:
        raise UserError(
            f"--output must be new, empty or a folder of answers; {out} holds other files ({', '.join(names[:3])}): "
            "choose another"
        )


def _recipe_key(folder: Path, weights: str, precision: str) -> list[str] | None:
    """Return what a recipe for int8 changes; None if there is none for these weights, or int8 cannot be chosen."""
    recipe = read_recipe(folder) if precision in ("auto", "int8") else None
    return [recipe.rounding.digest, *recipe.engines] if recipe is not None and recipe.weights == weights else None


def _tokenizer_key(folder: Path) -> str:
    """Return a hash of a model folder's tokenizer files."""
    state = hashlib.sha256()
    for path in tokenizer_files(folder).values():
        with contextlib.suppress(OSError):
            state.update(path.read_bytes())
    return state.hexdigest()
