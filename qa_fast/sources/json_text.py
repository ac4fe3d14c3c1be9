"""Reads SQuAD-format and flat JSON into tables of examples.

The form is recognised by the content. An object whose "data" holds articles with paragraphs is nested SQuAD (v1.1 or
v2). A list, or an object whose "data" is a list of rows, is flat. A file with an object on each line is JSON lines,
which are read line by line.
"""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from qa_fast.errors import UserError
from qa_fast.raw import Reject
from qa_fast.sources.forms import name_of
from qa_fast.sources.layouts import Place, keys_in, layout_by_keys, reader_of, recognised, records_of
from qa_fast.sources.nested import nested_tables
from qa_fast.sources.pieces import BOM, JSON_LINES, WHOLE_JSON, Piece, is_lines
from qa_fast.sources.plain import check_lines, not_utf8
from qa_fast.sources.rows import Batch, RowCollector

# Bytes at the start of a piece whose keys tell its layout to people.
_HEAD_BYTES = 1 << 16


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause garbage collection while millions of small objects without cycles are made, which halves the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_json_piece(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read the examples of a piece of JSON.

    Args:
        data: The bytes of the piece with its opening and closing: UTF-8, with or without a byte order mark.
        piece: The piece.
        columns: Our column names -> those of flat rows, where they differ.
        answered: Whether rows must have answers.

    Yields:
        Tables of `raw.EXAMPLES`, each with its rejects.

    Raises:
        UserError: The text is not JSON (with the position), not UTF-8, or of an unknown form.
    """
    tables = None if piece.kind == JSON_LINES else nested_tables(data)
    if tables is not None:
        for table in tables:
            yield table, []
    elif piece.kind == JSON_LINES or (piece.kind == WHOLE_JSON and is_lines(data)):
        yield from _from_lines(data, piece, columns, answered)
    elif not data.removeprefix(BOM).strip():
        raise UserError(f"{piece.path} must hold examples; it is empty")
    else:
        yield from _from_document(data, piece, columns, answered)


def layout_of(data: bytes, piece: Piece) -> str:
    """Return the layout that a piece of JSON is taken for, in words; see `read_json_piece`."""
    layout = layout_by_keys(keys_in(data[:_HEAD_BYTES]))
    if piece.kind == JSON_LINES or (piece.kind == WHOLE_JSON and is_lines(data)):
        return "JSON lines" if layout is None else f"JSON lines, {layout}"
    return "JSON rows" if layout is None else f"{layout} JSON"


def _from_lines(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool) -> Iterator[Batch]:
    """Read whole lines, each an object; a bad line becomes a reject."""

    def records() -> Iterator[tuple[int, Any]]:
        bad = False
        for number, line in enumerate(io.BytesIO(data.removeprefix(BOM)), piece.first):
            if line.strip():
                try:  # each of several files that were joined may begin with a mark
                    yield number, parse_json(line.removeprefix(BOM), f"line {number + 1}")
                except UserError as error:
                    if not bad:
                        check_lines(data, piece.path, piece.first + 1)
                    bad = True
                    yield number, Reject("", str(error))

    return read_records(records(), piece, columns, answered)


def _from_document(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool) -> list[Batch]:
    """Return all rows of one JSON document, as a list so that the parsed document is freed before they are used."""
    where, text = piece.path, data.removeprefix(BOM)
    with paused_collector():
        # The opening of a piece from the middle of a file is not part of the file.
        before = len(data) - len(text) + piece.begin - len(piece.opening)
        document = parse_json(text, where, before, piece.begin > 0)
        return list(read_document(document, piece, columns, answered))


def read_document(document: Any, piece: Piece, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read the examples of one JSON document that was parsed already; see `read_json_piece`.

    Args:
        document: Objects, lists, texts, numbers, booleans and None.
        piece: The piece that it is; its path names it in messages.
        columns: Our column names -> those of flat rows, where they differ.
        answered: Whether rows must have answers.
    """
    records = records_of(document)
    if records is None:
        form = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise UserError(
            f"{piece.path} must be SQuAD JSON (an object with a list 'data'), a list of rows, or JSON lines; "
            f"found {form[:200]}"
        )
    typical = next((record for record in records if isinstance(record, dict)), None)
    if typical is not None and name_of("question", typical) is None:
        typical = next((record for record in records if recognised(record)), typical)
    yield from read_records(enumerate(records, piece.first), piece, columns, answered, typical)


def read_records(
    records: Iterable[tuple[int, Any]],
    piece: Piece,
    columns: Mapping[str, str],
    answered: bool,
    typical: Mapping[str, Any] | None = None,
) -> Iterator[Batch]:
    """Read records of one layout.

    Args:
        records: Each with its number in the file: an object, or why there is none.
        piece: The piece.
        columns: Our column names -> those of the source, where they differ.
        answered: Whether rows must have answers.
        typical: An object with the keys of the records, such as one of them; None takes the first.

    Yields:
        Tables of `raw.EXAMPLES`, each with its rejects.

    Raises:
        UserError: The layout is not read, or a column is missing.
    """
    collector = RowCollector()
    read = None if typical is None else reader_of(typical, columns, piece.path, answered)
    for number, record in records:
        if not isinstance(record, dict):
            reason = f"row {number} must be an object; received {type(record).__name__}"
            collector.rejects.append(record if isinstance(record, Reject) else Reject("", reason))
            continue
        if read is None:
            read = reader_of(record, columns, piece.path, answered)
            if read is None:
                continue
        first = piece.paragraph if number == piece.first else 0
        for found in read(record, Place(number, piece.id_prefix, first)):
            if isinstance(found, Reject):
                collector.rejects.append(found)
            else:
                collector.add(*(found if answered else (*found[:3], None)))
        if collector.full:
            yield collector.table(), collector.rejects
            collector = RowCollector()
    yield collector.table(), collector.rejects


def parse_json(data: bytes, where: str, before: int = 0, inside: bool = False) -> Any:
    """Parse JSON, and report the position of an error.

    Python's own parser is tried second: it accepts lone surrogates, so that they reject their row and not the file.

    Args:
        data: The text.
        where: Its name, for the message.
        before: Number of bytes before it in its file.
        inside: Whether it begins in the middle of its file, so that its line numbers are not those of the file.

    Raises:
        UserError: The text is not UTF-8, or not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        fast = error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        lines = data.count(b"\n", 0, error.start) + 1
        line = "" if inside else f" (line {lines})"
        raise not_utf8(where, data, error.start, f"at byte {error.start + before}{line}") from None
    reason = fast.msg
    try:
        return json.loads(text)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):  # Python limits the digits of a number
            reason = "a number has too many digits"
    at = f"line {fast.lineno}, column {fast.colno}"
    if inside:
        at = f"byte {before + len(text[: fast.pos].encode())}"
    raise UserError(f"{where} must be JSON; {reason} at {at}")
