from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.answer.boundaries import answer_bounds, sentence_around


def snapped(text: str, part: str, align: bool = True) -> str:
    """Return the text of an answer over the single token `part`."""
    begin = text.index(part)
    starts, ends = answer_bounds(text, np.array([begin], np.int32), np.array([begin + len(part)], np.int32), align)
    return text[starts[0] : ends[0]]


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("the grey heron flew", "er", "heron"),
        ("the grey heron flew", "ey her", "grey heron"),
        ("heron", "h", "heron"),
        ("(heron), 3.5 km", "ro", "heron"),
        ("it was 1987-88", "98", "1987"),
        ("Он живёт в Москве.", "оскв", "Москве"),
        ("e\u0301te\u0301 chaud", "t", "e\u0301te\u0301"),  # marks belong to the word
        ("می\u200cخواهم بروم", "خوا", "می\u200cخواهم"),
        ("हिन्दी भाषा", "न", "हिन्दी"),
        ("他住在北京市中心", "北京", "北京"),
        ("東京タワーは高い", "タワ", "タワ"),
        ("กรุงเทพมหานคร", "เทพ", "เทพ"),
        ("서울은 크다", "서울", "서울"),
        ("iPhone手机很贵", "Phon", "iPhone"),  # snaps inside its own script only
        ("北京2008奥运", "00", "2008"),
        ("a 😀 b", "😀", "😀"),
        ("one  two ", " two ", "two"),  # white space at a token's ends is not answer
    ],
)
def test_answers_widen_to_words_only_where_words_are_spaced(text: str, part: str, expected: str) -> None:
    assert snapped(text, part) == expected


def test_without_alignment_only_white_space_goes() -> None:
    assert snapped("the grey heron", "ey he", align=False) == "ey he"
    assert snapped("the grey heron", " grey ", align=False) == "grey"
    assert snapped("the grey heron", " grey ", align=True) == "grey"


def test_a_token_of_white_space_is_no_answer_alone() -> None:
    text = "one \t two"
    for align in (False, True):
        starts, ends = answer_bounds(text, np.array([0, 3, 6], np.int32), np.array([3, 6, 9], np.int32), align)
        assert starts.tolist() == [0, 6, 6]
        assert ends.tolist() == [3, 3, 9]


def test_an_empty_text() -> None:
    starts, ends = answer_bounds("", np.zeros(1, np.int32), np.zeros(1, np.int32), True)
    assert (starts.tolist(), ends.tolist()) == ([0], [0])


@given(st.text(alphabet="ab é\u0301 \n中あ한ก😀.,'\u00a0", max_size=30), st.data())
def test_snapping_keeps_the_solid_part_and_is_settled_at_once(text: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    given_start, given_end = np.array([begin], np.int32), np.array([end], np.int32)
    starts, ends = answer_bounds(text, given_start, given_end, True)
    part = text[begin:end]
    if part.strip():
        found = text[starts[0] : ends[0]]
        assert part.strip() in found
        assert found == found.strip()
        again = answer_bounds(text, starts, ends, True)
        assert (again[0].tolist(), again[1].tolist()) == (starts.tolist(), ends.tolist())
    else:
        assert ends[0] <= starts[0] or not part


STORY = "Herons are patient. One stood at the mill pond all day! Why?\nNobody knows. 他住在北京。天气很好。"


@pytest.mark.parametrize(
    ("answer", "before", "after"),
    [
        ("Herons", "", " are patient."),
        ("patient.", "Herons are ", ""),
        ("the mill pond", "One stood at ", " all day!"),
        ("Why", "", "?"),
        ("Nobody", "", " knows."),
        ("北京", "他住在", "。"),
        ("很好", "天气", "。"),
        ("patient. One", "Herons are ", " stood at the mill pond all day!"),
    ],
)
def test_the_sentence_around_an_answer(answer: str, before: str, after: str) -> None:
    start = STORY.index(answer)
    found = sentence_around(STORY, start, start + len(answer))
    assert (found.before, found.answer, found.after) == (before, answer, after)


def test_a_long_sentence_is_cut_at_words() -> None:
    text = "word " * 100 + "ANSWER" + " word" * 100
    start = text.index("ANSWER")
    found = sentence_around(text, start, start + 6, longest=22)
    assert found.before == "… word word word word "
    assert found.after == " word word word word …"


def test_a_full_stop_inside_a_number_ends_no_sentence() -> None:
    text = "It is 3.14 or so. Next"
    found = sentence_around(text, text.index("or"), text.index("or") + 2)
    assert (found.before, found.after) == ("It is 3.14 ", " so.")


def test_a_long_run_of_full_stops_is_searched_once() -> None:
    """Searching it from each of its stops would take an hour."""
    text = "Paid for by Ane Skou" + "." * 400_000 + "x"
    assert sentence_around(text, 12, 20).answer == "Ane Skou"


def test_line_breaks_and_the_ends_of_the_text() -> None:
    assert sentence_around("a\tb", 0, 3).answer == "a b"
    found = sentence_around("no stop here", 3, 7)
    assert (found.before, found.answer, found.after) == ("no ", "stop", " here")
    empty = sentence_around("", 0, 0)
    assert (empty.before, empty.answer, empty.after) == ("", "", "")


@given(st.text(alphabet="ab .!?。\n中", max_size=40), st.data())
def test_the_excerpt_holds_the_answer_within_its_limit(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    found = sentence_around(text, start, end, longest=10)
    assert found.answer == text[start:end].replace("\n", " ")
    assert len(found.before) <= 11
    assert len(found.after) <= 11
    assert found.before.lstrip("… ") in text[:start].replace("\n", " ")
    assert found.after.rstrip("… ") in text[end:].replace("\n", " ")


def test_a_sentence_that_is_cut_parts_no_cluster() -> None:
    syllable = "ก\u0e35\u0e48"
    found = sentence_around(syllable * 40, 60, 63, longest=10)
    assert (found.before, found.answer, found.after) == (f"…{syllable * 4}", syllable, f"{syllable * 3}…")
    assert (found.start, found.end) == (48, 72)
