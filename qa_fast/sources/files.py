"""Local files and folders: which split each file is, what it holds, and its tables of examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from qa_fast.errors import UserError
from qa_fast.sources.json_text import Batch, read_json
from qa_fast.sources.rows import TABLE_ROWS, column_names, normalize_table

_ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "eval": "validation",
    "test": "test",
}
# Uncompressed bytes of Parquet row groups read at a time.
_GROUP_BYTES = 1 << 27


def find_splits(path: Path) -> dict[str, list[Path]]:
    """The data files of a file or folder, by split.

    A name with the word train, dev, val, validation or test in it says the split; a folder's name does where the
    file's does not; a single file whose name says nothing is "train".

    Raises:
        UserError: No such path, or no data files in it.
    """
    if path.is_file():
        return {_split_of(path) or "train": [path]}
    if not path.is_dir():
        raise UserError(
            f"SOURCE must be 'squad', a dataset id on the Hub, or a local file or folder; received {path}, which is not there"
        )
    saved = {"dataset_info.json", "state.json", "dataset_dict.json", "qa_fast.json"}
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _ENDINGS and f.name not in saved and f.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise UserError(f"a SOURCE folder must hold JSON, JSONL, Parquet or Arrow files; found none in {path}")
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file, path) or "train", []).append(file)
    return splits


def split_of_names(paths: list[Path]) -> dict[str, list[Path]]:
    """The given files by the split that their names say."""
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(_split_of(path) or "train", []).append(path)
    return splits


def _split_of(file: Path, root: Path | None = None) -> str | None:
    """The split that a file's name says, or the nearest of its folders' below `root`."""
    parts = [file.stem] + ([part for part in reversed(file.relative_to(root).parts[:-1])] if root else [])
    for part in parts:
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def read_examples(path: Path, columns: Mapping[str, str]) -> Iterator[Batch]:
    """Read one file's examples; its kind is told by its first bytes, not by its name.

    Args:
        path: JSON, JSON lines, Parquet, or Arrow IPC (file or stream).
        columns: Ours -> theirs.

    Yields:
        Tables of `examples.EXAMPLES`, and the rows that could not enter them.

    Raises:
        UserError: Not of these kinds, damaged, or without the needed columns.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UserError(f"{path} must be readable; {error.strerror}") from None
    try:
        if head.startswith(b"PAR1"):
            yield from _from_parquet(path, columns)
        elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
            yield from _from_arrow(path, head.startswith(b"ARROW1"), columns)
        else:
            yield from read_json(path, columns)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise UserError(f"{path} must be a whole Parquet or Arrow file; {str(error).splitlines()[0]}") from None


def row_count(path: Path) -> int | None:
    """The rows of a Parquet file, from its footer; None for other kinds, which must be read to be counted."""
    try:
        with path.open("rb") as file:
            return int(pq.read_metadata(path).num_rows) if file.read(4) == b"PAR1" else None
    except (OSError, pa.ArrowInvalid):
        return None  # reading it will say what is wrong


def _from_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[Batch]:
    with pq.ParquetFile(path) as file:
        names = column_names(file.schema_arrow.names, columns, str(path))
    wanted = list(names.values())
    # Dictionary pages are read as they are: a context that many questions share is decoded once.
    with pq.ParquetFile(path, read_dictionary=[names["context"]], memory_map=True) as file:
        first_row = 0
        for groups in _group_runs(file.metadata):
            table = file.read_row_groups(groups, columns=wanted, use_threads=True)
            for begin in range(0, table.num_rows, TABLE_ROWS):
                part = table.slice(begin, TABLE_ROWS) if table.num_rows > TABLE_ROWS else table
                yield normalize_table(part, names, first_row, str(path)), []
                first_row += part.num_rows


def _group_runs(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """Runs of row groups that hold up to `TABLE_ROWS` rows and `_GROUP_BYTES` bytes together."""
    run: list[int] = []
    rows = size = 0
    for group in range(metadata.num_row_groups):
        info = metadata.row_group(group)
        if run and (rows + info.num_rows > TABLE_ROWS or size + info.total_byte_size > _GROUP_BYTES):
            yield run
            run, rows, size = [], 0, 0
        run.append(group)
        rows, size = rows + info.num_rows, size + info.total_byte_size
    if run:
        yield run


def _from_arrow(path: Path, is_file_format: bool, columns: Mapping[str, str]) -> Iterator[Batch]:
    with pa.memory_map(str(path)) as mapped:
        if is_file_format:
            file = pa.ipc.open_file(mapped)
            schema, batches = file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            stream = pa.ipc.open_stream(mapped)
            schema, batches = stream.schema, iter(stream)
        names = column_names(schema.names, columns, str(path))
        pending: list[pa.RecordBatch] = []
        first_row = rows = 0
        for batch in batches:
            pending.append(batch.select(list(names.values())))
            rows += batch.num_rows
            if rows >= TABLE_ROWS:
                yield normalize_table(pa.Table.from_batches(pending), names, first_row, str(path)), []
                first_row, rows, pending = first_row + rows, 0, []
        if pending:
            yield normalize_table(pa.Table.from_batches(pending), names, first_row, str(path)), []
