"""A teacher's logits for the features to train on: computed once by an inference engine, and kept beside the shards.

`SHARDS/.teachers/KEY/part-00000.f16` holds the logits of a few thousand features, ragged like the features: float16 of
all starts, then of all ends, then the XXH3 checksum of both. A part appears whole or not at all and is checked whenever
it is read, so a run that was killed continues with the next part, and a damaged part is computed again, in both cases
with the engine and precision that teacher.json names. KEY is a hash of the teacher's weights, the shards' checksums and
the rows. Logits are shifted so that the highest of each feature is 0, which does not change the softmax and makes
float16 most precise where the probabilities are large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from qa_fast import store
from qa_fast.buffers import offsets_of
from qa_fast.cache import read_entry, write_entry
from qa_fast.errors import UserError
from qa_fast.infer.engine import Engine
from qa_fast.infer.graphs import model_key
from qa_fast.infer.open import open_engine
from qa_fast.infer.recipe import FILE as INT8_RECIPE
from qa_fast.model.checkpoint import read_head
from qa_fast.schema import ENGINE_PRECISIONS, ENGINES, Features, Int64s, canonical_json
from qa_fast.scoring.evaluation import taken
from qa_fast.shards import CHECKSUM, TRAIN, Shards, Split
from qa_fast.shards.compatibility import other_tokenizer

FOLDER = ".teachers"
DESCRIPTION = "teacher.json"
PART = 4096  # features: some minutes for a base model on two cores, a second on a GPU
_VERSION = 1
_LOWEST = float(np.finfo(np.float16).min)

Halves = npt.NDArray[np.float16]
Say = Callable[[str], None]


@dataclass(frozen=True)
class TeacherLogits:
    """Logits of n features.

    Attributes:
        starts: float16[tokens]; the highest of each feature is 0.
        ends: float16[tokens], likewise.
        offsets: int64[n + 1], the place where each feature's logits begin.
    """

    starts: Halves
    ends: Halves
    offsets: Int64s


def check_teacher(teacher: Path, shards: Shards) -> None:
    """Check that a teacher has a question answering head and the student's tokenizer.

    Raises:
        UserError: It does not.
    """
    read_head(teacher)
    differing = other_tokenizer(shards, teacher)
    if differing:
        raise UserError(
            f"--teacher must have the tokenizer that made the shards, because it scores tokens; {teacher} has another "
            f"({differing[1]}) than {shards.manifest['model']['name']} ({differing[0]}): choose a teacher with that "
            f"tokenizer, or featurize again with --model {teacher} and train a student that has it"
        )


def teacher_logits(teacher: Path, shards: Shards, rows: Int64s, say: Say) -> TeacherLogits:
    """Return a teacher's logits for some features of the split named train.

    Args:
        teacher: A model folder that `check_teacher` accepted.
        shards: The shards; the logits are kept in their folder.
        rows: int64[n], increasing, the features.
        say: Receives a line about what is computed.

    Returns:
        The logits of `rows`, in their order.

    Raises:
        UserError: The teacher cannot be read, its logits are not finite, or the folder cannot be written.
    """
    split = shards.split(TRAIN)
    if not len(rows):
        return TeacherLogits(np.zeros(0, np.float16), np.zeros(0, np.float16), np.zeros(1, np.int64))
    identity = _identity(teacher, shards)
    lengths = split.lengths[rows]
    if len(rows) < len(split):  # the logits of all features may be kept
        whole = _kept(_place(shards, identity, None), split.lengths)
        if all(part is not None for part in whole):
            return _select_rows(_joined(whole, split.lengths), rows)
    place = _place(shards, identity, rows if len(rows) < len(split) else None)
    parts = _kept(place, lengths)
    missing = [number for number, part in enumerate(parts) if part is None]
    if missing:
        engine = _engine(teacher, place if len(missing) < len(parts) else None, say)
        description = identity | {"name": teacher.name, "engine": engine.name, "precision": engine.precision}
        with suppress(OSError):  # writing the first part reports it
            store.write_json(place / DESCRIPTION, description)
        count = sum(len(lengths[number * PART :][:PART]) for number in missing)
        way = f"{engine.name} in {engine.precision}"
        say(f"teacher {teacher.name}: computing logits of {count:,} windows with {way}; they are kept in {place}")
        for number in missing:
            values = _read(engine, list(_chunks_of(split, rows[number * PART :][:PART])), teacher)
            _write(place / _name(number), values)
            parts[number] = values
            say(f"teacher {teacher.name}: {min(len(rows), (number + 1) * PART):,} of {len(rows):,} windows")
    return _joined(parts, lengths)


def _engine(teacher: Path, place: Path | None, say: Say) -> Engine:
    """Open the engine that computed the parts in `place` if it runs here, or else the fastest one.

    Another one, with another precision, may count as the fastest the next time, after a measurement for example.
    """
    kept = None if place is None else store.read_json(place / DESCRIPTION)
    if isinstance(kept, dict) and kept.get("engine") in ENGINES and kept.get("precision") in ENGINE_PRECISIONS:
        with suppress(UserError):  # it does not run on this machine
            return open_engine(teacher, kept["engine"], kept["precision"], say=say)
        say(
            f"teacher {teacher.name}: the kept logits were computed with {kept['engine']} in {kept['precision']}, "
            "which does not run here; the others are computed with the fastest engine"
        )
    return open_engine(teacher, say=say)


def teacher_key(teacher: Path) -> dict[str, str | None]:
    """Return hashes of what decides a teacher's logits, JSON-ready: its weights, and its int8 recipe if it has one."""
    recipe = teacher / INT8_RECIPE
    return {
        "weights": model_key(teacher),
        "int8": xxhash.xxh3_128_hexdigest(recipe.read_bytes()) if recipe.is_file() else None,
    }


def _identity(teacher: Path, shards: Shards) -> dict[str, Any]:
    return {
        "version": _VERSION,
        **teacher_key(teacher),
        "shards": [file[CHECKSUM] for file in shards.manifest["splits"][TRAIN]["shards"]],
        "part": PART,
    }


def _place(shards: Shards, identity: dict[str, Any], rows: Int64s | None) -> Path:
    """Return the folder of the logits of some rows; None means all features."""
    chosen = "all" if rows is None else xxhash.xxh3_128_hexdigest(rows.astype("<i8").tobytes())
    text = canonical_json(identity | {"rows": chosen})
    return shards.folder / FOLDER / xxhash.xxh3_128_hexdigest(text.encode())


def _name(number: int) -> str:
    return f"part-{number:05d}.f16"


def _kept(place: Path, lengths: npt.NDArray[np.int32]) -> list[Halves | None]:
    """Return the logits of each part, float16[2, tokens]; None for a part that is missing or damaged."""
    return [
        _whole(place / _name(number), int(lengths[begin : begin + PART].sum()))
        for number, begin in enumerate(range(0, len(lengths), PART))
    ]


def _whole(path: Path, tokens: int) -> Halves | None:
    body = read_entry(path)
    if body is None or len(body) != 4 * tokens:
        return None
    return np.frombuffer(body, "<f2").reshape(2, tokens)


def _write(path: Path, values: Halves) -> None:
    try:
        write_entry(path, values.astype("<f2").tobytes())
    except OSError as error:
        raise UserError(
            "a teacher's logits are kept beside the shards, in a writable folder with free space; "
            f"{path.parent}: {error.strerror or error}: free some space, or copy the shards to a writable folder"
        ) from None


def _chunks_of(split: Split, rows: Int64s) -> Iterator[Features]:
    """Yield the features of increasing rows, chunk by chunk."""
    first = 0
    for chunk in split.chunks:
        in_chunk = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(chunk))]
        if len(in_chunk):
            yield taken(chunk, in_chunk - first)
        first += len(chunk)


def _read(engine: Engine, chunks: Sequence[Features], teacher: Path) -> Halves:
    """Compute float16[2, tokens], the start and end logits of all features; the highest of each feature is 0.

    Raises:
        UserError: A logit is not finite.
    """
    offsets = offsets_of(np.concatenate([chunk.input_ids.lengths for chunk in chunks]))
    values = np.full((2, offsets[-1]), np.nan, np.float16)
    for batch in engine.predict(chunks):
        own = np.arange(batch.start_logits.shape[1]) < batch.lengths[:, None]
        places = (offsets[batch.rows][:, None] + np.arange(own.shape[1]))[own]
        for side, logits in enumerate((batch.start_logits, batch.end_logits)):
            highest = np.where(own, logits, -np.inf).max(axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):  # reported below
                values[side, places] = np.maximum(logits - highest, _LOWEST)[own]
    if np.isnan(values).any():
        raise UserError(
            f"a teacher's logits must be finite; {teacher} gives others in {engine.precision}: choose another teacher"
        )
    return values


def _joined(parts: Sequence[Halves | None], lengths: npt.NDArray[np.int32]) -> TeacherLogits:
    values = np.concatenate([part for part in parts if part is not None], axis=1)
    return TeacherLogits(values[0], values[1], offsets_of(lengths))


def _select_rows(logits: TeacherLogits, rows: Int64s) -> TeacherLogits:
    lengths = np.diff(logits.offsets)[rows]
    offsets = offsets_of(lengths)
    index = np.repeat(logits.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return TeacherLogits(logits.starts[index], logits.ends[index], offsets)
