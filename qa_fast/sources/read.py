"""Reads pieces of Parquet, Arrow IPC and JSON files into tables of examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.progress import StageClock
from qa_fast.raw import Reject
from qa_fast.schema import Int64s
from qa_fast.sources.columns import is_plain, normalize_table
from qa_fast.sources.delimited import first_line_of, table_rows
from qa_fast.sources.forms import name_of
from qa_fast.sources.json_text import layout_of, read_json_piece, read_records
from qa_fast.sources.layouts import keys_in
from qa_fast.sources.pieces import (
    ARROW_FILE,
    ARROW_STREAM,
    JSON_DOCUMENT,
    JSON_LINES,
    MOST_PIECE_BYTES,
    PARQUET,
    START_BYTES,
    TEXT_TABLE,
    UNREADABLE,
    WHOLE_JSON,
    Block,
    Piece,
    not_whole,
    open_table,
    pieces_of,
)
from qa_fast.sources.plain import check_lines, open_plain, read_range
from qa_fast.sources.rows import TABLE_CONTEXT_CHARS, TABLE_ROWS, Batch, bounded_tables, column_names

# Uncompressed bytes of row groups that are read at once; larger ones are read some rows at a time, which is slower.
_GROUP_BYTES = 1 << 27


def read_examples(path: Path, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read the examples of one file, whose kind is recognised by its first bytes and not by its name.

    Args:
        path: JSON, JSON lines, Parquet, or Arrow IPC (file or stream), also compressed or in UTF-16 (see `plain`).
        columns: Our column names -> those of the file, where they differ.
        answered: Whether rows must have answers.

    Yields:
        Tables of `raw.EXAMPLES`, each with its rejects.

    Raises:
        UserError: The file is of another kind, damaged, not readable, or lacks a column.
    """
    for piece in pieces_of(path):
        yield from read_piece(piece, columns, answered)


def form_of(path: Path, columns: Mapping[str, str] | None = None) -> str:
    """Return the form that a file is taken for, in words: its layers, its kind, the layout of JSON, and missing ids.

    Args:
        path: The file.
        columns: Our column names -> those of the file, where they differ.

    Raises:
        UserError: See `read_examples`.

    Examples:
        >>> form_of(Path("train.jsonl.gz"))
        'gzip, JSON lines'
    """
    piece = next(pieces_of(path))
    layout = piece.kind
    if _READERS[piece.kind] is _json:
        with store.reached(path, "SOURCE"):
            layout = layout_of(bytes_of(path, piece), piece)
    return ", ".join((*piece.layers, layout, *(["without ids"] if lacks_ids(path, columns or {}) else [])))


def lacks_ids(path: Path, columns: Mapping[str, str]) -> bool:
    """Tell from the start of a file whether its questions have no ids, so that they are numbered.

    Raises:
        UserError: See `read_examples`; so may any of `UNREADABLE` be raised.
    """
    names = names_in(path)
    question, row_id = (columns.get(field) or name_of(field, names) for field in ("question", "id"))
    return question in names and row_id not in names


def names_in(path: Path) -> list[str]:
    """Return the names of a table's columns, or the keys in the start of a JSON file.

    Raises:
        UserError: See `read_examples`; so may any of `UNREADABLE` be raised.
    """
    file, layers = open_plain(path)
    with file:
        head = file.read(START_BYTES)
    if head.startswith(b"PAR1"):
        import pyarrow.parquet as pq

        with open_table(path, layers) as opened:
            return list(pq.read_schema(opened).names)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        with open_table(path, layers, mapped=True) as opened:
            is_file = head.startswith(b"ARROW1")
            return list((pa.ipc.open_file(opened) if is_file else pa.ipc.open_stream(opened)).schema.names)
    return first_line_of(head)[1] or keys_in(head)


def read_block(block: Block, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read the examples of a block up to its limit; see `read_examples`.

    Of a divided split, rows that are no examples belong to train.
    """
    left = block.limit
    for piece in block.pieces:
        for table, rejects in read_piece(piece, columns, answered):
            if block.half is not None:
                table, rejects = block.half.of(table), [] if block.half.is_held_out else rejects
            if left is not None:
                table, left = table.slice(0, left), max(left - table.num_rows, 0)
            yield table, rejects
            if left == 0:
                return


@dataclass(frozen=True)
class BlockTable:
    """Some rows of a block; one without rows marks the end of the block.

    Attributes:
        block: The block.
        left_out: Rows of the block to leave out, counted from 0.
        rows: n rows with the columns of `raw.EXAMPLES`.
        unreadable: Rejects for rows that could not enter the table.
        hashes: uint64[2n], the hashes of the ids, once they were computed.
        repeated: bool[n], rows to leave out because their ids occurred before.
    """

    block: Block
    left_out: Int64s | None
    rows: pa.Table | None = None
    unreadable: list[Reject] = field(default_factory=list)
    hashes: np.ndarray | None = None
    repeated: np.ndarray | None = None


def read_tables(
    blocks: Iterable[tuple[Block, Int64s | None]], columns: Mapping[str, str], clock: StageClock
) -> Iterator[BlockTable]:
    """Yield the tables of blocks, and after those of each block its end.

    Args:
        blocks: Blocks with the rows to leave out of them.
        columns: Our column names -> those of the source, where they differ.
        clock: Times the reading.
    """
    for block, left_out in blocks:
        for rows, unreadable in clock.each("load", read_block(block, columns)):
            yield BlockTable(block, left_out, rows, unreadable)
        yield BlockTable(block, left_out)


def read_piece(piece: Piece, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read the examples of a piece; see `read_examples`."""
    if piece.held is not None:
        yield from piece.held
        return
    path = store.place(piece.path)
    try:
        with store.reached(path, "SOURCE"):
            yield from _READERS[piece.kind](path, piece, columns, answered)
    except UNREADABLE as error:
        raise not_whole(path, piece.kind.split()[0], error) from None


def _json(path: Path, piece: Piece, columns: Mapping[str, str], answered: bool) -> Iterator[Batch]:
    yield from read_json_piece(bytes_of(path, piece), piece, columns, answered)


def bytes_of(path: Path, piece: Piece) -> bytes:
    """Return the text of a piece of JSON, with its opening and closing."""
    # Not mapped: if the file were truncated meanwhile, the process would crash.
    if piece.kind == WHOLE_JSON and not piece.layers:
        return path.read_bytes()
    data = read_range(path, piece.begin, piece.end, piece.layers)
    return piece.opening + data + piece.closing


def _text_table(path: Path, piece: Piece, columns: Mapping[str, str], answered: bool) -> Iterator[Batch]:
    data = read_range(path, 0, MOST_PIECE_BYTES + 1, piece.layers)
    if len(data) > MOST_PIECE_BYTES:  # a quote may hold line breaks, so that only reading shows where it can be cut
        raise UserError(
            f"a CSV file must have at most {MOST_PIECE_BYTES >> 20} MiB; {path} has more: save it as Parquet"
        )
    check_lines(data, piece.path, 1)
    header = dict.fromkeys(first_line_of(data)[1], "")
    yield from read_records(table_rows(data, columns, piece.path), piece, columns, answered, typical=header)


def _parquet(path: Path, piece: Piece, columns: Mapping[str, str], answered: bool) -> Iterator[Batch]:
    import pyarrow.parquet as pq

    with open_table(path, piece.layers) as opened, pq.ParquetFile(opened) as file:
        names = column_names(file.schema_arrow.names, columns, str(path), answered)
        plain = all(is_plain(file.schema_arrow.field(name).type) for name in names.values())
        is_nested = pa.types.is_nested(file.schema_arrow.field(names["context"]).type)
        sizes = [file.metadata.row_group(group).total_byte_size for group in range(piece.begin, piece.end)]
    # Dictionary pages are read as they are, so that a context which many questions share is decoded once.
    as_read = [] if is_nested else [names["context"]]
    wanted = list(names.values())
    with open_table(path, piece.layers) as opened, pq.ParquetFile(opened, read_dictionary=as_read) as file:
        groups, first = list(range(piece.begin, piece.end)), piece.first
        parts: Iterator[pa.Table]
        if not plain:  # Arrow cannot join the groups of some types, such as dictionaries in lists
            parts = (file.read_row_group(group, wanted) for group in groups)
        elif sum(sizes) <= _GROUP_BYTES:
            parts = iter([file.read_row_groups(groups, columns=wanted, use_threads=True)])
        else:
            batches = file.iter_batches(TABLE_ROWS, groups, wanted, use_threads=True)
            parts = (pa.Table.from_batches([batch]) for batch in batches)
        for table in parts:
            yield from _normalized(table, names, piece.id_prefix, first, str(path))
            first += table.num_rows


def _arrow(path: Path, piece: Piece, columns: Mapping[str, str], answered: bool) -> Iterator[Batch]:
    with open_table(path, piece.layers, mapped=True) as opened:
        batches: Iterator[pa.RecordBatch]
        if piece.kind == ARROW_FILE:
            file = pa.ipc.open_file(opened)
            end = file.num_record_batches if piece.end < 0 else piece.end
            schema, batches = file.schema, (file.get_batch(number) for number in range(piece.begin, end))
        else:
            stream = pa.ipc.open_stream(opened)
            schema = stream.schema
            batches = iter(itertools.islice(stream, piece.begin, None if piece.end < 0 else piece.end))
        yield from read_batches(schema, batches, piece, columns, answered)


def read_batches(
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    piece: Piece,
    columns: Mapping[str, str],
    answered: bool = True,
) -> Iterator[Batch]:
    """Read the examples of record batches, whose sizes decide nothing; see `read_examples`.

    Args:
        schema: The schema of the batches.
        batches: The batches.
        piece: The piece that they are; its path names them in messages.
        columns: Our column names -> those of the batches, where they differ.
        answered: Whether rows must have answers.
    """
    names = column_names(schema.names, columns, piece.path, answered)
    wanted = list(names.values())
    pending: list[pa.RecordBatch] = []
    first_row, rows, size = piece.first, 0, 0
    for batch in batches:
        batch.validate()  # its size is only known if its buffers have valid ends
        for begin in range(0, batch.num_rows, TABLE_ROWS):
            part = batch.slice(begin, TABLE_ROWS).select(wanted)
            if pending and (rows + part.num_rows > TABLE_ROWS or size + part.nbytes > TABLE_CONTEXT_CHARS):
                table = pa.Table.from_batches(pending)
                yield from _normalized(table, names, piece.id_prefix, first_row, piece.path)
                first_row, rows, size, pending = first_row + rows, 0, 0, []
            pending.append(part)
            rows, size = rows + part.num_rows, size + part.nbytes
    if pending:
        yield from _normalized(pa.Table.from_batches(pending), names, piece.id_prefix, first_row, piece.path)


def _normalized(
    table: pa.Table, names: Mapping[str, str], id_prefix: str, first_row: int, where: str
) -> Iterator[Batch]:
    """Yield a table as tables of `EXAMPLES`; its rejects come with the first."""
    whole, rejects = normalize_table(table, names, id_prefix, first_row, where)
    if not whole.num_rows:
        yield whole, rejects
    for part in bounded_tables(whole):
        yield part, rejects
        rejects = []


_READERS = {
    PARQUET: _parquet,
    ARROW_FILE: _arrow,
    ARROW_STREAM: _arrow,
    WHOLE_JSON: _json,
    JSON_LINES: _json,
    JSON_DOCUMENT: _json,
    TEXT_TABLE: _text_table,
}
