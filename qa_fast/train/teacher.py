"""A teacher's logits for features to train on: computed once by the inference room, and kept beside the shards.

`SHARDS/.teachers/KEY/part-00000.f16` holds a few thousand features' logits, ragged as the features are: float16 of all
starts, then of all ends, then the XXH3 of both. A part appears whole or not at all and is checked whenever it is read,
so a run that was killed goes on with the next part, and a damaged one is computed anew, both in the way that
teacher.json tells of the parts before. KEY is of the teacher's weights, the shards' checksums and which features there
are. Logits are shifted so that a feature's highest is 0: its softmax does not change, and float16 is finest where the
probabilities are.
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
from qa_fast.errors import UserError
from qa_fast.infer.engine import ENGINES, PRECISIONS, Engine
from qa_fast.infer.graphs import model_key
from qa_fast.infer.open import open_engine
from qa_fast.infer.quantization import FILE as INT8_RECIPE
from qa_fast.model.checkpoint import read_head
from qa_fast.schema import Features, Int64s, canonical_json
from qa_fast.scoring.evaluation import taken
from qa_fast.shards import CHECKSUM, TRAIN, Shards, Split
from qa_fast.shards.compatibility import other_tokenizer

FOLDER = ".teachers"
ABOUT = "teacher.json"
PART = 4096  # features: some minutes of a base model's reading on two cores, a second on a GPU
_VERSION = 1
_LOWEST = float(np.finfo(np.float16).min)

Halves = npt.NDArray[np.float16]
Say = Callable[[str], None]


@dataclass(frozen=True)
class TeacherLogits:
    """Logits of n features.

    Attributes:
        starts: float16 [tokens], each feature's highest 0.
        ends: float16 [tokens].
        offsets: int64[n + 1], where each feature's logits begin.
    """

    starts: Halves
    ends: Halves
    offsets: Int64s


def check_teacher(teacher: Path, shards: Shards) -> None:
    """Hold that a teacher has a head, and reads the tokens that the student reads.

    Raises:
        UserError: It does not.
    """
    read_head(teacher)
    differing = other_tokenizer(shards, teacher)
    if differing:
        raise UserError(
            f"--teacher must have the tokenizer that made the shards, for its logits are by token; {teacher} has "
            f"another ({differing[1]}) than {shards.manifest['model']['name']} ({differing[0]}): take a teacher of "
            f"that tokenizer, or featurize again with --model {teacher} and train a student that has it"
        )


def teacher_logits(teacher: Path, shards: Shards, rows: Int64s, say: Say) -> TeacherLogits:
    """A teacher's logits for some features of the split named train.

    Args:
        teacher: A model folder; see `check_teacher`.
        shards: What its logits are kept beside.
        rows: int64[n], features, increasing.
        say: Told what is computed.

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
    if len(rows) < len(split):  # those of all features hold these, too
        whole = _kept(_place(shards, identity, None), split.lengths)
        if all(part is not None for part in whole):
            return _of_rows(_joined(whole, split.lengths), rows)
    place = _place(shards, identity, rows if len(rows) < len(split) else None)
    parts = _kept(place, lengths)
    missing = [number for number, part in enumerate(parts) if part is None]
    if missing:
        engine = _engine(teacher, place if len(missing) < len(parts) else None, say)
        about = identity | {"name": teacher.name, "engine": engine.name, "precision": engine.precision}
        with suppress(OSError):  # that of a part is told
            store.write_json(place / ABOUT, about)
        todo = sum(len(lengths[number * PART :][:PART]) for number in missing)
        way = f"{engine.name} in {engine.precision}"
        say(f"teacher {teacher.name}: reading {todo:,} windows with {way}; its logits are kept in {place}")
        for number in missing:
            values = _read(engine, list(_chunks_of(split, rows[number * PART :][:PART])), teacher)
            _write(place / _name(number), values)
            parts[number] = values
            say(f"teacher {teacher.name}: {min(len(rows), (number + 1) * PART):,} of {len(rows):,} windows")
    return _joined(parts, lengths)


def _engine(teacher: Path, place: Path | None, say: Say) -> Engine:
    """The one that has read the parts that are kept in `place`, where it is here, or else the fastest.

    What is fastest is measured, so that it may be another the next time, in another precision.
    """
    about = None if place is None else store.read_json(place / ABOUT)
    if isinstance(about, dict) and about.get("engine") in ENGINES and about.get("precision") in PRECISIONS:
        with suppress(UserError):  # not on this machine
            return open_engine(teacher, about["engine"], about["precision"], say=say)
        say(
            f"teacher {teacher.name}: the logits that are kept were read in {about['precision']}, others cannot be here"
        )
    return open_engine(teacher, say=say)


def teacher_key(teacher: Path) -> dict[str, str | None]:
    """What a teacher's logits hang on, JSON-ready: with an int8 recipe "auto" may read in int8."""
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
    """Where logits are; `rows` is None for those of all features."""
    chosen = "all" if rows is None else xxhash.xxh3_128_hexdigest(rows.astype("<i8").tobytes())
    text = canonical_json(identity | {"rows": chosen})
    return shards.folder / FOLDER / xxhash.xxh3_128_hexdigest(text.encode())


def _name(number: int) -> str:
    return f"part-{number:05d}.f16"


def _kept(place: Path, lengths: npt.NDArray[np.int32]) -> list[Halves | None]:
    """Each part's logits, float16 [2, tokens]; None where it is missing or damaged."""
    return [
        _whole(place / _name(number), int(lengths[begin : begin + PART].sum()))
        for number, begin in enumerate(range(0, len(lengths), PART))
    ]


def _whole(path: Path, tokens: int) -> Halves | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body, checksum = data[:-16], data[-16:]
    if len(body) != 4 * tokens or xxhash.xxh3_128_digest(body) != checksum:
        return None
    return np.frombuffer(body, "<f2").reshape(2, tokens)


def _write(path: Path, values: Halves) -> None:
    body = values.astype("<f2").tobytes()
    try:
        store.write_whole(path, body + xxhash.xxh3_128_digest(body))
    except OSError as error:
        raise UserError(
            f"a teacher's logits are kept beside the shards, in a folder that can be written, with room; "
            f"{path.parent}: {error.strerror or error}: make room, or copy the shards to where you may write"
        ) from None


def _chunks_of(split: Split, rows: Int64s) -> Iterator[Features]:
    """The features of increasing rows, chunk by chunk."""
    first = 0
    for chunk in split.chunks:
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(chunk))]
        if len(here):
            yield taken(chunk, here - first)
        first += len(chunk)


def _read(engine: Engine, chunks: Sequence[Features], teacher: Path) -> Halves:
    """float16 [2, tokens]: start and end logits of all features, one after the other, each feature's highest 0."""
    offsets = offsets_of(np.concatenate([chunk.input_ids.lengths for chunk in chunks]))
    values = np.full((2, offsets[-1]), np.nan, np.float16)
    for batch in engine.predict(chunks):
        own = np.arange(batch.start_logits.shape[1]) < batch.lengths[:, None]
        places = (offsets[batch.rows][:, None] + np.arange(own.shape[1]))[own]
        for side, logits in enumerate((batch.start_logits, batch.end_logits)):
            highest = np.where(own, logits, -np.inf).max(axis=1, keepdims=True)
            with np.errstate(invalid="ignore"):  # not finite: told below
                values[side, places] = np.maximum(logits - highest, _LOWEST)[own]
    if np.isnan(values).any():
        raise UserError(f"a teacher's logits must be finite; {teacher} gives others in {engine.precision}")
    return values


def _joined(parts: Sequence[Halves | None], lengths: npt.NDArray[np.int32]) -> TeacherLogits:
    values = np.concatenate([part for part in parts if part is not None], axis=1)
    return TeacherLogits(values[0], values[1], offsets_of(lengths))


def _of_rows(logits: TeacherLogits, rows: Int64s) -> TeacherLogits:
    lengths = np.diff(logits.offsets)[rows]
    offsets = offsets_of(lengths)
    index = np.repeat(logits.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return TeacherLogits(logits.starts[index], logits.ends[index], offsets)
