"""Opens a folder of shards. Files are memory-mapped without a copy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast import store
from qa_fast.buffers import offsets_of, ragged_from
from qa_fast.errors import UserError, first_line, shown
from qa_fast.schema import LABEL_COLUMNS, Features, Int32s, Ragged
from qa_fast.shards.format import (
    CONTEXTS,
    DATA,
    EXAMPLES,
    FORMAT_VERSION,
    INDEX,
    LABELS,
    damaged_file,
    is_index,
    kind_of,
)
from qa_fast.shards.remote import fetch_split, local_folder
from qa_fast.shards.split import Split


@dataclass(frozen=True)
class Shards:
    """A folder of shards: its splits by name.

    Attributes:
        folder: The local folder, to which splits of remote shards are copied when they are opened.
        manifest: The index, the content of qa_fast.json.
        remote: The remote folder, if there is one.

    Examples:
        >>> shards = open_shards("shards")
        >>> list(shards)
        ['validation', 'train']
        >>> shards["train"][0]["input_ids"]
    """

    folder: Path
    manifest: dict[str, Any]
    _opened: dict[str, Split] = field(default_factory=dict, repr=False)
    remote: Path | None = None

    @property
    def names(self) -> list[str]:
        """The names of the splits."""
        return list(self.manifest["splits"])

    def __getitem__(self, name: str) -> Split:
        """Open a split; see `split`."""
        return self.split(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __fspath__(self) -> str:
        return str(self.folder)  # so that every function that takes a folder of shards takes this

    def __repr__(self) -> str:
        splits = self.manifest["splits"].items()
        listed = "".join(f"\n  {name}: {about['features']:,} features" for name, about in splits)
        return f"Shards({str(self.folder)!r}){listed}"

    def _repr_html_(self) -> str:
        from qa_fast.shards.summary import shards_html

        return shards_html(str(self.folder), self.manifest)

    def split(self, name: str) -> Split:
        """Open a split.

        Raises:
            UserError: There is no split of that name, or one of its files is missing or of another length.
        """
        if name not in self.manifest["splits"]:
            raise UserError(f"the split must be one of {', '.join(self.names)}; received {name!r} for {self.folder}")
        if name not in self._opened:
            if self.remote is not None:
                fetch_split(self.remote, self.folder, name, self.manifest["splits"][name]["shards"])
            self._opened[name] = _open_split(self.folder / name, name, self.manifest)
        return self._opened[name]

    def check_contents(self, name: str) -> None:
        """Compare the files of a split with the checksums of the index; this reads them, at some GB a second.

        Raises:
            UserError: A file differs from what featurize wrote.
        """
        self.split(name)  # copies a remote split to the local folder
        damaged = damaged_file(self.folder, {"splits": {name: self.manifest["splits"][name]}}, contents=True)
        if damaged:
            raise UserError(
                f"{self.folder} must be as featurize left it; {damaged} is not, by its checksum: featurize again"
            )


def open_shards(path: str | os.PathLike[str]) -> Shards:
    """Open a folder that `qa-fast featurize` made.

    Args:
        path: The folder, a local path or a URL.

    Returns:
        Its splits by name; `shards["train"][0]` is a feature.

    Raises:
        UserError: The folder is not of shards, unfinished, or of another format version.

    Examples:
        >>> shards = open_shards("shards")
        >>> for batch in shards["train"].batches(32):
        ...     batch["input_ids"]
    """
    if not store.is_path(path):
        raise UserError(
            f"SHARDS must be the path of a folder that 'qa-fast featurize' made; received {type(path).__name__}: pass "
            "the folder, or what featurize and open_shards return"
        )
    place = store.place(path)
    folder = place if store.is_local(place) else local_folder(place)
    index = folder / INDEX
    try:
        finished = index.is_file()
    except OSError as error:  # a name that no file can have
        raise UserError(f"SHARDS must be a folder that 'qa-fast featurize' made; {error.strerror}: {folder}") from None
    if not finished:
        state = "does not exist" if not folder.exists() else f"has no {INDEX} (not made by qa-fast, or not finished)"
        raise UserError(f"SHARDS must be a folder that 'qa-fast featurize' made; {folder} {state}: run featurize first")
    try:
        manifest = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{index} must be readable; {error.strerror}") from None
    except (ValueError, RecursionError):
        manifest = None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise UserError(
            f"{folder} must have shard format {FORMAT_VERSION}; received format {shown(version)}, of qa-fast "
            f"{str(manifest.get('qa_fast_version'))[:20]}: featurize again with this version"
        )
    if version != FORMAT_VERSION or not is_index(manifest):
        raise UserError(f"{index} must be the index of a shard folder; it is damaged: featurize again")
    return Shards(folder, manifest, remote=None if store.is_local(place) else place)


def _open_split(folder: Path, name: str, manifest: dict[str, Any]) -> Split:
    files = manifest["splits"][name]["shards"]
    damaged = damaged_file(folder.parent, {"splits": {name: {"shards": files}}})
    if damaged:
        raise UserError(
            f"{folder.parent} must be as featurize left it; {damaged} is missing or cut short: featurize again"
        )
    try:
        split = _assembled(name, files, {file["file"]: _table(folder / file["file"]) for file in files})
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder} must be as featurize left it; it is damaged ({first_line(error)}): featurize again"
        ) from None
    model, config = manifest.get("model", {}), manifest.get("config", {})
    return replace(
        split,
        pad_id=model.get("pad_token_id") or 0,
        cls_id=model.get("cls_token_id"),
        max_length=config.get("max_length", split.max_length),
        tokenizer_hash=model.get("tokenizer_hash"),
    )


def _assembled(name: str, files: list[dict[str, Any]], tables: dict[str, pa.Table]) -> Split:
    by_block: dict[str, dict[int, pa.Table]] = {kind: {} for kind in (DATA, LABELS, EXAMPLES, CONTEXTS)}
    for file in files:
        by_block[kind_of(file["file"])][file["block"]] = tables[file["file"]]
    data = by_block[DATA]
    both = _joined(by_block[EXAMPLES], by_block[CONTEXTS]) if by_block[EXAMPLES] else (None, None)
    features = pa.concat_tables(data.values()) if data else None
    if features is None or features.num_rows == 0:
        return Split(name, [], pa.chunked_array([], pa.string()), *both)
    further = _further_labels({block: table.num_rows for block, table in data.items()}, by_block[LABELS])
    chunks, example, last, row = [], -1, None, 0
    for batch in features.to_batches():
        runs = pc.run_end_encode(batch.column("example_id"))
        run_ends, values = runs.run_ends.to_numpy(), runs.values
        # The windows of an example may continue in the next batch.
        first = example + (values[0].as_py() != last)
        example_index = np.repeat(np.arange(first, first + len(run_ends), dtype=np.int32), np.diff(run_ends, prepend=0))
        example, last = first + len(run_ends) - 1, values[-1].as_py()
        end = row + batch.num_rows
        labels = None if further is None else Ragged(further.values, further.offsets[row : end + 1])
        chunks.append(replace(_features(batch, example_index), further=labels))
        row = end
    return Split(name, chunks, features["example_id"], *both)


def _further_labels(features: dict[int, int], labels: dict[int, pa.Table]) -> Ragged | None:
    """Join the further labels of all blocks, given the number of features of each, to whose rows the labels refer."""
    if not labels:
        return None
    counts, values = [], []
    for block, size in features.items():
        if block not in labels:
            counts.append(np.zeros(size, np.int64))
            continue
        columns = [labels[block][name].cast(pa.int64()) for name in LABEL_COLUMNS]
        rows, starts, ends = (column.to_numpy() for column in columns)
        without = any(column.null_count for column in columns)
        if without or (len(rows) and (rows.min() < 0 or rows.max() >= size or (np.diff(rows) < 0).any())):
            raise pa.ArrowInvalid("further labels of features that do not exist")
        counts.append(2 * np.bincount(rows, minlength=size))
        values.append(np.stack([starts, ends], axis=1).astype(np.int32).reshape(-1))
    return Ragged(np.concatenate(values), offsets_of(np.concatenate(counts)))


def _joined(examples: dict[int, pa.Table], contexts: dict[int, pa.Table]) -> tuple[pa.Table, pa.Table]:
    """Join the examples and contexts of all blocks; the examples of a block refer to its own contexts."""
    before, parts = 0, []
    for block, table in examples.items():
        shifted = pc.add(table["context_index"], pa.scalar(before, pa.int32()))
        parts.append(table.set_column(table.schema.get_field_index("context_index"), "context_index", shifted))
        before += contexts[block].num_rows
    return pa.concat_tables(parts), pa.concat_tables(contexts.values())


def _table(path: Path) -> pa.Table:
    with pa.memory_map(os.fsencode(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        table = stream.read_all()
    table.validate(full=True)  # reads offsets and texts, with which kernels index, but not the token ids
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
