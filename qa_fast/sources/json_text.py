"""SQuAD-format and flat JSON to tables of examples.

Told apart by content: an object whose "data" holds articles with paragraphs is nested SQuAD (v1.1 or v2); a list, or an
object whose "data" is a list of rows, is flat; an object a line is JSON lines, which are read one at a time.
"""

from __future__ import annotations

import codecs
import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from qa_fast.errors import UserError
from qa_fast.raw import Reject
from qa_fast.sources.nested import nested_tables
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


def read_json(path: Path, columns: Mapping[str, str], id_prefix: str = "row-") -> Iterator[Batch]:
    """Read a .json or .jsonl file of examples.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: Ours -> theirs, for flat rows.
        id_prefix: Names rows without ids, before their number.

    Yields:
        Tables of `raw.EXAMPLES` and the rows that could not enter them.

    Raises:
        UserError: Not JSON (with the position), not UTF-8, or not of a known shape.
    """
    tables = nested_tables(path)
    if tables is not None:
        for table in tables:
            yield table, []
        return
    with path.open("rb") as file:
        start = file.readline()
        mark = len(_BOM) if start.startswith(_BOM) else 0
        start = start[mark:]
        while not start.strip() and (more := file.readline()):
            start += more
        second = _next_line(file)
        if not start.strip() and not second:
            raise UserError(f"{path} must hold examples; it is empty")
        if second and _is_object(start):
            first_two = (start + second).splitlines(keepends=True)
            yield from _from_lines(chain(first_two, file), path, columns, id_prefix)
            return
        data = start + second + file.read() if second else start
    try:
        batches = _from_document(data, path, columns, id_prefix, mark)
    except UserError:
        # One bad line, the first, must not make JSON lines one bad document.
        if not (start.lstrip().startswith(b"{") and _is_object(second)):
            raise
        yield from _from_lines(iter(data.splitlines(keepends=True)), path, columns, id_prefix)
        return
    del data, start, second
    yield from batches


def _next_line(file: BinaryIO) -> bytes:
    """The next line that is not blank, with the blank ones before it."""
    read = file.readline()
    while read and not read.strip():
        more = file.readline()
        if not more:
            return b""
        read += more
    return read


def _is_object(line: bytes) -> bool:
    """Whether a line is a JSON object of its own."""
    line = line.strip()
    if not (line.startswith(b"{") and line.endswith(b"}")):
        return False
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _from_document(data: bytes, path: Path, columns: Mapping[str, str], id_prefix: str, mark: int) -> list[Batch]:
    """All rows of one JSON document; the parsed document is gone before the first table is used."""
    with paused_collector():
        document = parse_json(data, str(path), mark)
        rows = document.get("data") if isinstance(document, dict) else document
        if isinstance(document, dict) and "data" not in document:
            rows = [document]  # a single row: JSON lines with one line
        if not isinstance(rows, list):
            found = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
            raise UserError(
                f"{path} must be SQuAD JSON (an object with a list 'data'), a list of rows, or JSON lines; "
                f"found {found}"
            )
        if any(isinstance(article, dict) and "paragraphs" in article for article in rows):
            return list(_from_articles(rows))
        return list(_from_rows(iter(rows), str(path), columns, id_prefix))


def parse_json(data: bytes, where: str, mark: int = 0) -> Any:
    """Parse JSON, saying where it breaks.

    Python's own parser is the second try: it lets lone surrogates through, which then reject their row and not the
    file.

    Args:
        data: The text.
        where: Its name, for the message.
        mark: Bytes that stood before it in its file.

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
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where} must be UTF-8; received byte 0x{data[error.start]:02x} at byte {error.start + mark} "
            f"(line {line}): save it as UTF-8"
        ) from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where} must be JSON; {fast.msg} at line {fast.lineno}, column {fast.colno}") from None


def _from_articles(articles: list[Any]) -> Iterator[Batch]:
    collector = RowCollector()
    for number, article in enumerate(articles):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            collector.rejects.append(Reject("", f"data[{number}] must be an article with a list 'paragraphs'"))
            continue
        for place, paragraph in enumerate(paragraphs):
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


def _from_lines(lines: Iterator[bytes], path: Path, columns: Mapping[str, str], id_prefix: str) -> Iterator[Batch]:
    bad: list[Reject] = []

    def rows() -> Iterator[Any]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield parse_json(line, f"line {number}")
                except UserError as error:
                    bad.append(Reject("", str(error)))

    for table, rejects in _from_rows(rows(), str(path), columns, id_prefix):
        yield table, bad + rejects
        bad.clear()


def _from_rows(rows: Iterator[Any], where: str, columns: Mapping[str, str], id_prefix: str) -> Iterator[Batch]:
    collector = RowCollector()
    names: dict[str, str] | None = None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            collector.rejects.append(Reject("", f"row {number} must be an object; received {type(row).__name__}"))
            continue
        if names is None:
            names = column_names(list(row), columns, where)
        texts, starts = _answers(row.get(names["answers"]), row.get("is_impossible"))
        row_id = row.get(names["id"]) if "id" in names else f"{id_prefix}{number}"
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
