"""Opening a folder of shards: files are read through a memory map without a copy."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import ragged_from
from qa_fast.errors import UserError
from qa_fast.schema import Features, Int32s, Ragged
from qa_fast.shards.format import FORMAT_VERSION, INDEX, damaged_file


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
