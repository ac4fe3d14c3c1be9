"""Reads tables in text, CSV and TSV, whose first line names the columns.

Cells hold text only; see `forms.answer_lists` for answers. Python's `csv` reads them. Arrow's reader is faster, but if
a quote is not closed, it takes the rest of the file as one cell without an error.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qa_fast.errors import UserError, shown
from qa_fast.raw import Reject
from qa_fast.sources.forms import NAMES, name_of

_DELIMITERS = ",\t;|"
# Bytes of a file that must hold its first line.
_FIRST_LINE = 1 << 16
_MOST_CELL_CHARS = 1 << 28
# A line by which Excel learns the delimiter.
_SEPARATOR = re.compile(r"sep=.\r?\n")


def first_line_of(head: bytes) -> tuple[str, list[str]]:
    """Return the delimiter and the names of the columns of a table; no names if it is no table.

    The delimiter is the one that shows the most names of our columns, and then the one that occurs most.

    Args:
        head: The start of the file, of which at most 64 KiB are used.
    """
    text = head[:_FIRST_LINE].decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    text = _SEPARATOR.sub("", text)
    if not text or text[0] in "{[<":
        return ",", []
    lines = {each: next(csv.reader(io.StringIO(text, newline=""), delimiter=each), []) for each in _DELIMITERS}

    def likeness(delimiter: str) -> tuple[int, int]:
        names = lines[delimiter]
        return sum(name_of(field, names) is not None for field in NAMES), len(names)

    best = max(lines, key=likeness)
    if not likeness(best)[0] and re.search(r"^\s*\{", text, re.MULTILINE):  # JSON lines after a bad one
        return ",", []
    return best, lines[best] if len(lines[best]) > 1 else []


def table_rows(data: bytes, columns: Mapping[str, str], where: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table, each with its number: an object, or why there is none.

    Args:
        data: UTF-8, with or without a byte order mark. Bytes that are not UTF-8 become lone surrogates.
        columns: Our column names -> those of the table, where they differ.
        where: The file, for the message.

    Raises:
        UserError: A quote is not closed.
    """
    delimiter = first_line_of(data)[0]
    # The limit holds for the process, and is only ever raised. Contexts may be longer than its default of 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), _MOST_CELL_CHARS))
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "surrogateescape", newline="")
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number = 0
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(
                    f"{where} must close every quote; the one that opens in the row of line {line} is not closed: "
                    "write it twice if it belongs to the text"
                ) from None
            yield number, Reject("", f"line {line} must be a row of a table with quotes written twice; {error}")
            number += 1
            continue
        if not cells or (names is None and _SEPARATOR.match(delimiter.join(cells) + "\n")):
            continue
        if names is None:
            names = cells
            for name in (columns.get(field) or name_of(field, names) for field in NAMES):
                if name and names.count(name) > 1:
                    raise UserError(f"{where} must name each column once; received {shown(name)} twice: rename one")
            continue
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        if len(cells) != len(names):
            yield number, Reject("", f"line {line} must have {len(names)} cells, as the first; received {len(cells)}")
        else:
            yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}
        number += 1
