"""SQuAD-format and flat JSON to tables of examples.

Told apart by content: an object whose "data" holds articles with paragraphs is nested SQuAD (v1.1 or v2); a list, or an
object whose "data" is a list of rows, is flat; anything else with an object a line is JSON lines.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from qa_fast.errors import UserError
from qa_fast.examples import Reject
from qa_fast.sources.rows import RowCollector, column_names

_BOM = b"\xef\xbb\xbf"
Batch = tuple[pa.Table, list[Reject]]


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


def read_json(path: Path, columns: Mapping[str, str]) -> Iterator[Batch]:
    """Read a .json or .jsonl file of examples.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: Ours -> theirs, for flat rows.

    Yields:
        Tables of `examples.EXAMPLES` and the rows that could not enter them.

    Raises:
        UserError: Not JSON (with the position), not UTF-8, or not of a known shape.
    """
    data = path.read_bytes().removeprefix(_BOM)
    if not data.strip():
        raise UserError(f"{path} must hold examples; it is empty")
    if _is_lines(data):
        yield from _from_lines(data, path, columns)
        return
    with paused_collector():
        document = parse_json(data, str(path))
        del data
        if isinstance(document, dict) and isinstance(document.get("data"), list):
            articles = document["data"]
            if any(isinstance(article, dict) and "paragraphs" in article for article in articles):
                yield from _from_articles(articles)
                return
            rows = articles
        elif isinstance(document, list):
            rows = document
        else:
            found = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
            raise UserError(
                f"{path} must be SQuAD JSON (an object with a list 'data'), a list of rows, or JSON lines; found {found}"
            )
        yield from _from_rows(iter(rows), str(path), columns)


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON, saying where it breaks.

    Python's own parser is the second try: it lets lone surrogates through, which then reject their row and not the
    file.
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
            f"{where} must be UTF-8; received byte 0x{data[error.start]:02x} at byte {error.start} (line {line}): "
            "save it as UTF-8"
        ) from None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise UserError(
            f"{where} must be JSON; received {fast.msg} at line {fast.lineno}, column {fast.colno}"
            if isinstance(fast, json.JSONDecodeError)
            else f"{where} must be JSON; {fast}"
        ) from None


def _is_lines(data: bytes) -> bool:
    """Whether the first line is an object of its own and more follows it."""
    first, _, rest = data.lstrip().partition(b"\n")
    if not first.startswith(b"{"):
        return False
    try:
        value = orjson.loads(first)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and (bool(rest.strip()) or not isinstance(value.get("data"), list))


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
                texts, starts = _answers(question)
                collector.add(question.get("id"), question.get("question"), context, texts, starts)
            if collector.full:
                yield collector.table(), collector.rejects
                collector = RowCollector()
    yield collector.table(), collector.rejects


def _from_lines(data: bytes, path: Path, columns: Mapping[str, str]) -> Iterator[Batch]:
    bad: list[Reject] = []

    def rows() -> Iterator[Any]:
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                try:
                    yield parse_json(line, f"line {number}")
                except UserError as error:
                    bad.append(Reject("", str(error)))

    for table, rejects in _from_rows(rows(), str(path), columns):
        yield table, bad + rejects
        bad.clear()


def _from_rows(rows: Iterator[Any], where: str, columns: Mapping[str, str]) -> Iterator[Batch]:
    collector = RowCollector()
    names: dict[str, str] | None = None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            collector.rejects.append(Reject("", f"row {number} must be an object; received {type(row).__name__}"))
            continue
        if names is None:
            names = column_names(list(row), columns, where)
        answers = row.get(names["answers"])
        texts, starts = _answers({**row, "answers": answers})
        row_id = row.get(names["id"]) if "id" in names else f"row-{number}"
        collector.add(row_id, row.get(names["question"]), row.get(names["context"]), texts, starts)
        if collector.full:
            yield collector.table(), collector.rejects
            collector = RowCollector()
    yield collector.table(), collector.rejects


def _answers(row: dict[str, Any]) -> tuple[Any, Any]:
    """Texts and starts of a row's answers, in either of the two layouts; none where it is marked impossible."""
    answers = row.get("answers")
    if row.get("is_impossible") or answers is None:
        return [], []
    if isinstance(answers, dict):
        return answers.get("text"), answers.get("answer_start")
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return [answer.get("text") for answer in answers], [answer.get("answer_start") for answer in answers]
    return answers, None
