"""SQuAD-format and flat JSON to tables of examples.

Told apart by content: an object whose "data" holds articles with paragraphs is nested SQuAD (v1.1 or v2); a list, or an
object whose "data" is a list of rows, is flat; an object a line is JSON lines, which are read one at a time.
"""

from __future__ import annotations

import codecs
import gc
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import pyarrow as pa

from qa_fast.errors import UserError
from qa_fast.raw import Reject
from qa_fast.sources.nested import nested_tables
from qa_fast.sources.pieces import Piece, is_object
from qa_fast.sources.rows import Batch, RowCollector, column_names

_BOM = codecs.BOM_UTF8


@contextmanager
def paused_collector() -> Iterator[None]:
    """No garbage collection while millions of small objects without cycles are made: it halves the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_json(data: pa.Buffer, piece: Piece, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read a whole .json or .jsonl file of examples.

    Args:
        data: UTF-8, with or without a byte order mark.
        piece: Where it stands.
        columns: Ours -> theirs, for flat rows.
        answered: Whether rows must have answers.

    Yields:
        Tables of `raw.EXAMPLES` and the rows that could not enter them.

    Raises:
        UserError: Not JSON (with the position), not UTF-8, or not of a known shape.
    """
    tables = nested_tables(data)
    if tables is not None:
        for table in tables:
            yield table, []
        return
    text = data.to_pybytes()
    mark = len(_BOM) if text.startswith(_BOM) else 0
    text = text[mark:]
    lines = io.BytesIO(text)
    start, second = _next_line(lines), _next_line(lines)
    if not start:
        raise UserError(f"{piece.path} must hold examples; it is empty")
    if second and is_object(start):
        yield from read_lines(text, piece, columns, answered)
        return
    try:
        batches = _from_document(text, piece, columns, answered, mark)
    except UserError:
        # One bad line, the first, must not make JSON lines one bad document.
        if not (start.startswith(b"{") and is_object(second)):
            raise
        yield from read_lines(text, piece, columns, answered)
        return
    del text, start, second, lines
    yield from batches


def read_document(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read a piece of a document, which its opening and closing have made one of its own; as `read_json`."""
    tables = nested_tables(pa.py_buffer(data))
    if tables is not None:
        for table in tables:
            yield table, []
        return
    mark = len(_BOM) if data.startswith(_BOM) else 0
    yield from _from_document(data[mark:], piece, columns, answered, mark)


def read_lines(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool = True) -> Iterator[Batch]:
    """Read whole lines, each an object; a bad one is a reject. As `read_json`."""
    bad: list[Reject] = []

    def rows() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(io.BytesIO(data.removeprefix(_BOM)), piece.first):
            if line.strip():
                try:
                    yield number, parse_json(line, f"line {number + 1}")
                except UserError as error:
                    bad.append(Reject("", str(error)))

    for table, rejects in _from_rows(rows(), piece, columns, answered):
        yield table, bad + rejects
        bad.clear()


def _next_line(file: io.BytesIO) -> bytes:
    """The next line that is not blank, without white space at its ends; empty behind the last."""
    for line in file:
        if stripped := line.strip():
            return stripped
    return b""


def _from_document(data: bytes, piece: Piece, columns: Mapping[str, str], answered: bool, mark: int) -> list[Batch]:
    """All rows of one JSON document; the parsed document is gone before the first table is used."""
    where = piece.path
    with paused_collector():
        # What opens a piece from the middle of a file is not in the file.
        document = parse_json(data, where, mark + piece.begin - len(piece.opening), piece.begin > 0)
        rows = document.get("data") if isinstance(document, dict) else document
        if isinstance(document, dict) and "data" not in document:
            rows = [document]  # a single row: JSON lines with one line
        if not isinstance(rows, list):
            found = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
            raise UserError(
                f"{where} must be SQuAD JSON (an object with a list 'data'), a list of rows, or JSON lines; "
                f"found {found[:200]}"
            )
        if any(isinstance(article, dict) and "paragraphs" in article for article in rows):
            return list(_from_articles(rows, piece))
        return list(_from_rows(enumerate(rows, piece.first), piece, columns, answered))


def parse_json(data: bytes, where: str, before: int = 0, inside: bool = False) -> Any:
    """Parse JSON, saying where it breaks.

    Python's own parser is the second try: it lets lone surrogates through, which then reject their row and not the
    file.

    Args:
        data: The text.
        where: Its name, for the message.
        before: Bytes that stood before it in its file.
        inside: Whether it begins in the middle of its file, so that its own lines are not the file's.

    Raises:
        UserError: Not UTF-8, or not JSON.
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
        raise UserError(
            f"{where} must be UTF-8; received byte 0x{data[error.start]:02x} at byte {error.start + before}"
            f"{line}: save it as UTF-8"
        ) from None
    reason = fast.msg
    try:
        return json.loads(text)
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):  # Python's limit on the digits of a number
            reason = "a number has too many digits"
    at = f"line {fast.lineno}, column {fast.colno}"
    if inside:
        at = f"byte {before + len(text[: fast.pos].encode())}"
    raise UserError(f"{where} must be JSON; {reason} at {at}")


def _from_articles(articles: list[Any], piece: Piece) -> Iterator[Batch]:
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
                texts, starts = _answers(question.get("answers"), question.get("is_impossible"))
                collector.add(question.get("id"), question.get("question"), context, texts, starts)
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
        given = row.get(names["answers"]) if "answers" in names else None
        texts, starts = _answers(given, row.get("is_impossible"))
        row_id = row.get(names["id"]) if "id" in names else f"{piece.id_prefix}{number}"
        collector.add(row_id, row.get(names["question"]), row.get(names["context"]), texts, starts)
        if collector.full:
            yield collector.table(), collector.rejects
            collector = RowCollector()
    yield collector.table(), collector.rejects


def _answers(answers: Any, is_impossible: Any) -> tuple[Any, Any]:
    """Texts and starts of a row's answers, in either of the two layouts; none where it is marked impossible."""
    if is_impossible or answers is None:
        return [], []
    if isinstance(answers, dict):
        return answers.get("text"), answers.get("answer_start")
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return [answer.get("text") for answer in answers], [answer.get("answer_start") for answer in answers]
    return answers, None
