"""Repairs of answers that are not at their start: what moves them, and what must not."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.repairs import DAMAGES, documents, measured
from qa_fast.features.examples import check_examples
from qa_fast.features.repairs import find_spans, is_whole
from qa_fast.raw import EXAMPLES, UNPLACED
from tests import sample

MILL = "The mill at Osby was rebuilt in 1887 by Karin Holm."


def found(context: str, misplaced: list[tuple[int, str]], *standing: str) -> list[tuple[str, str] | None]:
    """The texts at the repaired places with the causes; `standing` are answers at their right starts."""
    spans = find_spans(context, misplaced, [(context.index(text), text) for text in standing])
    return [span and (context[span.begin : span.end], span.cause) for span in spans]


@pytest.mark.parametrize(
    ("context", "start", "answer", "expected"),
    [
        ("The Mill was old. Later a windmill came.", 4, "mill", ("Mill", "case")),
        ("The Mill was old. Later a mill came.", 4, "mill", ("Mill", "case")),
        ("STRASSE und Straße", 12, "strasse", ("Straße", "case")),
        ("by Karin\u00a0Holm, not Karin Holm", 3, "Karin Holm", ("Karin\u00a0Holm", "white_space")),
        ("by Karin\n Holm", 3, "Karin Holm ", ("Karin\n Holm", "white_space")),
        ("the cafe\u0301, a café", 4, "café", ("cafe\u0301", "normal_form")),
        ("the café, a cafe\u0301", 4, "cafe\u0301", ("café", "normal_form")),
        ("서울은 크다", 1, "서울", ("서울", "shifted")),  # a particle follows without a space
        ("東京都は大きい", 0, "京都", ("京都", "no_start")),  # no spaces at all
        ("The windmill.", 2, "mill", None),
        ("It is 17.5 high.", 2, "17", None),
        ("the cafe\u0301", 1, "cafe", None),  # the mark belongs to the character
        ("A mill. " + "-" * 60, 60, "mill", None),  # too far
        ("A mill. " + "-" * 60, 90, "mill", ("mill", "no_start")),
        ("Karin Holt came, then Karin Holm.", 0, "Karin Holm", None),  # perhaps misspelled at its start
        ("", 0, "mill", None),
    ],
)
def test_a_repair_is_likelier_right_than_the_label(
    context: str, start: int, answer: str, expected: tuple[str, str] | None
) -> None:
    assert found(context, [(start, answer)]) == [expected]


def test_a_repeated_answer_is_where_its_neighbours_are_shifted_to() -> None:
    context = "one 7 and two 7 and three 7 and four"
    places = [("one", 0), ("7", 4), ("two", 10), ("7", 14), ("three", 20), ("7", 26), ("four", 32)]
    for drift in (lambda at: at + 3, lambda at: at + 1 + at // 10):
        spans = find_spans(context, [(drift(at), text) for text, at in places], [])
        assert [(context[span.begin : span.end], span.begin) for span in spans if span] == places
    assert found(context, [(6, "7")], "one", "two")[0] is not None
    assert found(context, [(9, "7")], "one", "two") == [None]  # its neighbours are not shifted
    assert found(context, [(6, "7")]) == [None]  # it has none


UNITS: dict[str, Callable[[str], int]] = {
    "utf16_starts": lambda text: len(text.encode("utf-16-le")) // 2,
    "byte_starts": lambda text: len(text.encode()),
    "nfd_starts": lambda text: len(unicodedata.normalize("NFD", text)),
    "line_end_starts": lambda text: len(text) + text.count("\n"),
}
CHARS = st.text(st.sampled_from("ab é港🚢\n"), max_size=12)


@settings(deadline=None)
@given(st.sampled_from(sorted(UNITS)), CHARS, CHARS)
def test_starts_may_count_other_units(cause: str, before: str, between: str) -> None:
    context = f"{before} mill {between} 1887 pond"
    places = [len(before) + 1, context.rindex(" 1887") + 1, len(context) - 4]
    given = [(UNITS[cause](context[:at]), context[at : at + 4]) for at in places]
    misplaced = [pair for pair, at in zip(given, places, strict=True) if pair[0] != at]
    spans = find_spans(context, misplaced, [pair for pair in given if pair not in misplaced])
    if len(misplaced) > 1:
        assert [span and span.begin for span in spans] == [
            at for at, pair in zip(places, given, strict=True) if pair[0] != at
        ]
    assert not misplaced or spans[-1] in (None, (places[-1], len(context), spans[-1].cause))


@settings(deadline=None)
@given(
    st.text(st.sampled_from("aA bé\u0301ß港서1.\n"), max_size=20),
    st.text(st.sampled_from("aAé\u0301ßs港1"), min_size=1, max_size=3),
    st.integers(-1, 25),
)
def test_a_repair_keeps_the_text(context: str, answer: str, start: int) -> None:
    (span,) = find_spans(context, [(start, answer)], [])
    if span is None:
        return
    texts = (context[span.begin : span.end], answer)
    folded = [unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()) for text in texts]
    assert "".join(folded[0].split()) == "".join(folded[1].split())
    in_place = span.begin >= start >= 0 and not context[start : span.begin].strip()
    assert in_place or is_whole(context, span.begin, span.end)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if "chance" not in name])
def test_no_repair_is_worse_than_the_label(damage: str, tmp_path: Path) -> None:
    whole = documents([str(sample.write(tmp_path / "train.json", sample.squad()))], None, 100)
    counts = measured([DAMAGES[damage](context, spans, random.Random(0)) for context, spans in whole])
    assert counts.get("worse", 0) == 0
    assert counts.get("right", 0) == counts["repaired"]


def test_scored_splits_keep_examples_without_a_place_of_their_answer() -> None:
    answers = {"text": ["gull", "mill"], "answer_start": [0, 4]}
    rows = [{"id": "a", "question": "?", "context": MILL, "answers": answers}]
    table = pa.Table.from_pylist(rows, EXAMPLES)
    checked = check_examples(table, np.zeros(1, bool), scored=True)
    assert not checked.rejects
    assert checked.repairs[0].cause == UNPLACED
    assert checked.examples.answers.to_pylist() == [answers]
    assert (checked.examples.answer_char_start[0], checked.examples.span_start[0]) == (-1, -1)
    assert list(check_examples(table, np.zeros(1, bool)).rejects) == [0]


def test_many_misplaced_answers_take_time_in_proportion() -> None:
    context = "mill windmill " * 2000
    rows = [(at, text) for at in range(0, len(context), 40) for text in ("mill", "Mill ", "gull")]
    assert len(find_spans(context, rows, [])) == len(rows)


@pytest.mark.parametrize(
    ("text", "end", "whole"),
    [
        ("\uff71\uff72\uff73", 1, True),  # half-width kana
        ("\ua000\ua001", 1, True),  # Yi
        ("\uc11c\uc6b8\uc5d0", 2, True),  # Korean: a particle follows
        ("\u1109\u1165\u110b\u1166", 2, True),  # the same in decomposed syllables
        ("\u1100\u1161\u11a8", 2, False),  # a final consonant belongs to its syllable
        ("ponds", 4, False),
    ],
)
def test_words_end_as_their_script_has_it(text: str, end: int, whole: bool) -> None:
    assert is_whole(text, 0, end) is whole
