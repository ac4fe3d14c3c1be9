"""Many questions over many documents: files in, a folder of answers out, on this machine or on a Ray cluster.

The input is cut into blocks as for featurizing; each makes one part of the output, in the input's order, by a process
that holds a model. A part that is whole is kept when a run goes on after it was interrupted, the index is written last,
and no process holds more than a block's rows.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from qa_fast import store
from qa_fast.answer.answerer import Answerer, AnswerOptions
from qa_fast.answer.parts import FORMATS, PART, PartMaker
from qa_fast.builder.staging import locked, not_writable
from qa_fast.errors import UnreachableError, UserError
from qa_fast.infer.graphs import model_key
from qa_fast.model.files import checked_files
from qa_fast.progress import Reporter
from qa_fast.schema import canonical_json
from qa_fast.shards.format import FILE_FACTS, is_whole
from qa_fast.shards.journal import PARTIAL, BlockFacts
from qa_fast.sources import resolve_model
from qa_fast.sources.files import find_splits
from qa_fast.sources.pieces import Block, blocks_of
from qa_fast.version import __version__

ANSWERS_INDEX = "qa_fast_answers.json"
_REJECTED = "rejected.jsonl"
_FORMAT_VERSION = 1
# Bytes of input that make a part: some thousand questions, which take a core about a minute, lost at most.
PART_BYTES = 1 << 20


@dataclass(frozen=True)
class BulkResult:
    """What came of a run.

    Attributes:
        out: The folder of answers.
        index: What its index says.
        up_to_date: Whether all was there already.
    """

    out: Path
    index: dict[str, Any]
    up_to_date: bool


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
        model: A model folder, here or a URL, a Hub id, or "minilm".
        source: A file or folder, here or a URL: JSON lines, JSON, Parquet or Arrow with question, context and, if
            wanted, id; or SQuAD's nested JSON. Rows without an id are named after their place.
        out: The folder to make, here or a URL.
        options: For all questions.
        form: "jsonl": id, question and the keys of `Answer`, or with top_k > 1 a list "answers" of those; "parquet":
            the same as columns.
        columns: Ours -> theirs.
        precision: See `infer.open_engine`. Named together with `engine`, every machine computes alike; "auto" is each
            machine's own choice.
        engine: "auto", "keras", "openvino" or "onnx".
        ray: On a Ray cluster, with a model an actor.
        address: Of the cluster, see `engines.ray_data.connected`.
        workers: Actors; None takes one for each core. They share the cores of the cluster evenly.
        overwrite: Replace other answers in `out`.
        report: Where to say what is done.

    Raises:
        UserError: For anything the user can put right; whole parts stay, for the next run.
    """
    report, options = report or Reporter(), options or AnswerOptions()
    if form not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; received {form!r}")
    place, folder = store.place(out), resolve_model(str(model), report.say)
    _check_out(place)
    files = [path for paths in find_splits(store.place(source)).values() for path in paths]
    files.sort(key=str)
    with store.reached(files[0], "SOURCE"):
        listed = {f"{number}/{path.name}": store.identity(path) for number, path in enumerate(files)}
    decides = {
        "format": _FORMAT_VERSION, "version": __version__, "form": form, "model": model_key(folder),
        "tokenizer": _tokenizer_key(folder), "precision": precision, "engine": engine, "options": asdict(options),
        "source": listed, "columns": columns or {}, "part_bytes": PART_BYTES,
    }  # fmt: skip
    fingerprint = hashlib.sha256(canonical_json(decides).encode("utf-8", "surrogateescape")).hexdigest()
    named = str(folder) if store.is_local(store.place(str(model))) else str(model)
    maker = PartMaker(named, precision, engine, options, columns or {}, place, fingerprint, form)
    with locked(place):
        there, here = _index_of(place), store.is_local(place)
        if there is not None and there.get("fingerprint") == fingerprint:
            damaged = [part["file"] for part in there["parts"] if not is_whole(place / part["file"], part, here)]
            if not damaged:
                report.say(f"{place} is up to date: same questions, model and options")
                return BulkResult(place, there, True)
            report.say(f"{place}: {damaged[0]} is missing or damaged, answering again")
        elif there is not None and not overwrite:
            raise UserError(
                f"{place} holds answers to other questions, or of another model or other options: pass --overwrite to "
                "replace them, or choose another --output"
            )
        blocks = list(blocks_of({PART: files}, PART_BYTES))
        try:
            with store.reached(place, "--output"):
                maker.journal.open()
                make = _by_ray(maker, address, workers, report) if ray else _here(maker, folder, report)
                made = dict(make(blocks))
                index = _put_together(maker, blocks, made, decides, there)
        except BaseException as error:
            may_go_on = not isinstance(error, UserError) or isinstance(error, UnreachableError)
            _leave(maker, may_go_on)
            if isinstance(error, OSError):
                raise not_writable(place, error) from None
            raise
    return BulkResult(place, index, False)


_Made = Iterator[tuple[Block, BlockFacts]]


def _here(maker: PartMaker, folder: Path, report: Reporter) -> Callable[[list[Block]], _Made]:
    """Block after block, in this process: the model takes all cores by itself."""

    def run(blocks: list[Block]) -> _Made:
        answerer = None
        for block in blocks:
            facts = maker.journal.finished(block)
            if facts is None:
                answerer = answerer or Answerer.from_pretrained(folder, maker.precision, maker.engine, report.say)
                facts = maker.make(block, answerer)
            if report.progress:
                report.progress(PART, facts.rows, None)
            yield block, facts

    return run


def _by_ray(
    maker: PartMaker, address: str | None, workers: int | None, report: Reporter
) -> Callable[[list[Block]], _Made]:
    """Blocks shared out over actors."""

    def run(blocks: list[Block]) -> _Made:
        from qa_fast.builder.ray_engine import connected, mapped

        with connected(address, workers) as actors:
            import ray

            actors = min(actors, len(blocks))
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)) // actors)
            jobs = [pickle.dumps(block) for block in blocks]
            with contextlib.closing(mapped(jobs, _Reader, (maker, cores), actors, cores)) as results:
                for result in results:
                    block, facts = pickle.loads(result)
                    if report.progress:
                        report.progress(PART, facts.rows, None)
                    yield block, facts

    return run


class _Reader:
    """One actor: holds a model, and answers the blocks that it is given."""

    def __init__(self, maker: PartMaker, cores: int) -> None:
        os.environ["QA_FAST_PROCESSORS"] = str(cores)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
        self.maker = maker
        self._answerer: Answerer | None = None

    def __call__(self, job: bytes) -> bytes:
        block, maker = pickle.loads(job), self.maker
        facts = maker.journal.finished(block)
        if facts is None:
            if self._answerer is None:
                self._answerer = Answerer.from_pretrained(maker.model, maker.precision, maker.engine)
            try:
                facts = maker.make(block, self._answerer)
            except OSError as error:
                raise not_writable(maker.out, error) from None
        return pickle.dumps((block, facts))


def _put_together(
    maker: PartMaker,
    blocks: list[Block],
    made: dict[Block, BlockFacts],
    decides: dict[str, Any],
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """The index over all parts, which vouches for them; then what it does not list goes."""
    out = maker.out
    counts = {name: sum(made[block].counts[name] for block in blocks) for name in ("answered", "rejected")}
    if counts["rejected"]:
        with store.whole_file(out / _REJECTED) as local, local.open("wb") as file:
            for block in blocks:
                for line in maker.journal.rejected(block).splitlines():
                    said = json.loads(line)
                    file.write(orjson.dumps({"id": said["id"], "reason": said["reason"]}) + b"\n")
    else:
        store.remove(out / _REJECTED)
    parts = [{name: file[name] for name in FILE_FACTS} for block in blocks for file in made[block].files]
    index = {"fingerprint": maker.fingerprint, "decided_by": decides, **counts, "parts": parts}
    store.write_json(out / ANSWERS_INDEX, index)
    kept = {part["file"] for part in parts}
    for name in store.names_in(out):
        if _is_part(name) and name not in kept:
            store.remove(out / name)
    maker.journal.clear()
    return index


def _leave(maker: PartMaker, may_go_on: bool) -> None:
    """After a failure: parts that are whole stay, unless the input or the options must be mended anyway."""
    with contextlib.suppress(OSError, UserError):
        noted = [name for name in store.names_in(maker.journal.folder) if name.endswith(".json")]
        if may_go_on and noted:
            return
        maker.journal.clear()
        index = _index_of(maker.out)
        kept = {part["file"] for part in index["parts"]} if index else set()
        for name in store.names_in(maker.out):
            if _is_part(name) and name not in kept:
                store.remove(maker.out / name)


def _is_part(name: str) -> bool:
    return name.startswith(f"{PART}-") and name.endswith(tuple(f".{form}" for form in FORMATS))


def _index_of(out: Path) -> dict[str, Any] | None:
    index = store.read_json(out / ANSWERS_INDEX)
    return index if isinstance(index, dict) and isinstance(index.get("parts"), list) else None


def _check_out(out: Path) -> None:
    with store.reached(out, "--output"):
        if store.is_file(out):
            raise UserError(f"--output must be a folder here; received {out}, which is a file: choose another")
        names = store.names_in(out) if store.is_folder(out) else []
    if names and ANSWERS_INDEX not in names and PARTIAL not in names:
        raise UserError(
            f"--output must be new, empty or a folder of answers; {out} holds other files ({', '.join(names[:3])}): "
            "choose another"
        )


def _tokenizer_key(folder: Path) -> str:
    state = hashlib.sha256()
    for path in checked_files(folder, ("tokenizer.json", "tokenizer_config.json")).values():
        with contextlib.suppress(OSError):
            state.update(path.read_bytes())
    return state.hexdigest()
