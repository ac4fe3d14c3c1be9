"""Checks of raw examples: good ones become flat buffers, bad ones are rejected with a reason.

`check_examples` takes one table of raw examples (columns of `EXAMPLES`) and returns the good rows as `Examples`, ready
for the kernels, a `Reject` for each other row, and a `Repair` for each answer that was moved. Kernels check whole
columns; Python looks only at the rows that failed, and at their neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import list_lengths, one_chunk, text_buffers, used_rows
from qa_fast.errors import shown
from qa_fast.features.repairs import Span, find_spans
from qa_fast.kernels import hashing, text
from qa_fast.raw import ANSWERS_TYPE, UNPLACED, Reject, Repair
from qa_fast.schema import Int32s, Int64s

# Longest texts in bytes of UTF-8. Working memory is some fifty times the bytes of a context, and more for a question.
# No model takes a question of a thousandth of this limit, and books have a tenth of the limit for contexts.
MOST_CONTEXT_BYTES = 1 << 24
MOST_QUESTION_BYTES = 1 << 20
MOST_ID_BYTES = 1 << 16


# Rows that break a rule, bool[E], and the reason for one of them.
Rule = tuple[np.ndarray, Callable[[int], str]]


@dataclass(frozen=True)
class Examples:
    """E checked examples over D distinct contexts.

    Attributes:
        ids: string [E].
        questions: string [E], as given.
        contexts: string [D], as given.
        context_index: int32[E].
        answers: struct [E] of `ANSWERS_TYPE`, after repairs.
        answer_char_start: int64[E], start of the first answer in characters of the context as given; -1: unanswerable.
        answer_chars: int32[E], length of the first answer in characters; 0: unanswerable.
        span_start: int32[E], start of the first answer without surrounding white space; -1: unanswerable.
        span_end: int32[E], one past its last character.
    """

    ids: pa.Array
    questions: pa.Array
    contexts: pa.Array
    context_index: Int32s
    answers: pa.Array
    answer_char_start: Int64s
    answer_chars: Int32s
    span_start: Int32s
    span_end: Int32s

    def __len__(self) -> int:
        return len(self.context_index)

    def take(self, rows: Int64s) -> Examples:
        """Return the given rows, in that order; contexts stay as they are."""
        columns = {name: column for name, column in vars(self).items() if name != "contexts"}
        for name, column in columns.items():
            columns[name] = column.take(pa.array(rows)) if isinstance(column, pa.Array) else column[rows]
        return replace(self, **columns)

    def without_unused_contexts(self) -> Examples:
        """Return the same examples over the contexts that they use, so that no others are encoded and stored."""
        rows, index = used_rows(self.context_index, len(self.contexts))
        if len(rows) == len(self.contexts):
            return self
        return replace(self, contexts=self.contexts.take(pa.array(rows)), context_index=index)


def id_hashes(ids: pa.Array) -> np.ndarray:
    """Return 127 bits of hash of each text, high and low word: uint64[2n]; see `kernels.hashing`."""
    flat, out = text_buffers(ids), np.zeros(2 * len(ids), np.uint64)
    hashing.hash_texts(flat.values, flat.offsets, out)
    return out


class IdSet:
    """A set of ids, at 18 to 37 bytes each; see `kernels.hashing`."""

    def __init__(self) -> None:
        self._slots = np.zeros(2 * (1 << 12), np.uint64)
        self._entries = 0

    def add(self, ids: pa.Array) -> np.ndarray:
        """Remember the ids.

        Args:
            ids: string [n].

        Returns:
            bool[n], True if the id occurred before, in this call or an earlier one.
        """
        return self.add_hashes(id_hashes(ids))

    def add_hashes(self, hashes: np.ndarray) -> np.ndarray:
        """Remember ids that are already hashed, uint64[2n]; see `add`."""
        rows, capacity = len(hashes) // 2, len(self._slots) // 2
        while 8 * (self._entries + rows) > 7 * capacity:  # a fuller table is slower, an emptier one takes more memory
            capacity *= 2
        if 2 * capacity > len(self._slots):
            larger = np.zeros(2 * capacity, np.uint64)
            hashing.copy_set(self._slots, larger)
            self._slots = larger
        repeated = np.zeros(rows, np.uint8)
        hashing.mark_repeats(hashes, self._slots, repeated)
        self._entries += rows - int(repeated.sum())
        return repeated.astype(bool)


@dataclass(frozen=True)
class Checked:
    """A table of raw examples after the checks.

    Attributes:
        examples: The good examples.
        rows: int64[E], their rows in the table.
        rejects: Reject of each other row, in row order.
        repairs: Repair of each first answer that was repaired or has no certain place, in row order.
    """

    examples: Examples
    rows: Int64s
    rejects: dict[int, Reject]
    repairs: dict[int, Repair]


def check_examples(table: pa.Table, repeated: np.ndarray, scored: bool = False) -> Checked:
    """Check a table of raw examples. An answer that is not at its start is moved to where `find_spans` finds it.

    Args:
        table: Columns of `EXAMPLES`; E rows. Only the first answers are checked and repaired.
        repeated: bool[E], rows whose id occurred before, as `IdSet.add` returns them.
        scored: Whether the split is for scoring, which needs the texts alone: examples without a certain place of their
            first answer are kept, without a label, and not rejected.
    """
    ids, questions = one_chunk(table["id"]), one_chunk(table["question"])
    context_column, answers = one_chunk(table["context"]), one_chunk(table["answers"])
    contexts = context_column.dictionary
    context_index = context_column.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    starts, first_answers, uneven = _first_answers(answers)
    id_bytes, question_bytes, context_bytes = _bytes(ids), _bytes(questions), _bytes(contexts)[context_index]
    status, span_start, span_end = check_spans(contexts, context_index, first_answers, starts)

    def too_long(what: str, sizes: Int64s, most: int, remedy: str = "") -> Rule:
        return sizes > most, lambda row: f"{what} must be at most {most:,} bytes; received {sizes[row]:,}{remedy}"

    blank = "must not be empty; received only white space or nothing"
    rules: tuple[Rule, ...] = (
        (id_bytes == 0, lambda _: "an id must not be empty; received none"),
        too_long("an id", id_bytes, MOST_ID_BYTES),
        too_long("a question", question_bytes, MOST_QUESTION_BYTES),
        too_long("a context", context_bytes, MOST_CONTEXT_BYTES, ": cut it into documents"),
        (repeated, lambda row: f"ids must be unique; received {shown(ids[row].as_py())} again"),
        (_blank(questions), lambda _: f"a question {blank}"),
        (_blank(contexts)[context_index], lambda _: f"a context {blank}"),
        (uneven, lambda _: "answers need as many answer_start as text; received lists of different lengths"),
        (
            _with_nulls(answers),
            lambda _: "an answer must have a text and an answer_start; received null for one of them",
        ),
        (
            _blank(first_answers) & (status != text.ANSWER_OK),
            lambda _: f"an answer's text {blank}: leave the answers empty if there is none",
        ),
    )
    reasons: dict[int, str] = {}
    for broken, reason in rules:
        for row in np.flatnonzero(broken).tolist():
            if row not in reasons:
                reasons[row] = reason(row)

    misplaced = [row for row in np.flatnonzero(status != text.ANSWER_OK).tolist() if row not in reasons]
    spans = _spans(contexts, context_index, first_answers, starts, status, misplaced) if misplaced else {}
    repairs: dict[int, Repair] = {}
    moved: dict[int, tuple[int, str]] = {}
    for row in misplaced:
        name, answer = ids[row].as_py(), first_answers[row].as_py()
        context, given, span = contexts[int(context_index[row])].as_py(), int(starts[row]), spans[row]
        if span is not None:
            moved[row] = span.begin, context[span.begin : span.end]
            given = -1 if given == -2 else given
            change = f"{shown(answer)} at {given} became {shown(moved[row][1])} at {span.begin}"
            repairs[row] = Repair(name, span.cause, change)
            continue
        why = _misplaced(context, answer, given, int(status[row]))
        if scored:
            repairs[row] = Repair(name, UNPLACED, why)
        else:
            reasons[row] = why
    if moved:
        answers = _with_first_answers(answers, moved)
    if repairs:
        starts, first_answers, _ = _first_answers(answers)
        is_unplaced = np.zeros(len(ids), bool)
        is_unplaced[[row for row in repairs if row not in moved]] = True
        starts[is_unplaced] = -1
        first_answers = pc.if_else(pa.array(is_unplaced), pa.scalar(None, first_answers.type), first_answers)
        _, span_start, span_end = check_spans(contexts, context_index, first_answers, starts)

    examples = Examples(
        ids, questions, contexts, context_index, answers, starts, _chars(first_answers), span_start, span_end
    )  # fmt: skip
    good = np.ones(len(ids), bool)
    good[list(reasons)] = False
    rows = np.flatnonzero(good)
    if reasons:
        examples = examples.take(rows)
    # An id that is too long is left out of the report too.
    names = {row: "" if id_bytes[row] > MOST_ID_BYTES else str(ids[row].as_py()) for row in sorted(reasons)}
    rejects = {row: Reject(name, reasons[row]) for row, name in names.items()}
    return Checked(examples.without_unused_contexts(), rows, rejects, repairs)


def _bytes(strings: pa.Array) -> Int64s:
    """Return the size of each text in UTF-8, int64[n]."""
    return text_buffers(strings).lengths


def leading_space(strings: pa.Array) -> tuple[Int64s, Int32s]:
    """Return the white space that `str.lstrip` takes off each text: bytes int64[n] and characters int32[n]."""
    flat = text_buffers(strings)
    out_bytes, out_chars = np.zeros(len(strings), np.int64), np.zeros(len(strings), np.int32)
    text.measure_leading_space(flat.values, flat.offsets, out_bytes, out_chars)
    return out_bytes, out_chars


def _blank(strings: pa.Array) -> np.ndarray:
    """Return bool[n]: texts of nothing but white space."""
    space, _ = leading_space(strings)
    return np.asarray(space == _bytes(strings))


def _chars(strings: pa.Array) -> Int32s:
    flat = text_buffers(strings)
    out = np.zeros(len(strings), np.int32)
    text.count_chars(flat.values, flat.offsets, out)
    return out


def _first_answers(answers: pa.Array) -> tuple[Int64s, pa.Array, np.ndarray]:
    """Return start int64[E] (-1: none) and text [E] (null: none) of the first answers, and bool[E] of uneven lists."""
    texts, starts = answers.field("text"), answers.field("answer_start")
    counts, start_counts = list_lengths(texts), list_lengths(starts)
    has = (counts > 0) & (start_counts > 0)
    text_rows = pa.array(texts.offsets.to_numpy()[:-1], mask=~has)
    start_rows = pa.array(starts.offsets.to_numpy()[:-1], mask=~has)
    first_text = texts.values.take(text_rows)
    first_start = pc.fill_null(starts.values.take(start_rows), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    # A start of -1 in the data must not read as "unanswerable".
    first_start[has & (first_start == -1)] = -2
    return first_start, first_text, counts != start_counts


def _with_nulls(answers: pa.Array) -> np.ndarray:
    """Return bool[E]: rows with a null among the texts or starts of their answers."""
    out = np.zeros(len(answers), bool)
    for name in ("text", "answer_start"):
        lists = answers.field(name)
        values = lists.flatten()
        if values.null_count:
            row_of = np.repeat(np.arange(len(lists)), list_lengths(lists))
            out[row_of[values.is_null().to_numpy(zero_copy_only=False)]] = True
    return out


def check_spans(
    contexts: pa.Array, context_index: Int32s, answers: pa.Array, starts: Int64s
) -> tuple[np.ndarray, Int32s, Int32s]:
    """Compare answers with the text at their starts.

    Args:
        contexts: Texts [D].
        context_index: int32[n], the context of each answer.
        answers: Texts [n]; null: none.
        starts: int64[n], in characters; -1: none.

    Returns:
        Status uint8[n] (see `kernels.text`), and the answers without white space at their ends: start and end int32[n].
    """
    context_text, answer_text = text_buffers(contexts), text_buffers(answers)
    context_chars = _chars(contexts)
    rows = len(context_index)
    status, span_start, span_end = np.zeros(rows, np.uint8), np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    text.check_answers(
        context_text.values, context_text.offsets, context_chars, context_index, answer_text.values,
        answer_text.offsets, starts, status, span_start, span_end,
    )  # fmt: skip
    return status, span_start, span_end


def _spans(
    contexts: pa.Array,
    context_index: Int32s,
    answers: pa.Array,
    starts: Int64s,
    status: np.ndarray,
    misplaced: list[int],
) -> dict[int, Span | None]:
    """Find the places of the first answers of the `misplaced` rows, context by context."""
    standing: dict[int, list[tuple[int, str]]] = defaultdict(list)
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in misplaced:
        rows_of[int(context_index[row])].append(row)
    is_neighbour = np.isin(context_index, list(rows_of)) & (status == text.ANSWER_OK) & (starts >= 0)
    for row in np.flatnonzero(is_neighbour).tolist():
        standing[int(context_index[row])].append((int(starts[row]), answers[row].as_py()))
    spans: dict[int, Span | None] = {}
    for context, rows in rows_of.items():
        pairs = [(int(starts[row]), answers[row].as_py()) for row in rows]
        spans.update(zip(rows, find_spans(contexts[context].as_py(), pairs, standing[context]), strict=True))
    return spans


def _misplaced(context: str, answer: str, start: int, status: int) -> str:
    occurs = answer.strip() in context
    elsewhere = "which place in the context is meant is not certain" if occurs else "the text is nowhere in the context"
    if status == text.ANSWER_OUTSIDE:
        at = -1 if start == -2 else start
        return f"answer_start must be inside the context of {len(context)} characters; received {at}, and {elsewhere}"
    there = shown(context[start : start + len(answer)])
    return (
        f"the answer's text must be in the context at answer_start={start}; received {shown(answer)}, the context has "
        f"{there} there, and {elsewhere}"
    )


def _with_first_answers(answers: pa.Array, repaired: dict[int, tuple[int, str]]) -> pa.Array:
    """Return the answers with the first `answer_start` and `text` of the given rows, in increasing order, replaced."""
    texts, starts = answers.field("text"), answers.field("answer_start")
    rows = np.fromiter(repaired, np.int64)
    new_starts, new_texts = zip(*repaired.values(), strict=True)
    fixed = []
    for lists, new in ((texts, pa.array(new_texts, pa.string())), (starts, pa.array(new_starts, pa.int32()))):
        is_new = np.zeros(len(lists.values), bool)
        is_new[lists.offsets.to_numpy()[rows]] = True
        fixed.append(pa.ListArray.from_arrays(lists.offsets, pc.replace_with_mask(lists.values, pa.array(is_new), new)))
    return pa.StructArray.from_arrays(fixed, fields=list(ANSWERS_TYPE))
