"""Gathers rows of examples into Arrow tables of bounded size.

`RowCollector` takes single rows from JSON readers. `columns` takes whole Arrow tables from Parquet and Arrow
files, without a Python object for each row. Both make tables with the columns of `raw.EXAMPLES`, in which a context
that many questions share is stored once, by dictionary encoding. `forms` says which values both accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import one_chunk
from qa_fast.errors import UserError, shown
from qa_fast.raw import ANSWERS_TYPE, EXAMPLES, Reject
from qa_fast.schema import Int64s
from qa_fast.sources.foreign import refuse_record
from qa_fast.sources.forms import INT32_MAX, NAMES, NOT_TRUTH, NOT_WHOLE, answer_lists, name_of, truth_of, whole_of

# A table ends when it holds so much: enough to make its fixed costs negligible, little enough for many tables to be in
# memory at once, one for each thread.
TABLE_ROWS = 10 * 1024
TABLE_CONTEXT_CHARS = 1 << 24

REQUIRED = ("question", "context", "answers")
# A longer name is taken for a cell in the first row of a table without names.
_MOST_NAME_CHARS = 80
# Names under which a missing column may be, for the message.
_LIKELY = {
    "question": ("query", "q", "prompt", "instruction", "user_input"),
    "context": ("passage", "paragraph", "document", "text", "article", "story", "content", "body", "input"),
    "answers": ("response", "output", "span", "spans", "target", "text"),
}

Batch = tuple[pa.Table, list[Reject]]


class RowCollector:
    """Collects the rows of one table."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._questions: list[str] = []
        self._context_index: list[int] = []
        self._contexts: list[str] = []
        self._rows_of_context: dict[str, int] = {}
        self._texts: list[list[str]] = []
        self._starts: list[list[int]] = []
        self._chars = 0
        self.rejects: list[Reject] = []

    @property
    def full(self) -> bool:
        """True if the table should end here."""
        return len(self._ids) >= TABLE_ROWS or self._chars >= TABLE_CONTEXT_CHARS

    def add(
        self,
        row_id: Any,
        question: Any,
        context: Any,
        answers: Any,
        is_impossible: Any = None,
        answer_start: Any = None,
    ) -> None:
        """Add one example, or a reject if a value is of the wrong type.

        Args:
            row_id: Text or a whole number.
            question: Text.
            context: Text.
            answers: Texts and first characters of the answers; see `answer_lists`.
            is_impossible: Whether the question is unanswerable, whatever its answers are; see `truth_of`.
            answer_start: The starts of answers that are texts; see `answer_lists`.
        """
        if isinstance(row_id, int) and not isinstance(row_id, bool):
            row_id = str(row_id)
        impossible = truth_of(is_impossible)
        texts, given = answer_lists(None if impossible else answers, answer_start)
        starts = given
        if isinstance(given, list):
            starts = [start if type(start) is int and abs(start) < INT32_MAX else whole_of(start) for start in given]
        problem = _problem(row_id, question, context, texts, starts, given)
        if impossible is None:
            problem = NOT_TRUTH.format(shown(is_impossible))
        if problem:
            self.rejects.append(Reject(row_id if isinstance(row_id, str) and is_utf8(row_id) else "", problem))
            return
        index = self._rows_of_context.get(context)
        if index is None:
            index = self._rows_of_context[context] = len(self._contexts)
            self._contexts.append(context)
            self._chars += len(context)
        self._chars += len(question)
        self._ids.append(row_id)
        self._questions.append(question)
        self._context_index.append(index)
        self._texts.append(texts)
        self._starts.append(starts)

    def table(self) -> pa.Table:
        """Return the rows as a table of `EXAMPLES`."""
        answers = pa.StructArray.from_arrays(
            [pa.array(self._texts, ANSWERS_TYPE.field(0).type), pa.array(self._starts, ANSWERS_TYPE.field(1).type)],
            fields=list(ANSWERS_TYPE),
        )
        context = pa.DictionaryArray.from_arrays(
            pa.array(self._context_index, pa.int32()), pa.array(self._contexts, pa.string())
        )
        columns = [pa.array(self._ids, pa.string()), pa.array(self._questions, pa.string()), context, answers]
        return pa.Table.from_arrays(columns, schema=EXAMPLES)


def _problem(row_id: Any, question: Any, context: Any, texts: Any, starts: Any, given: Any) -> str | None:
    """Return the reason why a row cannot be an example; None if it can."""
    for name, value in (("id", row_id), ("question", question), ("context", context)):
        if not isinstance(value, str):
            return f"{name} must be text; received {shown(value)}"
        if not value.isascii() and not is_utf8(value):
            return f"{name} must be valid Unicode; received a lone surrogate"
    if starts is None:
        return f"answers must be texts or objects with 'text'; received {shown(texts)}"
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return f"answers need as many answer_start as text; received {shown(texts)} and {shown(starts)}"
    for text in texts:
        if not isinstance(text, str):
            return f"an answer's text must be text; received {shown(text)}"
        if not text.isascii() and not is_utf8(text):
            return "an answer's text must be valid Unicode; received a lone surrogate"
    for start, value in zip(starts, given, strict=True):
        if start is None:
            return NOT_WHOLE.format(shown(value))
    return None


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written as UTF-8, so that it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(columns: Any, splits: Any = None) -> None:
    """Refuse names of columns that are no mapping from ours, and names of splits that are no list.

    Raises:
        UserError: They are of another form.
    """
    given = set(columns) if isinstance(columns, Mapping) else {shown(columns)}
    unknown = given - NAMES.keys()
    if unknown or not isinstance(columns, Mapping):
        raise UserError(
            f"--columns maps {', '.join(list(NAMES)[:-1])} or {list(NAMES)[-1]} to a column of yours; "
            f"received {', '.join(sorted(map(str, unknown)))}"
        )
    if not isinstance(splits, list | tuple | None):
        raise UserError(f"--split must be a name or a list of names; received {shown(splits)}")


def likely_name(field: str, present: Iterable[str]) -> str | None:
    """Return the name under which a field that was not found probably is; None if there is none."""
    plain = {name.strip().lower(): name for name in present}
    return next((plain[name] for name in _LIKELY.get(field, ()) if name in plain), None)


def column_names(
    present: list[str], columns: Mapping[str, str], where: str, answered: bool = True, required: bool = True
) -> dict[str, str]:
    """Find the columns of a source.

    Args:
        present: The column names of the source.
        columns: The user's mapping of our column names -> those of the source.
        where: The source, for the message.
        answered: Whether answers are read.
        required: Whether a row without answers lacks them, and not only has none.

    Returns:
        Our column name -> that of the source, for those of `forms.NAMES` that it has.

    Raises:
        UserError: A column is missing, or the columns are those of a form that is not read.
    """
    wanted = NAMES if answered else ("id", *REQUIRED[:-1])
    names = {ours: columns[ours] if ours in columns else name_of(ours, present) for ours in wanted}
    if "_task_hash" in present and names.get("answers") == "answer":
        raise UserError(
            f"{where} is an export of Prodigy as a table, whose column 'answer' is the annotator's decision: give the "
            "JSON lines that Prodigy writes, which are read, or name other answers with --columns answers=NAME"
        )
    must = {*columns, *REQUIRED} if required else set(REQUIRED[:-1])
    missing = [ours for ours, theirs in names.items() if theirs not in present and ours in must]
    if missing:
        refuse_record(dict.fromkeys(present), where, has_question=names["question"] in present)
        longest = max(present, key=len, default="")
        if len(longest) > _MOST_NAME_CHARS:
            raise UserError(
                f"{where} must name its columns in the first line; received {shown(longest)}: add a line such as "
                "question,context,answer"
            )
        likely: dict[str, str] = {}  # a name stands for one column only
        for ours in missing:
            theirs = likely_name(ours, present)
            if theirs is not None and theirs not in likely.values():
                likely[ours] = theirs
        example = ",".join(f"{ours}={theirs}" for ours, theirs in likely.items()) or f"{missing[0]}=NAME"
        absent = ", ".join(columns.get(ours, ours) for ours in missing)
        raise UserError(
            f"{where} must have the columns {', '.join(name for name in REQUIRED if name in wanted)} and, if it has "
            f"ids, id; missing {absent}, found {', '.join(sorted(present))[:500] or 'none'}: map other "
            f"names with --columns {example}"
        )
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def bounded_tables(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table of `EXAMPLES` where a `RowCollector` would end its tables, each with only its own contexts."""
    context = one_chunk(table["context"])
    index = context.indices.to_numpy(zero_copy_only=False)
    for begin, end in pairwise(_table_cuts(index, pc.binary_length(context.dictionary).to_numpy())):
        used, first, new_index = np.unique(index[begin:end], return_index=True, return_inverse=True)
        order = np.argsort(first)  # of appearance, as in a `RowCollector`
        rows, place = used[order], np.argsort(order)
        contiguous = (np.diff(rows) == 1).all()  # then a view suffices
        contexts = context.dictionary
        contexts = contexts.slice(rows[0], len(rows)) if contiguous else contexts.take(pa.array(rows))
        part = table.slice(begin, end - begin)
        column = pa.DictionaryArray.from_arrays(pa.array(place[new_index], pa.int32()), contexts)
        yield part.set_column(part.schema.get_field_index("context"), EXAMPLES.field("context"), column)


def _table_cuts(context_index: np.ndarray, context_chars: Int64s) -> list[int]:
    """Return the rows where a `RowCollector` would end its tables, from 0 to E.

    The first row that has a context counts its size.
    """
    rows = len(context_index)
    sizes = np.zeros(rows, np.int64)
    used, first_row = np.unique(context_index, return_index=True)
    sizes[first_row] = context_chars[used]
    ends = np.cumsum(sizes)
    most = -(-rows // -(-rows // TABLE_ROWS)) if rows else 0  # equal tables instead of full ones and a short one
    cuts = [0]
    while cuts[-1] < rows:
        begin = cuts[-1]
        before = ends[begin - 1] if begin else 0
        last = int(np.searchsorted(ends, before + TABLE_CONTEXT_CHARS)) + 1
        cuts.append(min(max(last, begin + 1), begin + most, rows))
    return cuts
