"""Gathers rows of examples into Arrow tables of bounded size.

`RowCollector` takes single rows from JSON readers. `normalize_table` takes whole Arrow tables from Parquet and Arrow
files, without a Python object for each row. Both make tables with the columns of `raw.EXAMPLES`, in which a context
that many questions share is stored once, by dictionary encoding. Both accept the same forms of each field; any other
value rejects its row (or the table, if the whole column has an unsuitable type), and none is guessed at:

    id                    text or a whole number
    question, context     text
    answers               an object with text and answer_start, each a list, a single value or null; a list of objects
                          with single ones; null
    text of an answer     text
    answer_start          what `whole_of` takes
    is_impossible         what `truth_of` takes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import offsets_of, one_chunk, used_rows
from qa_fast.errors import UserError, shown
from qa_fast.raw import ANSWERS_TYPE, EXAMPLES, Reject
from qa_fast.schema import Int64s

# A table ends when it holds so much: enough to make its fixed costs negligible, little enough for many tables to be in
# memory at once, one for each thread.
TABLE_ROWS = 10 * 1024
TABLE_CONTEXT_CHARS = 1 << 24

REQUIRED = ("question", "context", "answers")
OPTIONAL = ("id", "is_impossible")

Batch = tuple[pa.Table, list[Reject]]
# Rows that are rejected, bool[n], and the reason for one of them.
Rule = tuple[np.ndarray, Callable[[int], str]]
_INT32_MAX = 2**31 - 1
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*")
_NOT_TRUTH = "is_impossible must be true or false; received {}"
_NOT_WHOLE = "answer_start must be a whole number of characters; received {}"


def truth_of(value: Any) -> bool | None:
    """Return what a value of `is_impossible` means: true, false, 1, 0, 1.0, 0.0, or one of these as text in any case.

    A missing value and null mean false. Anything else means nothing, and is None: it must not be guessed at, because a
    text such as "false" would count as true in Python.
    """
    if value is None:
        return False
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return words.get(str(value).strip().lower())


def whole_of(value: Any) -> int | None:
    """Return the whole number that a value of `answer_start` means: 40, 40.0, or one of these as text; else None.

    It is limited to the range of int32: a start outside of it is outside of every context too.
    """
    found = None if isinstance(value, bool) else _WHOLE.fullmatch(str(value))
    return None if found is None else min(max(int(found[1]), -_INT32_MAX), _INT32_MAX)


def answer_lists(answers: Any) -> tuple[Any, Any]:
    """Return the texts and the starts of a row's answers; what are no lists of the same length is not accepted."""
    if answers is None:
        return [], []
    if isinstance(answers, dict) and ("text" in answers or "answer_start" in answers):
        texts, starts = (_listed(answers[name]) if name in answers else None for name in ("text", "answer_start"))
        return texts, starts
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return [answer.get("text") for answer in answers], [answer.get("answer_start") for answer in answers]
    return answers, None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def answers_in(row: Mapping[str, Any], name: str = "answers") -> Any:
    """Return the answers of a row; of one without them, what seems to be its answers by the name, which is rejected."""
    if name in row:
        return row[name]
    return next(({key: row[key]} for key in row if key.lower().startswith("answer")), None)


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

    def add(self, row_id: Any, question: Any, context: Any, answers: Any, is_impossible: Any = None) -> None:
        """Add one example, or a reject if a value is of the wrong type.

        Args:
            row_id: Text or a whole number.
            question: Text.
            context: Text.
            answers: Texts and first characters of the answers; see `answer_lists`.
            is_impossible: Whether the question is unanswerable, whatever its answers are; see `truth_of`.
        """
        if isinstance(row_id, int) and not isinstance(row_id, bool):
            row_id = str(row_id)
        impossible = truth_of(is_impossible)
        texts, given = answer_lists(None if impossible else answers)
        starts = given
        if isinstance(given, list):
            starts = [start if type(start) is int and abs(start) < _INT32_MAX else whole_of(start) for start in given]
        problem = _problem(row_id, question, context, texts, starts, given)
        if impossible is None:
            problem = _NOT_TRUTH.format(shown(is_impossible))
        if problem:
            self.rejects.append(Reject(row_id if isinstance(row_id, str) and _is_utf8(row_id) else "", problem))
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
        if not value.isascii() and not _is_utf8(value):
            return f"{name} must be valid Unicode; received a lone surrogate"
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return f"answers need as many answer_start as text; received {shown(texts)} and {shown(starts)}"
    for text in texts:
        if not isinstance(text, str):
            return f"an answer's text must be text; received {shown(text)}"
        if not text.isascii() and not _is_utf8(text):
            return "an answer's text must be valid Unicode; received a lone surrogate"
    for start, value in zip(starts, given, strict=True):
        if start is None:
            return _NOT_WHOLE.format(shown(value))
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def column_names(present: list[str], columns: Mapping[str, str], where: str, answered: bool = True) -> dict[str, str]:
    """Find the columns of a source.

    Args:
        present: The column names of the source.
        columns: The user's mapping of our column names -> those of the source.
        where: The source, for the message.
        answered: Whether answers are required.

    Returns:
        Our column name -> that of the source, for question, context, answers and, if present, id and is_impossible.

    Raises:
        UserError: A column is missing.
    """
    names = {ours: columns.get(ours, ours) for ours in (*OPTIONAL, *REQUIRED)}
    required = REQUIRED if answered else REQUIRED[:-1]
    missing = [
        theirs for ours, theirs in names.items() if theirs not in present and (ours in required or ours in columns)
    ]
    if missing:
        raise UserError(
            f"{where} must have the columns {', '.join(required)} and, if it has ids, id; missing "
            f"{', '.join(missing)}, found {', '.join(sorted(present))[:500] or 'none'}: map other names with "
            "--columns question=NAME"
        )
    return {ours: theirs for ours, theirs in names.items() if theirs in present}


def normalize_table(table: pa.Table, names: Mapping[str, str], id_prefix: str, first_row: int, where: str) -> Batch:
    """Bring an Arrow table to the columns and types of `EXAMPLES`.

    Args:
        table: A table of any suitable Arrow types, such as large strings, and answers as a struct of lists or a list
            of structs.
        names: Our column names -> those of the table, from `column_names`.
        id_prefix: Prefix of the ids of rows without an id column, before their number.
        first_row: Number of the table's first row in its source.
        where: The source, for the message.

    Returns:
        The table, and rejects for rows with values that are not accepted, or with bytes that are not UTF-8, which
        Arrow does not check when it reads.

    Raises:
        UserError: A column is of an unsuitable type, or its buffers are damaged.
    """
    try:
        valid = True
        for column in table.columns:
            valid &= _is_valid(column)
        if "id" in names:
            ids = _text(table[names["id"]], numbers=True)
        else:
            numbers = pa.array(np.arange(first_row, first_row + table.num_rows)).cast(pa.string())
            ids = pc.binary_join_element_wise(id_prefix, numbers, "")
        question = _text(table[names["question"]])
        context = _dictionary(table[names["context"]])
        rules: list[Rule] = []
        impossible = None
        if "is_impossible" in names:
            marks = one_chunk(table[names["is_impossible"]])
            impossible = _mapped(marks, truth_of, pa.bool_())
            rules.append((_of(impossible.is_null()), lambda row: _NOT_TRUTH.format(shown(marks[row].as_py()))))
        answers = _no_answers(table.num_rows)
        if "answers" in names:
            answers, rule = _answers(one_chunk(table[names["answers"]]), impossible)
            rules.append(rule)
    except (pa.ArrowException, KeyError, TypeError) as error:
        types = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise UserError(
            f"{where} must hold text questions and contexts, and answers as {{text: [...], answer_start: [...]}}; "
            f"received {types} ({str(error).splitlines()[0]})"
        ) from None
    whole = pa.Table.from_arrays([ids, question, context, answers], schema=EXAMPLES)
    if not valid:
        rules = [*_invalid_texts(whole), *rules]
    return _without_bad_rows(whole, rules) if any(mask.any() for mask, _ in rules) else (whole, [])


def _is_valid(column: pa.ChunkedArray) -> bool:
    """Tell whether the texts of a column are UTF-8; raise ArrowInvalid if it is damaged in other ways."""
    try:
        column.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "utf" not in str(error).lower():
            raise
        return False
    return True


def _invalid_texts(table: pa.Table) -> list[Rule]:
    """Return which rows have texts that are not UTF-8. This is slow, and rarely needed."""
    ids, questions, context, answers = (one_chunk(column) for column in table.columns)
    bad = {"id": _invalid(ids), "question": _invalid(questions)}
    bad["context"] = _invalid(context.dictionary)[_of(context.indices)]
    bad["an answer's text"] = _any_of_lists(_invalid(answers.field("text").flatten()), answers.field("text"))
    reasons = (f"{name} must be valid UTF-8; received other bytes" for name in bad)
    return [(mask, partial(_same, reason)) for mask, reason in zip(bad.values(), reasons, strict=True)]


def _same(reason: str, _: int) -> str:
    return reason


def _any_of_lists(values: np.ndarray, lists: pa.ListArray) -> np.ndarray:
    """Return bool[n], which lists have a true value; the values are those of all lists."""
    row_of = np.repeat(np.arange(len(lists)), _of(pc.list_value_length(lists)))
    return np.bincount(row_of[values], minlength=len(lists)) > 0


def _without_bad_rows(table: pa.Table, rules: list[Rule]) -> Batch:
    """Return the rows that break no rule, and rejects for the others with the first rule that each breaks."""
    ids = one_chunk(table["id"])
    any_bad = np.logical_or.reduce([mask for mask, _ in rules])
    rejects = []
    for row in np.flatnonzero(any_bad).tolist():
        reason = next(reason for mask, reason in rules if mask[row])
        row_id = ids[row].cast(pa.binary()).as_py().decode("utf-8", "replace")
        rejects.append(Reject("" if "\ufffd" in row_id else row_id, reason(row)))
    good = table.take(pa.array(np.flatnonzero(~any_bad)))
    # Leaves no invalid text behind in the dictionary.
    kept_context = one_chunk(good["context"]).cast(pa.string()).dictionary_encode()
    return good.set_column(EXAMPLES.get_field_index("context"), EXAMPLES.field("context"), kept_context), rejects


def _mapped(column: pa.Array, meaning: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
    """Return the column with each distinct value replaced by its meaning."""
    if column.type == kind and not column.null_count:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    distinct = column.dictionary_encode("encode")
    return pa.array([meaning(value) for value in distinct.dictionary.to_pylist()], kind).take(distinct.indices)


def _of(array: pa.Array) -> np.ndarray:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _invalid(strings: pa.Array) -> np.ndarray:
    """Return bool[n], which strings are not UTF-8."""
    out = np.zeros(len(strings), bool)
    for row, value in enumerate(strings.cast(pa.binary()).to_pylist()):
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            out[row] = True
    return out


def _text(column: pa.ChunkedArray, numbers: bool = False) -> pa.Array:
    """Return a column as one string array, with null as the empty text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_null(kind) or (numbers and pa.types.is_integer(kind))):
        raise pa.ArrowInvalid(f"expected text, found {column.type}")
    # Not "safe", since the caller looks for bytes that are not UTF-8 row by row.
    array = one_chunk(column.cast(pa.string(), safe=False))
    return pc.fill_null(array, "") if array.null_count else array


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return a column with each distinct text once, and null as the empty text."""
    if not pa.types.is_dictionary(column.type):
        if not _is_text(column.type):
            raise pa.ArrowInvalid(f"expected text, found {column.type}")
        column = column.dictionary_encode()  # before chunks are joined, since joined texts may exceed 2 GiB
    if column.null_count or not _is_text(column.type.value_type):
        return _text(column).dictionary_encode()
    array = one_chunk(column.unify_dictionaries())
    dictionary = array.dictionary.cast(pa.string(), safe=False)
    if dictionary.null_count:
        dictionary = pc.fill_null(dictionary, "")
    return pa.DictionaryArray.from_arrays(array.indices.cast(pa.int32()), dictionary)


def _answers(column: pa.Array, impossible: pa.Array | None) -> tuple[pa.Array, Rule]:
    """Return answers as struct<text: list, answer_start: list>, empty if they are null or marked impossible.

    Also return which rows have a start that is no whole number.
    """
    if pa.types.is_struct(column.type):
        texts, starts = (_as_lists(pc.struct_field(column, name)) for name in ("text", "answer_start"))
    elif _is_list(column.type) and pa.types.is_struct(column.type.value_type):
        lengths = pc.list_value_length(column)
        values = column.flatten()  # without values behind a null
        texts = lists_of_lengths(pc.struct_field(values, "text"), lengths)
        starts = lists_of_lengths(pc.struct_field(values, "answer_start"), lengths)
    elif pa.types.is_null(column.type):
        return _no_answers(len(column)), (np.zeros(len(column), bool), str)
    else:
        raise pa.ArrowInvalid(f"expected answers as a struct of lists or a list of structs, found {column.type}")
    texts, starts = _without_nulls(texts, impossible), _without_nulls(starts, impossible)
    given = starts.flatten()
    whole = _whole_numbers(given)
    bad = _any_of_lists(_of(whole.is_null()), starts)
    begins = _of(starts.offsets) - starts.offsets[0].as_py() if len(starts) else []

    def reason(row: int) -> str:
        values = given.slice(begins[row], begins[row + 1] - begins[row]).to_pylist()
        return _NOT_WHOLE.format(shown(next(each for each in values if whole_of(each) is None)))

    starts = lists_of_lengths(whole, pc.list_value_length(starts))
    kind = texts.type.value_type
    if not (_is_text(kind.value_type if pa.types.is_dictionary(kind) else kind) or pa.types.is_null(kind)):
        raise pa.ArrowInvalid(f"expected answers with texts, found {kind}")
    texts = texts.cast(ANSWERS_TYPE.field(0).type, safe=False)
    return pa.StructArray.from_arrays([texts, starts], fields=list(ANSWERS_TYPE)), (bad, reason)


def _whole_numbers(values: pa.Array) -> pa.Array:
    """Return starts as int32, null where they are no whole numbers; see `whole_of`."""
    if not pa.types.is_integer(values.type):
        return _mapped(values, whole_of, pa.int32())
    bounds = pc.min_max(values)
    if bounds["min"].as_py() is None or (bounds["min"].as_py() >= -_INT32_MAX and bounds["max"].as_py() <= _INT32_MAX):
        return values.cast(pa.int32())
    return _mapped(values, whole_of, pa.int32())


def _no_answers(rows: int) -> pa.Array:
    return pa.repeat(pa.scalar({"text": [], "answer_start": []}, ANSWERS_TYPE), rows)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def lists_of_lengths(values: pa.Array, lengths: pa.Array) -> pa.ListArray:
    """Return lists of the lengths [n] over values; a null length is 0."""
    counts = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(offsets_of(counts).astype(np.int32)), values)


def _as_lists(values: pa.Array) -> pa.Array:
    """Return lists as they are, each single value as a list of one, and null as an empty list."""
    if _is_list(values.type):
        return values
    return lists_of_lengths(values.drop_null(), values.is_valid().cast(pa.int32()))


def _without_nulls(lists: pa.Array, impossible: pa.Array | None) -> pa.Array:
    """Return the lists, empty if they are null or the row is marked impossible."""
    if impossible is not None and pc.any(impossible).as_py():
        lists = pc.if_else(pc.fill_null(impossible, False), pa.scalar(None, lists.type), lists)
    return lists_of_lengths(lists.flatten(), pc.list_value_length(lists)) if lists.null_count else lists


def bounded_tables(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table of `EXAMPLES` where a `RowCollector` would end its tables, each with only its own contexts."""
    context = one_chunk(table["context"])
    index = context.indices.to_numpy(zero_copy_only=False)
    for begin, end in pairwise(table_cuts(index, pc.binary_length(context.dictionary).to_numpy())):
        rows, new_index = used_rows(index[begin:end], len(context.dictionary))
        contexts = context.dictionary
        contiguous = len(rows) == rows[-1] - rows[0] + 1  # then a view suffices
        contexts = contexts.slice(rows[0], len(rows)) if contiguous else contexts.take(pa.array(rows))
        part = table.slice(begin, end - begin)
        column = pa.DictionaryArray.from_arrays(pa.array(new_index, pa.int32()), contexts)
        yield part.set_column(part.schema.get_field_index("context"), EXAMPLES.field("context"), column)


def table_cuts(context_index: np.ndarray, context_chars: Int64s) -> list[int]:
    """Return where to cut a long table, as a `RowCollector` would end its tables.

    Args:
        context_index: int32[E], the context of each row.
        context_chars: int64[D], the size of each context, which the first row that has it counts.

    Returns:
        Row numbers, from 0 to E.
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
