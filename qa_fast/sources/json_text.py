"""Reads SQuAD-format and flat JSON into tables of examples.

The form is recognised by the content. An object whose "data" holds articles with paragraphs is nested SQuAD (v1.1 or
v2). A list, or an object whose "data" is a list of rows, is flat. A file with an object on each line is JSON lines,
which are read line by line.
"""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson

from qa_fast.errors import UserError
from qa_fast.raw import Reject
from qa_fast.sources.forms import answers_in
from qa_fast.sources.nested import nested_tables
from qa_fast.sources.pieces import BOM, JSON_LINES, WHOLE_JSON, Piece, is_lines
from qa_fast.sources.plain import check_lines, not_utf8
from qa_fast.sources.rows import Batch, RowCollector, column_names


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
    if piece.kind == JSON_LINES or (piece.kind == WHOLE_JSON and is_lines(data)):
        return "JSON lines"
    return "nested SQuAD JSON" if b'"paragraphs"' in data else "JSON rows"


def _from_lines(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool) -> Iterator[Batch]:
    """Read whole lines, each an object; a bad line becomes a reject."""
    bad: list[Reject] = []

    def rows() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(io.BytesIO(data.removeprefix(BOM)), piece.first):
            if line.strip():
                try:
                    yield number, parse_json(line, f"line {number + 1}")
                except UserError as error:
                    if not bad:
                        check_lines(data, piece.path, piece.first + 1)
                    bad.append(Reject("", str(error)))

    for table, rejects in _from_rows(rows(), piece, columns, answered):
        yield table, bad + rejects
        bad.clear()


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
    rows = document.get("data") if isinstance(document, dict) else document
    if isinstance(document, dict) and "data" not in document:
        rows = [document]  # a single row: JSON lines with one line
    if not isinstance(rows, list):
        form = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise UserError(
            f"{piece.path} must be SQuAD JSON (an object with a list 'data'), a list of rows, or JSON lines; "
            f"found {form[:200]}"
        )
    if any(isinstance(article, dict) and "paragraphs" in article for article in rows):
        yield from _from_articles(rows, piece, answered)
    else:
        yield from _from_rows(enumerate(rows, piece.first), piece, columns, answered)


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


def _from_articles(articles: list[Any], piece: Piece, answered: bool) -> Iterator[Batch]:
    collector = RowCollector()
    for number, article in enumerate(articles, piece.first):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            collector.rejects.append(Reject("", f"data[{number}] must be an article with a list 'paragraphs'"))
            continue
        for place, paragraph in enumerate(paragraphs, piece.paragraph if number == piece.first else 0):
            questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(questions, list):
                collector.rejects.append(
                    Reject("", f"data[{number}].paragraphs[{place}] must have a 'context' and a list 'qas'")
                )
                continue
            context = paragraph.get("context")
            for question in questions:
                if not isinstance(question, dict):
                    collector.rejects.append(Reject("", f"data[{number}].paragraphs[{place}].qas holds a non-object"))
                    continue
                answers = answers_in(question) if answered else question.get("answers")
                impossible = question.get("is_impossible")
                collector.add(question.get("id"), question.get("question"), context, answers, impossible)
            if collector.full:
                yield collector.table(), collector.rejects
                collector = RowCollector()
    yield collector.table(), collector.rejects


def _from_rows(
    rows: Iterator[tuple[int, Any]], piece: Piece, columns: Mapping[str, str], answered: bool
) -> Iterator[Batch]:
    collector = RowCollector()
    names: dict[str, str] | None = None
    for number, row in rows:
        if not isinstance(row, dict):
            collector.rejects.append(Reject("", f"row {number} must be an object; received {type(row).__name__}"))
            continue
        if names is None:
            names = column_names(list(row), columns, piece.path, answered)
        answers = answers_in(row, names["answers"]) if answered else row.get(columns.get("answers", "answers"))
        row_id = row.get(names["id"]) if "id" in names else f"{piece.id_prefix}{number}"
        question, context = row.get(names["question"]), row.get(names["context"])
        collector.add(row_id, question, context, answers, row.get(columns.get("is_impossible", "is_impossible")))
        if collector.full:
            yield collector.table(), collector.rejects
            collector = RowCollector()
    yield collector.table(), collector.rejects
