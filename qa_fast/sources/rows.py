"""Rows of examples, gathered into Arrow tables of bounded size.

`RowCollector` takes rows one at a time, from JSON readers; `normalize_table` takes whole Arrow tables, from Parquet
and Arrow files, without a Python object per row. Both give tables with the columns of `examples.EXAMPLES`, contexts
dictionary-encoded, so that a context shared by many questions is held once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError
from qa_fast.examples import ANSWERS_TYPE, CONTEXT_TYPE, EXAMPLES, Reject

# A table is closed when it holds this much; bounds the memory of everything downstream.
TABLE_ROWS = 1 << 16
TABLE_CONTEXT_CHARS = 1 << 26

REQUIRED = ("question", "context", "answers")
_INT32_MAX = 2**31 - 1


class RowCollector:
    """Columns under construction: one collector a table."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._questions: list[str] = []
        self._context_index: list[int] = []
        self._contexts: list[str] = []
        self._rows_of_context: dict[str, int] = {}
        self._texts: list[list[str]] = []
        self._starts: list[list[int]] = []
        self._context_chars = 0
        self.rejects: list[Reject] = []

    @property
    def full(self) -> bool:
        """Whether the table should be closed before more is added."""
        return len(self._ids) >= TABLE_ROWS or self._context_chars >= TABLE_CONTEXT_CHARS

    def add(self, row_id: Any, question: Any, context: Any, texts: Any, starts: Any) -> None:
        """Add one example, or a reject where a value is not of its kind.

        Args:
            row_id: Text or a number.
            question: Text.
            context: Text.
            texts: Answers' texts, list of str; empty where unanswerable.
            starts: Answers' first characters, list of int.
        """
        if isinstance(row_id, int) and not isinstance(row_id, bool):
            row_id = str(row_id)
        problem = _problem(row_id, question, context, texts, starts)
        if problem:
            self.rejects.append(Reject(row_id if isinstance(row_id, str) and _is_utf8(row_id) else "", problem))
            return
        index = self._rows_of_context.get(context)
        if index is None:
            index = self._rows_of_context[context] = len(self._contexts)
            self._contexts.append(context)
            self._context_chars += len(context)
        self._ids.append(row_id)
        self._questions.append(question)
        self._context_index.append(index)
        self._texts.append(texts)
        self._starts.append(starts)

    def table(self) -> pa.Table:
        """The rows so far as a table of `EXAMPLES`."""
        answers = pa.StructArray.from_arrays(
            [pa.array(self._texts, ANSWERS_TYPE.field(0).type), pa.array(self._starts, ANSWERS_TYPE.field(1).type)],
            fields=list(ANSWERS_TYPE),
        )
        context = pa.DictionaryArray.from_arrays(
            pa.array(self._context_index, pa.int32()), pa.array(self._contexts, pa.string())
        )
        columns = [pa.array(self._ids, pa.string()), pa.array(self._questions, pa.string()), context, answers]
        return pa.Table.from_arrays(columns, schema=EXAMPLES)


def _problem(row_id: Any, question: Any, context: Any, texts: Any, starts: Any) -> str | None:
    """Why a row cannot be an example, if it cannot."""
    for name, value in (("id", row_id), ("question", question), ("context", context)):
        if not isinstance(value, str):
            return f"{name} must be text; received {_shown(value)}"
        if not value.isascii() and not _is_utf8(value):
            return f"{name} must be valid Unicode; received a lone surrogate"
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return f"answers need as many answer_start as text; received {_shown(texts)} and {_shown(starts)}"
    for text in texts:
        if not isinstance(text, str):
            return f"an answer's text must be text; received {_shown(text)}"
        if not text.isascii() and not _is_utf8(text):
            return "an answer's text must be valid Unicode; received a lone surrogate"
    for start in starts:
        if not isinstance(start, int) or isinstance(start, bool) or abs(start) > _INT32_MAX:
            return f"answer_start must be a whole number of characters; received {_shown(start)}"
    return None


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def column_names(found: list[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Which column of the source holds what.

    Args:
        found: The source's column names.
        columns: The user's mapping, ours -> theirs.
        where: The source, for the message.

    Returns:
        Ours -> theirs for question, context, answers and, where there is one, id.

    Raises:
        UserError: A column is missing; names those found.
    """
    names = {ours: columns.get(ours, ours) for ours in ("id", *REQUIRED)}
    missing = [names[ours] for ours in REQUIRED if names[ours] not in found]
    if "id" in columns and names["id"] not in found:
        missing.append(names["id"])
    if missing:
        raise UserError(
            f"{where} must have the columns id, question, context, answers; missing {', '.join(missing)}, "
            f"found {', '.join(sorted(found)) or 'none'}: map other names with --columns question=NAME"
        )
    return {ours: theirs for ours, theirs in names.items() if theirs in found}


def normalize_table(table: pa.Table, names: Mapping[str, str], first_row: int, where: str) -> pa.Table:
    """Bring an Arrow table to the columns and types of `EXAMPLES`.

    Args:
        table: Any Arrow types that can mean the same: large strings, answers as struct of lists or list of structs.
        names: Ours -> theirs, from `column_names`.
        first_row: Number of the table's first row in its source; names rows where there is no id column.
        where: The source, for the message.

    Raises:
        UserError: A column's type cannot mean what its name says.
    """
    rows = table.num_rows
    try:
        if "id" in names:
            ids = _text(table[names["id"]])
        else:
            ids = pa.array([f"row-{first_row + row}" for row in range(rows)], pa.string())
        question = _text(table[names["question"]])
        context = _dictionary(table[names["context"]])
        answers = _answers(one_chunk(table[names["answers"]]), rows)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, TypeError) as error:
        types = ", ".join(f"{theirs}: {table.schema.field(theirs).type}" for theirs in names.values())
        raise UserError(
            f"{where} must hold text questions and contexts, and answers as {{text: [...], answer_start: [...]}}; "
            f"received {types} ({str(error).splitlines()[0]})"
        ) from None
    return pa.Table.from_arrays([ids, question, context, answers], schema=EXAMPLES)


def _text(column: pa.ChunkedArray) -> pa.Array:
    array = one_chunk(column)
    if pa.types.is_binary(array.type) or pa.types.is_floating(array.type) or pa.types.is_nested(array.type):
        raise pa.ArrowInvalid(f"expected text, found {array.type}")
    return one_chunk(pc.fill_null(array.cast(pa.string()), ""))


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """The column with each distinct text once, null as the empty text."""
    if not pa.types.is_dictionary(column.type) or column.null_count:
        return _text(column.cast(pa.string())).dictionary_encode()
    return one_chunk(column.unify_dictionaries()).cast(CONTEXT_TYPE)


def _answers(column: pa.Array, rows: int) -> pa.Array:
    """Answers as struct<text: list, answer_start: list>, null as unanswerable."""
    if pa.types.is_struct(column.type):
        texts, starts = pc.struct_field(column, "text"), pc.struct_field(column, "answer_start")
        if not (_is_list(texts.type) and _is_list(starts.type)):
            texts, starts = _as_single_lists(texts), _as_single_lists(starts)
    elif _is_list(column.type) and pa.types.is_struct(column.type.value_type):
        lists = column.cast(pa.list_(column.type.value_type))
        values = lists.values
        offsets = lists.offsets if lists.null_count == 0 else _offsets_without_nulls(lists)
        texts = pa.ListArray.from_arrays(offsets, pc.struct_field(values, "text"))
        starts = pa.ListArray.from_arrays(offsets, pc.struct_field(values, "answer_start"))
    else:
        raise pa.ArrowInvalid(f"expected answers as a struct of lists or a list of structs, found {column.type}")
    empty_text, empty_start = pa.scalar([], ANSWERS_TYPE.field(0).type), pa.scalar([], ANSWERS_TYPE.field(1).type)
    texts = _filled(texts.cast(ANSWERS_TYPE.field(0).type), empty_text)
    starts = _filled(starts.cast(ANSWERS_TYPE.field(1).type), empty_start)
    return pa.StructArray.from_arrays([texts, starts], fields=list(ANSWERS_TYPE))


def _filled(lists: pa.Array, empty: pa.Scalar) -> pa.Array:
    return pc.coalesce(lists, empty) if lists.null_count else lists


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _as_single_lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values)


def _offsets_without_nulls(lists: pa.ListArray) -> pa.Array:
    return pa.concat_arrays(
        [pa.array([0], pa.int32()), pc.cumulative_sum(pc.fill_null(pc.list_value_length(lists), 0))]
    )
