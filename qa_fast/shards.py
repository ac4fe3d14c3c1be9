"""Shards: Arrow files that `datasets.load_from_disk` opens, that describe themselves, and that appear whole.

    OUT/qa_fast.json                      the index, written last: without it nothing here is trusted
    OUT/dataset_dict.json                 {"splits": [...]}
    OUT/rejected.jsonl                    only where examples were rejected
    OUT/<split>/data-00000-of-000NN.arrow features (schema.FEATURE_COLUMNS)
    OUT/<split>/state.json, dataset_info.json
    OUT/<split>/examples.arrow, contexts.arrow  for every split but train: what evaluation needs, once each

Files are Arrow IPC streams of few, large record batches; they are read through a memory map without a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from qa_fast.buffers import list_array, ragged_from
from qa_fast.errors import UserError
from qa_fast.raw import ANSWERS_TYPE
from qa_fast.schema import Features, Int32s, Ragged

if TYPE_CHECKING:
    from qa_fast.encode import EncodedTexts
    from qa_fast.examples import Examples

INDEX = "qa_fast.json"
FORMAT_VERSION = 2
TRAIN = "train"
REJECTED = "rejected.jsonl"
CHECKSUM = "xxh3_128"
# A data file is closed when it holds this much; small enough to copy and checksum in pieces.
SHARD_BYTES = 1 << 29


class _HashingFile:
    """A file that is written from its start to its end, with its checksum as it goes: a second reading costs more.

    XXH3 tells a damaged file as surely as SHA-256 does, in a seventh of the time, which here is a tenth of the whole.
    """

    def __init__(self, path: Path) -> None:
        self.checksum, self.size = xxhash.xxh3_128(), 0
        self._file = path.open("wb", buffering=0)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes | pa.Buffer) -> int:
        """Write all of it."""
        view = memoryview(data).cast("B")
        self.checksum.update(view)
        while len(view):  # a single call may write less
            view = view[self._file.write(view) :]
        size = memoryview(data).nbytes
        self.size += size
        return size

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SplitWriter:
    """Writes one split's files into a folder; they are complete after `close`."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self._streams: dict[str, tuple[_HashingFile, pa.ipc.RecordBatchStreamWriter]] = {}
        self._data: list[tuple[Path, int]] = []  # files begun, rows in each
        self._contexts = 0
        folder.mkdir(parents=True)

    def add_features(self, batch: pa.RecordBatch) -> None:
        """Append features, as `feature_batch` gives them."""
        if not self._data or self._data[-1][0].stat().st_size >= SHARD_BYTES:
            self._data.append((self.folder / f"data-{len(self._data):05d}.arrow", 0))
        path, rows = self._data[-1]
        self._data[-1] = (path, rows + batch.num_rows)
        self._write(path.name, batch)

    def add_examples(self, examples: Examples, contexts: EncodedTexts, leading_chars: Int32s, counts: Int32s) -> None:
        """Append what evaluation needs; does nothing for train.

        Args:
            examples: E examples over D contexts.
            contexts: The encoded contexts [D].
            leading_chars: int32[D], white space taken off each context before encoding.
            counts: int32[E], features of each example.
        """
        if self.split == TRAIN:
            return
        shift = np.repeat(leading_chars, np.diff(contexts.offsets))
        self._write(
            "contexts.arrow",
            pa.RecordBatch.from_pydict(
                {
                    "context": examples.contexts.cast(pa.string()),
                    "token_char_start": list_array(Ragged(contexts.char_start + shift, contexts.offsets), pa.int32()),
                    "token_char_end": list_array(Ragged(contexts.char_end + shift, contexts.offsets), pa.int32()),
                }
            ),
        )
        self._write(
            "examples.arrow",
            pa.RecordBatch.from_pydict(
                {
                    "id": examples.ids,
                    "question": examples.questions,
                    "context_index": pa.array(examples.context_index + np.int32(self._contexts)),
                    "answers": examples.answers.cast(ANSWERS_TYPE),
                    "feature_count": pa.array(counts),
                }
            ),
        )
        self._contexts += len(contexts)

    def _write(self, name: str, batch: pa.RecordBatch) -> None:
        if name not in self._streams:
            sink = _HashingFile(self.folder / name)
            self._streams[name] = (sink, pa.ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema))
        self._streams[name][1].write_batch(batch)

    def close(self) -> list[dict[str, Any]]:
        """Finish the files, give them their final names, and write what `datasets` reads.

        Returns:
            For each file: its name within the split, rows, bytes and checksum.
        """
        for sink, stream in self._streams.values():
            stream.close()
            sink.close()
        files: list[dict[str, Any]] = []
        for number, (path, rows) in enumerate(self._data):
            final = path.with_name(f"data-{number:05d}-of-{len(self._data):05d}.arrow")
            path.rename(final)
            files.append(self._described(final, path.name, rows))
        for name in ("examples.arrow", "contexts.arrow"):
            if (self.folder / name).exists():
                files.append(self._described(self.folder / name, name, None))
        data_files = [{"filename": file["file"]} for file in files if file["rows"] is not None]
        fingerprint = files[0][CHECKSUM][:16] if files else "0" * 16
        state: dict[str, Any] = {
            "_data_files": data_files,
            "_fingerprint": fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": self.split,
        }
        # No "features" on purpose: `datasets` then reads the types off the Arrow schema, in every version of it.
        info = {"citation": "", "description": "Made by qa-fast featurize.", "homepage": "", "license": ""}
        write_json(self.folder / "dataset_info.json", info)
        write_json(self.folder / "state.json", state)
        return files

    def _described(self, path: Path, written_as: str, rows: int | None) -> dict[str, Any]:
        sink, _ = self._streams[written_as]
        return {"file": path.name, "rows": rows, "bytes": sink.size, CHECKSUM: sink.checksum.hexdigest()}

    def abort(self) -> None:
        """Let go of the open files; what was written stays where it is."""
        for sink, _ in self._streams.values():
            sink.close()


def feature_batch(features: Features, ids: pa.Array, split: str) -> pa.RecordBatch:
    """Features as the columns of a data file.

    Args:
        features: F features.
        ids: string [E], ids of the examples that `features.example_index` counts.
        split: Every split but train has the columns that evaluation needs.
    """
    columns: dict[str, pa.Array] = {"input_ids": list_array(features.input_ids, pa.int32())}
    if features.token_type_ids is not None:
        columns["token_type_ids"] = list_array(features.token_type_ids, pa.int8())
    columns["start_positions"] = pa.array(features.start_positions)
    columns["end_positions"] = pa.array(features.end_positions)
    columns["example_id"] = ids.take(pa.array(features.example_index))
    columns["window_index"] = pa.array(features.window_index)
    if split != TRAIN:
        columns["context_start"] = pa.array(features.context_start)
        columns["context_end"] = pa.array(features.context_end)
        columns["document_token_start"] = pa.array(features.document_token_start)
    return pa.RecordBatch.from_pydict(columns)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A file's name may hold bytes that are no UTF-8; \udcff is how JSON writes them too.
    temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    temporary.replace(path)


@dataclass(frozen=True)
class Split:
    """One split's files, memory-mapped.

    Attributes:
        name: "train", "validation", ...
        chunks: Features of each record batch, in order; views without a copy. `example_index` counts the split's
            examples, from 0.
        ids: string [F], each feature's example id.
        examples: Table of `schema.EXAMPLE_COLUMNS`, or None for train.
        contexts: Table of `schema.CONTEXT_COLUMNS`, or None for train.
    """

    name: str
    chunks: list[Features]
    ids: pa.ChunkedArray
    examples: pa.Table | None = None
    contexts: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> Int32s:
        """int32[F], tokens of each feature."""
        parts = [chunk.input_ids.lengths for chunk in self.chunks]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)


@dataclass(frozen=True)
class Shards:
    """A folder of shards.

    Attributes:
        folder: Where it is.
        manifest: What qa_fast.json says.
    """

    folder: Path
    manifest: dict[str, Any]
    _opened: dict[str, Split] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> list[str]:
        """The splits."""
        return list(self.manifest["splits"])

    def split(self, name: str) -> Split:
        """Open a split.

        Raises:
            UserError: There is none of that name, or a file of it is missing or not as long as it was made.
        """
        if name not in self.manifest["splits"]:
            raise UserError(f"the split must be one of {', '.join(self.names)}; received {name!r} for {self.folder}")
        if name not in self._opened:
            self._opened[name] = _open_split(self.folder / name, name, self.manifest["splits"][name]["shards"])
        return self._opened[name]


def open_shards(path: str | Path) -> Shards:
    """Open a folder that `qa-fast featurize` made.

    Raises:
        UserError: Not such a folder, an unfinished one, or one of another format version.
    """
    folder = Path(path).expanduser()
    index = folder / INDEX
    if not index.is_file():
        state = "is not there" if not folder.exists() else f"has no {INDEX} (not made by qa-fast, or not finished)"
        raise UserError(f"SHARDS must be a folder that 'qa-fast featurize' made; {folder} {state}: run featurize first")
    try:
        manifest = json.loads(index.read_text(encoding="utf-8"))
        version = manifest["format_version"]
        files = [file["file"] for about in manifest["splits"].values() for file in about["shards"]]
    except OSError as error:
        raise UserError(f"{index} must be readable; {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        files = []
    if not files:
        raise UserError(f"{index} must be the index of a shard folder; it is damaged: featurize again")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} must have shard format {FORMAT_VERSION}; received format {version}, of qa-fast "
            f"{manifest.get('qa_fast_version')}: featurize again with this version"
        )
    return Shards(folder, manifest)


def damaged_file(folder: Path, manifest: dict[str, Any], contents: bool = False) -> str | None:
    """The first file that is missing or not as the index says, if there is one.

    Args:
        folder: Of the shards.
        manifest: Its index.
        contents: Compare checksums, which reads every file, and not lengths only.
    """
    if not (folder / "dataset_dict.json").is_file():
        return "dataset_dict.json"
    for split, about in manifest["splits"].items():
        for file in about["shards"]:
            path = folder / split / file["file"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                return f"{split}/{file['file']}"
            if contents and _checksum(path) != file[CHECKSUM]:
                return f"{split}/{file['file']}"
        for name in ("state.json", "dataset_info.json"):
            if not (folder / split / name).is_file():
                return f"{split}/{name}"
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _open_split(folder: Path, name: str, files: list[dict[str, Any]]) -> Split:
    damaged = damaged_file(folder.parent, {"splits": {name: {"shards": files}}})
    if damaged:
        raise UserError(
            f"{folder.parent} must be as featurize left it; {damaged} is missing or cut short: featurize again"
        )
    try:
        return _assembled(name, files, {file["file"]: _table(folder / file["file"]) for file in files})
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} must be as featurize left it; it is damaged ({reason}): featurize again") from None


def _assembled(name: str, files: list[dict[str, Any]], tables: dict[str, pa.Table]) -> Split:
    data = [tables[file["file"]] for file in files if file["rows"] is not None]
    features = pa.concat_tables(data) if data else None
    if features is None or features.num_rows == 0:
        return Split(
            name, [], pa.chunked_array([], pa.string()), tables.get("examples.arrow"), tables.get("contexts.arrow")
        )
    ids = features["example_id"]
    run_ends = pc.run_end_encode(ids.combine_chunks() if ids.num_chunks > 1 else ids.chunk(0)).run_ends.to_numpy()
    example_index = np.repeat(np.arange(len(run_ends), dtype=np.int32), np.diff(run_ends, prepend=0))
    chunks, row = [], 0
    for batch in features.to_batches():
        chunks.append(_features(batch, example_index[row : row + batch.num_rows]))
        row += batch.num_rows
    return Split(name, chunks, ids, tables.get("examples.arrow"), tables.get("contexts.arrow"))


def _table(path: Path) -> pa.Table:
    with pa.memory_map(os.fsencode(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        table = stream.read_all()
    table.validate(full=True)  # reads offsets and texts, not the ids: what kernels index with must be in bounds
    return table


def _features(batch: pa.RecordBatch, example_index: Int32s) -> Features:
    def column(name: str) -> Int32s:
        if name not in batch.schema.names:
            return np.zeros(batch.num_rows, np.int32)
        return batch.column(name).to_numpy(zero_copy_only=True)

    ids = ragged_from(batch.column("input_ids"))
    types = None
    if "token_type_ids" in batch.schema.names:
        types = Ragged(ragged_from(batch.column("token_type_ids")).values, ids.offsets)
    return Features(
        input_ids=ids,
        token_type_ids=types,
        start_positions=column("start_positions"),
        end_positions=column("end_positions"),
        example_index=example_index,
        window_index=column("window_index"),
        context_start=column("context_start"),
        context_end=column("context_end"),
        document_token_start=column("document_token_start"),
    )
