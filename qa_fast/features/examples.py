"""Examples as flat buffers, checked: what is right goes on, what is wrong is rejected with its reason.

`check_examples` takes one table of raw examples (columns of `EXAMPLES`) and returns the good rows as
`Examples`, ready for the kernels, and a `Reject` for each other row. Checks run in kernels over whole columns;
Python looks only at the rows that failed one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import one_chunk, text_buffers, used_rows
from qa_fast.errors import shown
from qa_fast.kernels import hashing, text
from qa_fast.raw import ANSWERS_TYPE, Reject
from qa_fast.schema import Int32s, Int64s

# Longest texts in bytes of UTF-8: working memory is some fifty times a context's bytes, more of a question's. No
# model takes a question of a thousandth of this, and books are a tenth of such a context.
MOST_CONTEXT_BYTES = 1 << 24
MOST_QUESTION_BYTES = 1 << 20
MOST_ID_BYTES = 1 << 16


@dataclass(frozen=True)
class Examples:
    """E checked examples over D distinct contexts.

    Attributes:
        ids: string [E].
        questions: string [E], as given.
        contexts: string [D], as given.
        context_index: int32[E].
        answers: struct [E] of `ANSWERS_TYPE`, repaired where a repair was made.
        answer_char_start: int64[E], first answer's start in characters of the context as given; -1: unanswerable.
        answer_chars: int32[E], first answer's length in characters; 0: unanswerable.
        span_start: int32[E], first answer without white space at its ends, in the context as given; -1: unanswerable.
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
        """The given rows, in that order; contexts stay as they are."""
        indices = pa.array(rows)
        return replace(
            self,
            ids=self.ids.take(indices),
            questions=self.questions.take(indices),
            context_index=self.context_index[rows],
            answers=self.answers.take(indices),
            answer_char_start=self.answer_char_start[rows],
            answer_chars=self.answer_chars[rows],
            span_start=self.span_start[rows],
            span_end=self.span_end[rows],
        )

    def without_unused_contexts(self) -> Examples:
        """The same examples over the contexts that they use, so that no others are encoded and stored."""
        rows, index = used_rows(self.context_index, len(self.contexts))
        if len(rows) == len(self.contexts):
            return self
        return replace(self, contexts=self.contexts.take(pa.array(rows)), context_index=index)


def id_hashes(ids: pa.Array) -> np.ndarray:
    """uint64[2n]: 127 bits of hash of each text, high and low word (see `kernels.hashing`)."""
    flat, out = text_buffers(ids), np.zeros(2 * len(ids), np.uint64)
    hashing.hash_texts(flat.values, flat.offsets, out)
    return out


class IdSet:
    """The ids seen so far, at 18 to 37 bytes each (see `kernels.hashing`)."""

    def __init__(self) -> None:
        self._slots = np.zeros(2 * (1 << 12), np.uint64)
        self._entries = 0

    def add(self, ids: pa.Array) -> np.ndarray:
        """Remember the ids.

        Args:
            ids: string [n].

        Returns:
            bool[n], True where the id came before, in this call or an earlier one.
        """
        return self.add_hashes(id_hashes(ids))

    def add_hashes(self, hashes: np.ndarray) -> np.ndarray:
        """As `add`, of ids hashed already: uint64[2n]."""
        rows, capacity = len(hashes) // 2, len(self._slots) // 2
        while 8 * (self._entries + rows) > 7 * capacity:  # fuller is slower, emptier takes more memory
            capacity *= 2
        if 2 * capacity > len(self._slots):
            larger = np.zeros(2 * capacity, np.uint64)
            hashing.copy_set(self._slots, larger)
            self._slots = larger
        repeated = np.zeros(rows, np.uint8)
        hashing.mark_repeats(hashes, self._slots, repeated)
        self._entries += rows - int(repeated.sum())
        return repeated.astype(bool)


def check_examples(table: pa.Table, repeated: np.ndarray) -> tuple[Examples, list[Reject], int]:
    """Check a table of raw examples.

    Args:
        table: Columns of `EXAMPLES`; E rows.
        repeated: bool[E], rows whose id came before, as `IdSet.add` says.

    Returns:
        The good examples, the rejects in row order, and how many first answers were repaired: an answer that does not
        stand at its start is put where `_place` finds it. Other answers are not looked at.
    """
    ids, questions = one_chunk(table["id"]), one_chunk(table["question"])
    context_column, answers = one_chunk(table["context"]), one_chunk(table["answers"])
    contexts = context_column.dictionary
    context_index = context_column.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)

    blank_question = _blank(questions)
    blank_context = _blank(contexts)[context_index]
    starts, first_answers, uneven = _first_answers(answers)
    nulls = _with_nulls(answers)
    id_bytes, question_bytes, context_bytes = (_bytes(texts) for texts in (ids, questions, contexts))
    nameless, long_id = id_bytes == 0, id_bytes > MOST_ID_BYTES
    too_long = long_id | (question_bytes > MOST_QUESTION_BYTES) | (context_bytes > MOST_CONTEXT_BYTES)[context_index]
    status, span_start, span_end = _check_spans(contexts, context_index, first_answers, starts)

    reasons: dict[int, str] = {}
    repaired: dict[int, tuple[int, str]] = {}
    wrong = (
        nameless | too_long | repeated | blank_question | blank_context | uneven | nulls | (status != text.ANSWER_OK)
    )
    for row in np.flatnonzero(wrong).tolist():
        if nameless[row]:
            reasons[row] = "an id must not be empty; received none"
        elif too_long[row]:
            reasons[row] = _too_long(
                int(id_bytes[row]), int(question_bytes[row]), int(context_bytes[context_index[row]])
            )
        elif repeated[row]:
            reasons[row] = f"ids must be unique; received {shown(ids[row].as_py())} again"
        elif blank_question[row]:
            reasons[row] = "a question must not be empty; received only white space or nothing"
        elif blank_context[row]:
            reasons[row] = "a context must not be empty; received only white space or nothing"
        elif uneven[row]:
            reasons[row] = "answers need as many answer_start as text; received lists of different lengths"
        elif nulls[row]:
            reasons[row] = "an answer must have a text and an answer_start; received null for one of them"
        elif not (answer := first_answers[row].as_py()).strip():
            reasons[row] = "an answer's text must not be empty; received only white space or nothing"
        else:
            context = contexts[int(context_index[row])].as_py()
            place = _place(context, answer, int(starts[row]))
            if place is None:
                reasons[row] = _misplaced(context, answer, int(starts[row]), int(status[row]))
            else:
                repaired[row] = place
    if repaired:
        answers = _with_first_answers(answers, repaired)
        starts, first_answers, _ = _first_answers(answers)
        _, span_start, span_end = _check_spans(contexts, context_index, first_answers, starts)

    examples = Examples(
        ids, questions, contexts, context_index, answers, starts, _chars(first_answers), span_start, span_end
    )  # fmt: skip
    if reasons:
        good = np.ones(len(ids), bool)
        good[list(reasons)] = False
        examples = examples.take(np.flatnonzero(good))
    examples = examples.without_unused_contexts()
    rejects = [Reject("" if long_id[row] else str(ids[row].as_py()), reason) for row, reason in reasons.items()]
    return examples, rejects, len(repaired)


def _bytes(strings: pa.Array) -> Int64s:
    """int64[n]: of each text, in UTF-8."""
    return np.diff(text_buffers(strings).offsets)


def _too_long(of_id: int, of_question: int, of_context: int) -> str:
    if of_id > MOST_ID_BYTES:
        return f"an id must be at most {MOST_ID_BYTES:,} bytes; received {of_id:,}"
    if of_question > MOST_QUESTION_BYTES:
        return f"a question must be at most {MOST_QUESTION_BYTES:,} bytes; received {of_question:,}"
    return f"a context must be at most {MOST_CONTEXT_BYTES:,} bytes; received {of_context:,}: cut it into documents"


def leading_space(strings: pa.Array) -> tuple[Int64s, Int32s]:
    """White space at each text's start, as `str.lstrip` counts it: bytes int64[n] and characters int32[n]."""
    flat = text_buffers(strings)
    out_bytes, out_chars = np.zeros(len(strings), np.int64), np.zeros(len(strings), np.int32)
    text.measure_leading_space(flat.values, flat.offsets, out_bytes, out_chars)
    return out_bytes, out_chars


def _blank(strings: pa.Array) -> np.ndarray:
    """bool[n]: nothing but white space."""
    out_bytes, _ = leading_space(strings)
    return np.asarray(out_bytes == np.diff(text_buffers(strings).offsets))


def _chars(strings: pa.Array) -> Int32s:
    flat = text_buffers(strings)
    out = np.zeros(len(strings), np.int32)
    text.count_chars(flat.values, flat.offsets, out)
    return out


def _first_answers(answers: pa.Array) -> tuple[Int64s, pa.Array, np.ndarray]:
    """Start int64[E] (-1: none) and text string [E] (null: none) of each first answer, and rows with uneven lists."""
    texts, starts = answers.field("text"), answers.field("answer_start")
    counts = pc.fill_null(pc.list_value_length(texts), 0).to_numpy(zero_copy_only=False)
    start_counts = pc.fill_null(pc.list_value_length(starts), 0).to_numpy(zero_copy_only=False)
    has = (counts > 0) & (start_counts > 0)
    text_rows = pa.array(texts.offsets.to_numpy()[:-1], mask=~has)
    start_rows = pa.array(starts.offsets.to_numpy()[:-1], mask=~has)
    first_text = texts.values.take(text_rows)
    first_start = pc.fill_null(starts.values.take(start_rows), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    # A start of -1 in the data must not read as "unanswerable".
    first_start[has & (first_start == -1)] = -2
    return first_start, first_text, counts != start_counts


def _with_nulls(answers: pa.Array) -> np.ndarray:
    """bool[E]: rows with a null among their answers' texts or starts."""
    out = np.zeros(len(answers), bool)
    for name in ("text", "answer_start"):
        lists = answers.field(name)
        values = lists.flatten()
        if values.null_count:
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
            row_of = np.repeat(np.arange(len(lists)), lengths)
            out[row_of[values.is_null().to_numpy(zero_copy_only=False)]] = True
    return out


def _check_spans(
    contexts: pa.Array, context_index: Int32s, answers: pa.Array, starts: Int64s
) -> tuple[np.ndarray, Int32s, Int32s]:
    context_text, answer_text = text_buffers(contexts), text_buffers(answers)
    context_chars = _chars(contexts)
    rows = len(context_index)
    status, span_start, span_end = np.zeros(rows, np.uint8), np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    text.check_answers(
        context_text.values, context_text.offsets, context_chars, context_index, answer_text.values,
        answer_text.offsets, starts, status, span_start, span_end,
    )  # fmt: skip
    return status, span_start, span_end


def _place(context: str, answer: str, start: int) -> tuple[int, str] | None:
    """Where a misplaced answer stands, and its text there; None where that is not certain.

    White space at an answer's ends says nothing about its place: files are full of answers that were given or lost
    some after they were marked. So an answer is at its start if it is there but for white space, however often it
    stands elsewhere; then at most one place comes into question, behind the white space that the context has there.
    Failing that, it is wherever it stands as the only one: as given, else without white space at its ends.
    White space inside an answer is part of it.
    """
    stripped = answer.strip()
    if start >= 0:
        behind_space = len(context) - len(context[start:].lstrip())
        if context.startswith(stripped, behind_space):
            return behind_space, stripped
    for text_there in (answer, stripped):
        first = context.find(text_there)
        if first >= 0 and context.find(text_there, first + 1) < 0:
            return first, text_there
    return None


def _misplaced(context: str, answer: str, start: int, status: int) -> str:
    is_there = answer.strip() in context
    found = "it stands in several places elsewhere" if is_there else "it is nowhere in the context"
    if status == text.ANSWER_OUTSIDE:
        at = -1 if start == -2 else start
        return f"answer_start must lie inside the context of {len(context)} characters; received {at}, and {found}"
    there = context[start : start + len(answer)]
    received = f"received {shown(answer)}, there is {shown(there)}"
    return f"the answer's text must stand at answer_start={start}; {received}, and {found}"


def _with_first_answers(answers: pa.Array, repaired: dict[int, tuple[int, str]]) -> pa.Array:
    """The answers with the first `answer_start` and `text` of the given rows, which increase, replaced."""
    texts, starts = answers.field("text"), answers.field("answer_start")
    rows = np.fromiter(repaired, np.int64)
    new_starts, new_texts = zip(*repaired.values(), strict=True)
    fixed = []
    for lists, new in ((texts, pa.array(new_texts, pa.string())), (starts, pa.array(new_starts, pa.int32()))):
        is_new = np.zeros(len(lists.values), bool)
        is_new[lists.offsets.to_numpy()[rows]] = True
        fixed.append(pa.ListArray.from_arrays(lists.offsets, pc.replace_with_mask(lists.values, pa.array(is_new), new)))
    return pa.StructArray.from_arrays(fixed, fields=list(ANSWERS_TYPE))
