"""Brings Arrow tables of any suitable types to the columns and types of `EXAMPLES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import list_lengths, offsets_of, one_chunk
from qa_fast.errors import UserError, first_line, shown
from qa_fast.raw import ANSWERS_TYPE, EXAMPLES, Reject
from qa_fast.sources.forms import INT32_MAX, NO_PLACE, NOT_TRUTH, NOT_WHOLE, answer_lists, truth_of, whole_of
from qa_fast.sources.rows import Batch, is_utf8

# Rows that are rejected, bool[n], and the reason for one of them.
Rule = tuple[np.ndarray, Callable[[int], str]]


def normalize_table(table: pa.Table, names: Mapping[str, str], id_prefix: str, first_row: int, where: str) -> Batch:
    """Bring an Arrow table to the columns and types of `EXAMPLES`.

    Args:
        table: A table of any text-like and list-like Arrow types, with answers as a struct of lists or a list of
            structs.
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
        for place, column in enumerate(table.columns):
            if not is_plain(column.type):
                plain = pa.chunked_array([_plain(chunk) for chunk in column.chunks or [one_chunk(column)]])
                table = table.set_column(place, table.field(place).name, plain)
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
            rules.append((_of(impossible.is_null()), lambda row: NOT_TRUTH.format(shown(marks[row].as_py()))))
        answers = _no_answers(table.num_rows)
        if "answers" in names:
            starts = one_chunk(table[names["answer_start"]]) if "answer_start" in names else None
            answers, rule = _answers(one_chunk(table[names["answers"]]), starts, impossible)
            rules.append(rule)
    except (pa.ArrowException, KeyError, TypeError, UnicodeDecodeError) as error:
        types = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise UserError(
            f"{where} must hold text questions and contexts, and answers as {{text: [...], answer_start: [...]}}; "
            f"received {types} ({first_line(error)})"
        ) from None
    whole = pa.Table.from_arrays([ids, question, context, answers], schema=EXAMPLES)
    if "binary" in str(table.schema):  # such bytes were no text yet when they were checked
        valid &= all(map(_is_valid, whole.columns))
    if not valid:
        rules = [*_invalid_texts(whole), *rules]
    return _without_bad_rows(whole, rules) if any(mask.any() for mask, _ in rules) else (whole, [])


def is_plain(kind: pa.DataType, inside: bool = False) -> bool:
    """Tell whether the rules of this module know a type; see `_plain`.

    Args:
        kind: The type of a column.
        inside: Whether the type is within a list or struct.
    """
    types = pa.types
    if types.is_struct(kind):
        return all(is_plain(field.type, True) for field in kind)
    if _is_list(kind):
        return is_plain(kind.value_type, True)
    if types.is_dictionary(kind):
        return not inside and is_plain(kind.value_type)
    others = (types.is_string_view, types.is_binary_view, types.is_list_view, types.is_large_list_view,
              types.is_fixed_size_list, types.is_fixed_size_binary, types.is_run_end_encoded)  # fmt: skip
    return not isinstance(kind, pa.BaseExtensionType) and not any(is_kind(kind) for is_kind in others)


def _plain(array: pa.Array, inside: bool = False) -> pa.Array:
    """Return an array of any text-like or list-like type with strings, lists and structs that the rules below know.

    Lists are put together from values and lengths: Arrow's cast of list views from a file gave wrong lists (26.0).
    """
    kind, types = array.type, pa.types
    if is_plain(kind, inside):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(array.storage, inside)
    if types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(array), inside)
    if types.is_dictionary(kind):
        plain = pa.DictionaryArray.from_arrays(array.indices, _plain(array.dictionary))
        return plain.dictionary_decode() if inside else plain
    if types.is_string_view(kind):
        return array.cast(pa.large_string(), safe=False)
    if types.is_struct(kind):
        parts = [_plain(part, True) for part in array.flatten()]
        return pa.StructArray.from_arrays(parts, [field.name for field in kind], mask=array.is_null())
    if types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return array.cast(pa.large_binary())
    # The values without those behind a null.
    return lists_of_lengths(_plain(array.flatten(), True), pc.list_value_length(array), array.is_null())


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
    reason = "{} must be valid UTF-8; received other bytes"
    return [(mask, lambda _, name=name: reason.format(name)) for name, mask in bad.items()]  # type: ignore[misc]


def _any_of_lists(values: np.ndarray, lists: pa.ListArray) -> np.ndarray:
    """Return bool[n], which lists have a true value; the values are those of all lists."""
    row_of = np.repeat(np.arange(len(lists)), list_lengths(lists))
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
    texts = ((value or b"").decode("utf-8", "surrogateescape") for value in strings.cast(pa.binary()).to_pylist())
    return np.array([not is_utf8(text) for text in texts], bool)


def _text(column: pa.ChunkedArray, numbers: bool = False) -> pa.Array:
    """Return a column as one string array, with null as the empty text."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_null(kind) or (numbers and pa.types.is_integer(kind))):
        raise pa.ArrowInvalid(f"expected text, found {column.type}")
    # Not "safe", since the caller looks for bytes that are not UTF-8 row by row.
    array = one_chunk(column.cast(pa.string(), safe=False))
    return pc.fill_null(array, "") if array.null_count else array


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


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


def _answers(column: pa.Array, places: pa.Array | None, impossible: pa.Array | None) -> tuple[pa.Array, Rule]:
    """Return answers of any form as `ANSWERS_TYPE`, empty if null or impossible; and the rows whose starts are none.

    `places` are the starts of answers that are texts, and None if there is no such column.
    """
    if pa.types.is_null(column.type):
        return _no_answers(len(column)), (np.zeros(len(column), bool), str)
    texts, starts = _usual_answers(column) or _answers_by_row(column, places)
    texts, starts = _without_nulls(texts, impossible), _without_nulls(starts, impossible)
    given = starts.flatten()
    whole = _whole_numbers(given)
    bad = _any_of_lists(_of(whole.is_null()), starts)
    begins = _of(starts.offsets) - starts.offsets[0].as_py() if len(starts) else []

    def reason(row: int) -> str:
        values = given.slice(begins[row], begins[row + 1] - begins[row]).to_pylist()
        return NOT_WHOLE.format(shown(next(each for each in values if whole_of(each) is None)))

    starts = lists_of_lengths(whole, pc.list_value_length(starts))
    kind = texts.type.value_type
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise pa.ArrowInvalid(f"expected answers with texts, found {kind}")
    texts = texts.cast(ANSWERS_TYPE.field(0).type, safe=False)
    return pa.StructArray.from_arrays([texts, starts], fields=list(ANSWERS_TYPE)), (bad, reason)


def _usual_answers(column: pa.Array) -> tuple[pa.Array, pa.Array] | None:
    """Return the texts and starts of a struct of lists or of single values, or of a list of structs; else None."""
    kind = column.type.value_type if _is_list(column.type) else column.type
    if not (pa.types.is_struct(kind) and {"text", "answer_start"} <= {field.name for field in kind}):
        return None
    if kind != column.type:
        lengths, values = pc.list_value_length(column), column.flatten()  # without values behind a null
        return (
            lists_of_lengths(pc.struct_field(values, "text"), lengths),
            lists_of_lengths(pc.struct_field(values, "answer_start"), lengths),
        )
    texts, starts = (pc.struct_field(column, name) for name in ("text", "answer_start"))
    if not texts.is_valid().equals(starts.is_valid()):
        return None
    return _as_lists(texts), _as_lists(starts)


def _answers_by_row(column: pa.Array, places: pa.Array | None) -> tuple[pa.Array, pa.Array]:
    """Return the texts and starts of answers in any other form that `answer_lists` takes."""
    starts_beside = [None] * len(column) if places is None else places.to_pylist()
    pairs = [answer_lists(*given) for given in zip(column.to_pylist(), starts_beside, strict=True)]
    if not all(isinstance(part, list) for pair in pairs for part in pair):
        raise pa.ArrowInvalid(f"expected answers as texts, a struct of lists or a list of structs, found {column.type}")
    texts, starts = (pa.array([pair[part] for pair in pairs]) for part in (0, 1))
    return (
        texts if _is_list(texts.type) else texts.cast(pa.list_(pa.string())),
        starts if _is_list(starts.type) else starts.cast(pa.list_(pa.int32())),
    )


def _whole_numbers(values: pa.Array) -> pa.Array:
    """Return starts as int32, null where they are no whole numbers; see `whole_of`."""
    if not pa.types.is_integer(values.type):
        return _mapped(values, whole_of, pa.int32())
    values = pc.fill_null(values, NO_PLACE)
    bounds = pc.min_max(values)
    if bounds["min"].as_py() is None or (bounds["min"].as_py() >= -INT32_MAX and bounds["max"].as_py() <= INT32_MAX):
        return values.cast(pa.int32())
    return _mapped(values, whole_of, pa.int32())


def _no_answers(rows: int) -> pa.Array:
    none = pa.scalar({"text": [], "answer_start": []}, ANSWERS_TYPE)
    return pa.repeat(none, rows) if rows else pa.array([], ANSWERS_TYPE)  # `repeat` takes no 0


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def lists_of_lengths(values: pa.Array, lengths: pa.Array, nulls: pa.Array | None = None) -> pa.ListArray:
    """Return lists of the lengths [n] over values, with `nulls` [n] among them; a null length is 0."""
    counts = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(offsets_of(counts).astype(np.int32)), values, mask=nulls)


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
