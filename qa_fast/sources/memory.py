"""Examples that are in memory already: data frames, Arrow tables, rows, columns or parsed JSON; one split or several.

Whatever offers Arrow's stream interface (pandas, polars, DuckDB, Arrow itself) is read like an Arrow file, and rows are
read like JSON, so the same values are accepted and rejected as in files. No library of data frames is imported. The
examples are held in the form of `raw.EXAMPLES`, so that shards do not depend on the form in which they were given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import pyarrow as pa

from qa_fast.errors import UserError, first_line
from qa_fast.raw import EXAMPLES
from qa_fast.sources.files import split_of
from qa_fast.sources.forms import name_of
from qa_fast.sources.held import IN_MEMORY, HeldTables
from qa_fast.sources.json_text import read_document
from qa_fast.sources.pieces import BLOCK_BYTES, Block, Piece, runs
from qa_fast.sources.read import read_batches
from qa_fast.sources.rows import Batch

TABLES = "a data frame, an Arrow table, a list of dicts, a dict of lists, or a split of load or datasets"
# What pandas calls a missing value, and how numpy, pandas, polars and Arrow call the way to Python's own values.
_MISSING = ("NAType", "NaTType")
_TO_PYTHON = ("tolist", "to_list", "as_py")
# How deep values of SQuAD's form are; what is deeper is no text or number, and is rejected as it is.
_LEVELS = 12


def split_tables(given: Any, columns: Mapping[str, str]) -> dict[str, HeldTables]:
    """Read one table, whose split is "" unless it is known, or a mapping from split to table.

    Args:
        given: See `TABLES`; also a document of SQuAD's form as `json.load` returns it, and any iterable of dicts.
        columns: Our column names -> those of the tables, where they differ.

    Raises:
        UserError: It is neither, or a table lacks a column.
    """
    if not isinstance(given, Mapping) or not given or _is_table(given, columns):
        return {_split_of(given): HeldTables(read_table(given, columns, "SOURCE"))}
    return {
        str(split): HeldTables(read_table(table, columns, f"the split {split!r} of SOURCE"))
        for split, table in given.items()
    }


def _split_of(given: Any) -> str:
    """Return the split that a split of `load` or `datasets` says it is; "" for other tables."""
    if hasattr(given, "unreadable"):
        return str(given.name)
    return split_of(str(given.split)) or "" if hasattr(given, "with_format") else ""


def _is_table(given: Mapping[Any, Any], columns: Mapping[str, str]) -> bool:
    present = list(map(str, given))
    fields = any(columns.get(ours) in given or name_of(ours, present) for ours in ("question", "context"))
    lists = [value for value in given.values() if isinstance(value, list | tuple) and value]
    return fields or "data" in given or any(not isinstance(values[0], Mapping) for values in lists)


def blocks_in(split: str, held: HeldTables) -> Iterator[Block]:
    """Yield the blocks of a split in memory; see `pieces.blocks_of`."""
    sizes = [(table.num_rows, table.nbytes) for table, _ in held]
    for number, run in enumerate(runs(Piece(split, IN_MEMORY, 0), sizes, BLOCK_BYTES)):
        yield Block(split, number, (replace(run, held=HeldTables(held[run.begin : run.end])),))


def read_table(
    given: Any, columns: Mapping[str, str], where: str = "the table", needs_ids: bool = False
) -> Iterator[Batch]:
    """Read the examples of one table.

    Args:
        given: See `split_tables`.
        columns: Our column names -> those of the table, where they differ.
        where: What it is, for messages.
        needs_ids: Refuse a table without ids, instead of numbering its rows.

    Yields:
        Tables of `raw.EXAMPLES`, each with its rejects.

    Raises:
        UserError: It is no table, or it lacks a column.
    """
    piece, rejected = Piece(where, IN_MEMORY, 0), list(getattr(given, "unreadable", ()))  # what `load` could not read
    if hasattr(given, "with_format") and hasattr(given, "num_rows"):  # of datasets, with its choice of rows
        given = given.with_format("arrow")[:]
    reader = _arrow_reader(given, where) if hasattr(given, "__arrow_c_stream__") else None
    if reader is not None:
        _check_ids(reader.schema.names, columns, where, needs_ids)
        batches = read_batches(reader.schema, reader, piece, columns)
    else:
        rows = _rows_of(given, columns, where)
        first = next((row for row in rows if isinstance(row, dict)), {}) if isinstance(rows, list) else {}
        if first and "paragraphs" not in first:
            _check_ids(list(first), columns, where, needs_ids)
        batches = read_document(rows, piece, columns)
    for table, rejects in batches:
        yield table, [*rejected, *rejects]
        rejected = []
    if rejected:
        yield EXAMPLES.empty_table(), rejected


def _arrow_reader(given: Any, where: str) -> pa.RecordBatchReader | None:
    """Return the batches of an object with Arrow's interface; None if its values are of too many kinds for Arrow."""
    try:
        return pa.RecordBatchReader.from_stream(given)
    except (pa.ArrowException, TypeError, ValueError) as error:
        if hasattr(given, "to_dict") and hasattr(given, "columns"):
            return None
        raise _not_a_table(where, given, f" ({first_line(error)})") from None


def _rows_of(given: Any, columns: Mapping[str, str], where: str) -> Any:
    """Return rows as a list of plain values, or a document of SQuAD's form."""
    if hasattr(given, "to_dict") and hasattr(given, "columns"):
        given = given.to_dict("records")
    if isinstance(given, Mapping) and "data" in given:
        return _plain(given)
    items: Iterable[Any] = given
    if isinstance(given, Mapping) and isinstance(given.get(columns.get("question") or name_of("question", given)), str):
        items = [given]
    elif isinstance(given, Mapping):
        items = _rows_of_columns(given, where)
    elif isinstance(given, str | bytes | bytearray | memoryview | Set) or not isinstance(given, Iterable):
        raise _not_a_table(where, given)
    rows = [_plain(item) for item in items]
    if not any(isinstance(row, dict) for row in rows):
        raise _not_a_table(where, given, f" of {type(rows[0]).__name__}" if rows else " without rows")
    return rows


def _rows_of_columns(given: Mapping[Any, Any], where: str) -> Iterator[dict[Any, Any]]:
    for name, values in given.items():
        if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
            raise UserError(f"a column of {where} must be a list; received {type(values).__name__} as {name!r}")
    lists = [list(values) for values in given.values()]
    if len({len(values) for values in lists}) > 1:
        sizes = ", ".join(f"{name!r} with {len(values)}" for name, values in zip(given, lists, strict=True))
        raise UserError(f"the columns of {where} must have as many rows as each other; received {sizes}")
    return (dict(zip(given, row, strict=True)) for row in zip(*lists, strict=True))


def _check_ids(names: list[str], columns: Mapping[str, str], where: str, needs_ids: bool) -> None:
    if needs_ids and (columns.get("id") or name_of("id", names)) not in names:
        raise UserError(
            f"{where} must have a column id; received {', '.join(map(str, names))}: add one, or name it in columns"
        )


def _not_a_table(where: str, given: Any, detail: str = "") -> UserError:
    kind = type(given)
    library = kind.__module__.split(".")[0]
    name = kind.__qualname__ if library == "builtins" else f"{library}.{kind.__qualname__}"
    rule = "a name, a path, a URL, a table or a mapping from split to table" if where == "SOURCE" else "a table"
    return UserError(f"{where} must be {rule}; received {name}{detail}: a table is {TABLES}")


def _plain(value: Any, levels: int = _LEVELS) -> Any:
    """Return a value as a JSON parser would return it; a missing one as None."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if value == value else None
    if not levels:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, levels - 1) for item in value]
    for name in _TO_PYTHON:
        if hasattr(value, name):
            return _plain(getattr(value, name)(), levels - 1)
    return None if type(value).__name__ in _MISSING else value
