"""Local files and folders: which split each file is, what it holds, and its tables of examples."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from qa_fast.errors import UserError
from qa_fast.sources.json_text import read_json
from qa_fast.sources.rows import TABLE_CONTEXT_CHARS, TABLE_ROWS, Batch, bounded_tables, column_names, normalize_table

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
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
    file's does not; a single file whose name says nothing is "train". A folder that `datasets` saved says its splits
    and files itself.

    Raises:
        UserError: No such path, or no data files in it.
    """
    if os.path.isfile(path):  # unlike Path.is_file, also calm about names that are too long
        return {split_of(path.name) or "train": [path]}
    if not os.path.isdir(path):
        raise UserError(
            "SOURCE must be 'squad', a dataset id on the Hub, or a local file or folder; "
            f"received {path}, which is not there"
        )
    if (path / "qa_fast.json").is_file():
        raise UserError(f"SOURCE must hold questions and contexts; {path} holds shards, which are featurized already")
    splits = _saved_splits(path)
    if splits:
        return splits
    files = sorted(
        f for f in path.rglob("*") if f.suffix.lower() in DATA_ENDINGS and f.name not in _NO_DATA and f.is_file()
    )
    for file in files:
        name = str(file.relative_to(path))
        if not any(part.startswith(".") for part in Path(name).parts):
            splits.setdefault(split_of(name) or "train", []).append(file)
    if not splits:
        raise UserError(f"a SOURCE folder must hold JSON, JSONL, Parquet or Arrow files; found none in {path}")
    return splits


def _saved_splits(path: Path) -> dict[str, list[Path]]:
    """The splits of a folder that `datasets` saved; its caches lie beside the data and are not read."""
    splits: dict[str, list[Path]] = {}
    for state in sorted([path / "state.json", *path.glob("*/state.json")]):
        try:
            about = json.loads(state.read_text(encoding="utf-8"))
            files = [state.parent / file["filename"] for file in about["_data_files"]]
            name = state.parent.name if state.parent != path else about.get("_split") or "train"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # another tool's file of this name
        splits[str(name)] = files
    return splits


def split_of(name: str) -> str | None:
    """The split that a file's name says, or the nearest of the folders' in its relative path."""
    for part in reversed(Path(name).parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def read_examples(path: Path, columns: Mapping[str, str], id_prefix: str = "row-") -> Iterator[Batch]:
    """Read one file's examples; its kind is told by its first bytes, not by its name.

    Args:
        path: JSON, JSON lines, Parquet, or Arrow IPC (file or stream).
        columns: Ours -> theirs.
        id_prefix: Names rows without ids, before their number.

    Yields:
        Tables of `raw.EXAMPLES`, and the rows that could not enter them.

    Raises:
        UserError: Not of these kinds, damaged, not readable, or without the needed columns.
    """
    kind = "JSON"
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"PAR1"):
            kind = "Parquet"
            yield from _from_parquet(path, columns, id_prefix)
        elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
            kind = "Arrow"
            yield from _from_arrow(path, head.startswith(b"ARROW1"), columns, id_prefix)
        else:
            yield from read_json(path, columns, id_prefix)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.filename:
            raise UserError(f"{path} must be readable; {error.strerror}") from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} must be a whole {kind} file; {reason}: fetch or write it again") from None


def row_count(path: Path, question: str = "question") -> int | None:
    """About how many rows a file has, for a progress bar.

    Args:
        path: Parquet, whose footer says it, or JSON, where the question's key is counted.
        question: Its key.

    Returns:
        None where that cannot be told without reading the file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head.startswith(b"PAR1"):
                import pyarrow.parquet as pq

                return int(pq.read_metadata(file).num_rows)
            if not head or head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                key = re.compile(
                    re.escape(json.dumps(question, ensure_ascii=False).encode("utf-8", "replace")) + rb"\s*:"
                )
                return sum(1 for _ in key.finditer(data))
    except (OSError, ValueError, pa.ArrowException):
        return None  # reading it will say what is wrong


def _mapped(path: Path) -> pa.MemoryMappedFile:
    return pa.memory_map(os.fsencode(path))  # a name may hold bytes that are no UTF-8


def _opened(path: Path) -> pa.NativeFile:
    """For what is decoded anyway: the pages of a mapped file would count as ours until its end."""
    return pa.OSFile(os.fsencode(path))


def _from_parquet(path: Path, columns: Mapping[str, str], id_prefix: str) -> Iterator[Batch]:
    import pyarrow.parquet as pq

    with _opened(path) as opened, pq.ParquetFile(opened) as file:
        names = column_names(file.schema_arrow.names, columns, str(path))
        is_nested = pa.types.is_nested(file.schema_arrow.field(names["context"]).type)
    # Dictionary pages are read as they are: a context that many questions share is decoded once.
    as_read = [] if is_nested else [names["context"]]
    with _opened(path) as opened, pq.ParquetFile(opened, read_dictionary=as_read) as file:
        first_row = 0
        for groups in _group_runs(file.metadata):
            table = file.read_row_groups(groups, columns=list(names.values()), use_threads=True)
            yield from _normalized(table, names, id_prefix, first_row, str(path))
            first_row += table.num_rows


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


def _from_arrow(path: Path, is_file_format: bool, columns: Mapping[str, str], id_prefix: str) -> Iterator[Batch]:
    with _mapped(path) as mapped:
        if is_file_format:
            file = pa.ipc.open_file(mapped)
            schema, batches = file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            stream = pa.ipc.open_stream(mapped)
            schema, batches = stream.schema, iter(stream)
        names = column_names(schema.names, columns, str(path))
        wanted = list(names.values())
        pending: list[pa.RecordBatch] = []
        first_row = rows = size = 0
        for batch in batches:
            for begin in range(0, batch.num_rows, TABLE_ROWS):
                part = batch.slice(begin, TABLE_ROWS).select(wanted)
                if pending and (rows + part.num_rows > TABLE_ROWS or size + part.nbytes > TABLE_CONTEXT_CHARS):
                    yield from _normalized(pa.Table.from_batches(pending), names, id_prefix, first_row, str(path))
                    first_row, rows, size, pending = first_row + rows, 0, 0, []
                pending.append(part)
                rows, size = rows + part.num_rows, size + part.nbytes
        if pending:
            yield from _normalized(pa.Table.from_batches(pending), names, id_prefix, first_row, str(path))


def _normalized(
    table: pa.Table, names: Mapping[str, str], id_prefix: str, first_row: int, where: str
) -> Iterator[Batch]:
    """The table as tables of `EXAMPLES`; its rejects come with the first."""
    whole, rejects = normalize_table(table, names, id_prefix, first_row, where)
    if not whole.num_rows:
        yield whole, rejects
    for part in bounded_tables(whole):
        yield part, rejects
        rejects = []
