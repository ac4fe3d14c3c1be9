"""Checks of examples: what goes on, what is rejected and why, what is repaired."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.buffers import one_chunk
from qa_fast.features.examples import (
    MOST_CONTEXT_BYTES,
    MOST_ID_BYTES,
    MOST_QUESTION_BYTES,
    Examples,
    IdSet,
    check_examples,
    leading_space,
)
from qa_fast.features.repairs import is_whole
from qa_fast.raw import ANSWERS_TYPE, CONTEXT_TYPE, EXAMPLES, Reject
from tests import sample


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    columns = [
        pa.array([row["id"] for row in rows], pa.string()),
        pa.array([row["question"] for row in rows], pa.string()),
        pa.array([row["context"] for row in rows], pa.string()).dictionary_encode().cast(CONTEXT_TYPE),
        pa.array([row["answers"] for row in rows], ANSWERS_TYPE),
    ]
    return pa.Table.from_arrays(columns, schema=EXAMPLES)


def row(context: str = "The bell rings.", answer: str | None = "bell", start: int | None = 4, **others: Any) -> dict:
    answers = {"text": [], "answer_start": []} if answer is None else {"text": [answer], "answer_start": [start]}
    return {"id": "a", "question": "What rings?", "context": context, "answers": answers, **others}


def checked(table: pa.Table, seen: IdSet) -> tuple[Examples, list[Reject], int]:
    found = check_examples(table, seen.add(one_chunk(table["id"])))
    return found.examples, list(found.rejects.values()), len(found.repairs)


def check(*rows: dict[str, Any]) -> tuple[Examples, list[Reject], int]:
    return checked(table_of(list(rows)), IdSet())


def test_good_examples_go_on_as_they_are() -> None:
    rows = sample.rows()
    examples, rejects, repaired = check(*rows)
    assert not rejects
    assert not repaired
    assert examples.ids.to_pylist() == [each["id"] for each in rows]
    assert examples.questions.to_pylist() == [each["question"] for each in rows]
    assert examples.contexts.to_pylist() == [context for context, _ in sample.DOCUMENTS]
    assert examples.answers.to_pylist() == [each["answers"] for each in rows]
    for at, each in enumerate(rows):
        context, answer = each["context"], each["answers"]["text"][0]
        assert examples.contexts[examples.context_index[at]].as_py() == context
        assert examples.answer_char_start[at] == context.index(answer)
        assert examples.answer_chars[at] == len(answer)
        assert context[examples.span_start[at] : examples.span_end[at]] == answer.strip()


def test_texts_of_any_length_are_rejected_not_worked_on() -> None:
    long = "x" * (MOST_CONTEXT_BYTES + 1)
    rows = [
        row(id="c", context=long, answer=None),
        row(id="q", question="x" * (MOST_QUESTION_BYTES + 1)),
        row(id="i" * (MOST_ID_BYTES + 1)),
        row(id="good", context=long[1:], answer=None),
        row(id="far", answer="y" * 10_000, start=2),
    ]
    examples, rejects, _ = check(*rows)
    assert examples.ids.to_pylist() == ["good"]
    assert [reject.id for reject in rejects] == ["c", "q", "", "far"]
    assert [reject.reason.partition(";")[0] for reject in rejects[:3]] == [
        "a context must be at most 16,777,216 bytes",
        "a question must be at most 1,048,576 bytes",
        "an id must be at most 65,536 bytes",
    ]
    assert all(len(reject.reason) < 300 for reject in rejects)


def test_unanswerable_examples_have_no_span() -> None:
    examples, rejects, _ = check(row(answer=None))
    assert not rejects
    assert examples.answer_char_start.tolist() == [-1]
    assert examples.answer_chars.tolist() == [0]
    assert examples.span_start.tolist() == [-1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(id=""), "an id must not be empty"),
        (row(question=""), "a question must not be empty"),
        (row(question=" \u3000\n"), "a question must not be empty"),
        (row(context=""), "a context must not be empty"),
        (row(context="\t \u00a0"), "a context must not be empty"),
        (row(answer=""), "an answer's text must not be empty"),
        (row(answer=" ", start=3), "an answer's text must not be empty"),
        (row(answer=" ", start=4), "an answer's text must not be empty"),  # occurs elsewhere, twice
        (row(context="ab cd", answer=" ", start=0), "an answer's text must not be empty"),  # occurs elsewhere, once
        (row(answer="\u200b"), "'\\u200b', the context has 'b' there, and the text is nowhere in the context"),
        (row(answer="gull"), "at answer_start=4; received 'gull', the context has 'bell' there, and the"),
        (
            row("a g, a g", "g", start=999),
            "must be inside the context of 8 characters; received 999, and which place",
        ),
        (
            row(answer="gull", start=-1),
            "must be inside the context of 15 characters; received -1, and the text is nowhere",
        ),
        (
            row(answer="gull", start=16),
            "must be inside the context of 15 characters; received 16, and the text is nowhere",
        ),
        (
            row(answer="gull", start=15),
            "at answer_start=15; received 'gull', the context has '' there, and the",
        ),
        (row(answer="gull", start=2**31 - 1), "must be inside the context of 15 characters; received 2147483647"),
        (row(context="a bell, a bell", start=3), "received 'bell', the context has 'ell,' there, and which place"),
        (
            row(context="a bell, a bell", start=99),
            "received 99, and which place in the context is meant is not certain",
        ),
        (
            row(context="aaaa", answer="aaa", start=3),
            "and which place in the context is meant is not certain",
        ),  # they overlap
        # -1 does not count from the end, where a "b" follows white space.
        (row(context="a b b", answer="b\n", start=-1), "received -1, and which place in the context"),
        (row(context="a (bell), (bell)", answer=" bell", start=2), "received ' bell', the context has '(bell' there"),
        (row(context="A mill. " + 40 * "-" + "!", answer="mill", start=40), "and which place"),  # far
        (row(context="The windmill.", answer="mill", start=3), "and which place"),  # only in a word
        (row(context="Ane Skov came. Ane Skou left.", answer="Ane Skou", start=0), "and which place"),  # misspelled
        (row(answers={"text": ["bell"], "answer_start": []}), "lists of different lengths"),
        (row(answers={"text": [], "answer_start": [4]}), "lists of different lengths"),
        (row(answers={"text": ["bell", "ring"], "answer_start": [4]}), "lists of different lengths"),
        (row(answers={"text": [None], "answer_start": [4]}), "received null for one of them"),
        (row(answers={"text": ["bell"], "answer_start": [None]}), "received null for one of them"),
        (row(answers={"text": ["bell", None], "answer_start": [4, 4]}), "received null for one of them"),
    ],
)
def test_bad_examples_are_rejected_alone(bad: dict[str, Any], reason: str) -> None:
    before, after = row(id="before"), row(id="after")
    examples, rejects, repaired = check(before, bad, after)
    assert examples.ids.to_pylist() == ["before", "after"]
    assert examples.span_start.tolist() == [4, 4]
    ((row_id, why),) = [(reject.id, reject.reason) for reject in rejects]
    assert row_id == bad["id"]
    assert reason in why
    assert not repaired


@pytest.mark.parametrize("start", [-2, -1, 0, 3, 5, 14, 15, 16, 2**31 - 1])
@pytest.mark.parametrize("context", ["The bell rings.", "Das Glöckl läutet, 🔔 rings: the bell"])
def test_an_answer_that_stands_elsewhere_once_is_shifted_there(context: str, start: int) -> None:
    good, bad = row(context, "bell", context.index("bell"), id="good"), row(context, "bell", start)
    examples, rejects, repaired = check(good, bad)
    assert not rejects
    assert repaired == 1
    assert examples.answer_char_start.tolist() == [context.index("bell")] * 2
    assert examples.span_start.tolist() == [context.index("bell")] * 2
    assert examples.answers.to_pylist() == [good["answers"]] * 2


@pytest.mark.parametrize(
    ("context", "answer", "start", "place"),
    [  # each text also occurs elsewhere, some of them as given
        ("all 7.5 days of 7.5 days or 7.5 days", " 7.5 days", 16, 16),
        ("Ane Skou, that is Ane Skou of Skagen", "Ane Skou ", 0, 0),
        ("a bell, a bell", "bell", 1, 2),
        ("a bell, a bell", "\n\tbell ", 1, 2),
        ("a \n\u3000\u00a0\x1cbell, a bell", "\u2003bell", 1, 6),
        ("a \n\u3000\u00a0\x1cbell, a bell", "bell", 3, 6),
        (" bell, a bell", "bell ", 0, 1),  # at a context's start
        ("bell, a bell", "\u00a0bell\u3000", 0, 0),
        ("bell, a bell", "bell\n", 8, 8),  # at its end
        ("bell, a bell", " bell ", 7, 8),
        ("bells toll: a bell tolls", "bell tolls ", 14, 14),
        ("🔔🔔 läutet: 🔔 🔔", "🔔\u3000", 1, 1),
        ("🔔🔔 läutet: 🔔 🔔", " 🔔 ", 12, 13),
        ("e\u0301t e\u0301t", "e\u0301t ", 4, 4),
        ("港に港がある、港 ", "港 ", 2, 2),
    ],
)
def test_white_space_at_an_answers_ends_says_nothing_about_its_place(
    context: str, answer: str, start: int, place: int
) -> None:
    examples, rejects, repaired = check(row(), row(context, answer, start, id="b"))
    stripped = answer.strip()
    assert not rejects
    assert repaired == 1
    assert examples.answers.to_pylist()[1] == {"text": [stripped], "answer_start": [place]}
    assert context[place : place + len(stripped)] == stripped
    assert (examples.answer_char_start[1], examples.answer_chars[1]) == (place, len(stripped))
    assert (examples.span_start[1], examples.span_end[1]) == (place, place + len(stripped))


def test_only_the_first_of_several_answers_is_shifted() -> None:
    bad = row(answers={"text": ["rings", "bell"], "answer_start": [8, 4]}, id="b")
    other = row(answers={"text": ["bell", None], "answer_start": [4, None]}, id="c")
    examples, rejects, repaired = check(row(), bad, other)
    assert examples.answers.to_pylist()[1] == {"text": ["rings", "bell"], "answer_start": [9, 4]}
    assert [reject.id for reject in rejects] == ["c"]
    assert repaired == 1


def test_a_repair_in_a_slice_of_a_longer_table() -> None:
    rows = [row(id=str(i)) for i in range(6)]
    rows[3]["answers"] = {"text": [" bell"], "answer_start": [4]}
    rows[4]["answers"]["answer_start"] = [1]
    examples, _, repaired = checked(table_of(rows).slice(3, 3), IdSet())
    assert repaired == 2
    assert examples.answers.to_pylist() == [row()["answers"]] * 3


def test_answers_lose_white_space_at_their_ends_in_the_span_alone() -> None:
    examples, _, _ = check(row(answer=" bell ", start=3))
    assert (examples.answer_char_start[0], examples.answer_chars[0]) == (3, 6)
    assert (examples.span_start[0], examples.span_end[0]) == (4, 8)


def test_repeated_ids_are_rejected_within_and_across_tables() -> None:
    seen = IdSet()
    examples, rejects, _ = checked(table_of([row(id="x"), row(id="y"), row(id="x")]), seen)
    assert examples.ids.to_pylist() == ["x", "y"]
    assert rejects == [Reject("x", "ids must be unique; received 'x' again")]
    examples, rejects, _ = checked(table_of([row(id="z"), row(id="y")]), seen)
    assert examples.ids.to_pylist() == ["z"]
    assert rejects == [Reject("y", "ids must be unique; received 'y' again")]


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=3) | st.integers(0, 9000).map(str), max_size=30), max_size=6))
def test_an_id_set_is_a_set(calls: list[list[str]]) -> None:
    ids, seen = IdSet(), set()
    for names in calls:
        expected = []
        for name in names:
            expected.append(name in seen)
            seen.add(name)
        assert ids.add(pa.array(names, pa.string())).tolist() == expected


def test_an_id_set_grows() -> None:
    ids = IdSet()
    for begin in range(0, 60_000, 7_000):
        assert not ids.add(pa.array([f"id-{i}" for i in range(begin, begin + 7_000)])).any()
    assert ids.add(pa.array([f"id-{i}" for i in range(60_000)])).all()


def test_contexts_that_no_example_uses_are_left_out() -> None:
    rows = [row(f"{i}: a bell.", "bell", 5, id=str(i)) for i in range(6)]
    rows[3]["question"] = ""
    examples, _, _ = checked(table_of(rows).slice(2, 3), IdSet())
    assert examples.contexts.to_pylist() == ["2: a bell.", "4: a bell."]
    assert examples.context_index.tolist() == [0, 1]


def test_no_rows_at_all() -> None:
    examples, rejects, repaired = check()
    assert (len(examples), rejects, repaired) == (0, [], 0)


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from(" \t\n\x1c\x85\u00a0\u2003\u3000\u200baé港🚢"), max_size=8), max_size=8))
def test_leading_space_is_what_lstrip_takes(texts: list[str]) -> None:
    in_bytes, in_chars = leading_space(pa.array(texts, pa.string()))
    taken = [text[: len(text) - len(text.lstrip())] for text in texts]
    assert in_chars.tolist() == [len(space) for space in taken]
    assert in_bytes.tolist() == [len(space.encode()) for space in taken]


CONTEXTS = st.text(st.sampled_from("aAb é港🚢"), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(CONTEXTS, st.text(st.sampled_from("ab é港🚢"), max_size=4), st.integers(-3, 14)), max_size=8))
def test_every_example_is_good_repaired_or_rejected_for_cause(cases: list[tuple[str, str, int]]) -> None:
    rows = [row(context, answer, start, id=str(i)) for i, (context, answer, start) in enumerate(cases)]
    found = check_examples(table_of(rows), np.zeros(len(rows), bool))
    examples = found.examples
    assert sorted([*found.rows.tolist(), *found.rejects]) == list(range(len(rows)))
    assert all(repair.id == str(at) for at, repair in found.repairs.items())
    for at, number in enumerate(found.rows.tolist()):
        context, answer, start = cases[number]
        begin, (text,) = int(examples.answer_char_start[at]), examples.answers[at]["text"].as_py()
        assert examples.answers[at]["answer_start"].as_py() == [begin]
        assert (examples.answer_chars[at], context[begin : begin + len(text)]) == (len(text), text)
        span = int(examples.span_start[at]), int(examples.span_end[at])
        assert context[slice(*span)] == text.strip() != ""
        is_right = start >= 0 and context.startswith(answer, start)
        assert is_right == (number not in found.repairs)
        if is_right:
            assert (begin, text) == (start, answer)
            continue
        assert " ".join(text.casefold().split()) == " ".join(answer.casefold().split())
        in_place = start >= 0 and not context[start:begin].strip()
        assert in_place or is_whole(context, *span)
    for number in found.rejects:
        context, answer, start = cases[number]
        assert start < 0 or not context.startswith(answer, start) or not context.strip() or not answer.strip()


SPACE = st.text(st.sampled_from(" \n\x85\u00a0\u3000"), max_size=3)
SOLID = st.text(st.sampled_from("ab\u0301港🚢"), min_size=1, max_size=3)


@settings(deadline=None)
@given(
    before=st.text(st.sampled_from("ab \n\u0301港🚢"), max_size=8),
    stripped=SOLID | st.tuples(SOLID, SPACE, SOLID).map("".join),
    after=st.text(st.sampled_from("ab \n\u0301港🚢"), max_size=8),
    space=st.tuples(SPACE, SPACE, SPACE),
    back=st.integers(0, 3),
)
def test_an_answer_is_at_its_start_whatever_white_space_it_gained_or_lost(
    before: str, stripped: str, after: str, space: tuple[str, str, str], back: int
) -> None:
    context = before + space[0] + stripped + after
    place = len(before + space[0])
    answer, start = space[1] + stripped + space[2], place - min(back, len(space[0]))
    examples, rejects, repaired = check(row(context, answer, start))
    assert not rejects
    as_given = context.startswith(answer, start)
    assert repaired == (not as_given)
    expected = (answer, start) if as_given else (stripped, place)
    assert examples.answers.to_pylist() == [{"text": [expected[0]], "answer_start": [expected[1]]}]
    assert (examples.span_start[0], examples.span_end[0]) == (place, place + len(stripped))
