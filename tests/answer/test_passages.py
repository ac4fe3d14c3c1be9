from __future__ import annotations

import sys

import pytest

from qa_fast.answer import passages
from qa_fast.answer.passages import PassageIndex, passages_of
from qa_fast.errors import MissingExtraError, UserError

NOTES = [
    "The ferry to Osby leaves at noon. It carries twelve carts.",
    "Старый мост построил инженер Волков. Реку переходят по мосту.",
    "大钟由铁匠铸成。桥在河边。",
    " ",
    "The mill was sold. The miller, Ane Skou, had built it with her brothers.",
]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" \n ", []),
        ("one two", ["one two"]),
        ("It rained a lot.\n\nIt snowed. It thawed.", ["It rained a lot.\n\n", "It snowed. It thawed."]),
        ("It rained a lot.\n# Snow\n\nIt snowed.", ["It rained a lot.\n", "# Snow\n\nIt snowed."]),
        ("It rained. It snowed. It thawed.", ["It rained. It snowed. ", "It thawed."]),
        ("rain snow thaw frost and wind", ["rain snow thaw frost ", "and wind"]),
        ("x" * 50, ["x" * 24, "x" * 24, "xx"]),
        ("x" * 24 + " " * 48, ["x" * 24]),
        ("x" + "ก\u0e35\u0e48" * 10, ["x" + "ก\u0e35\u0e48" * 7, "ก\u0e35\u0e48" * 3]),
        ("e\u0301" * 12 + "x", ["e\u0301" * 12, "x"]),
        ("e" + "\u0301" * 30, ["e" + "\u0301" * 23, "\u0301" * 7]),
    ],
)
def test_a_text_is_cut_where_something_ends(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in passages_of(text, 24)] == parts


@pytest.mark.parametrize(
    ("question", "document"),
    [
        ("Who was the builder of the MILLS?", 4),
        ("Что построили инженеры?", 1),
        ("谁铸大钟?", 2),
        ("When does the ferry leave?", 0),
    ],
)
def test_the_passage_with_the_words_of_the_question_is_first(question: str, document: int) -> None:
    best = PassageIndex(NOTES).best(question, 2)
    assert best[0][:3] == (document, 0, len(NOTES[document]))
    assert best[0].fit > best[1].fit >= 0
    assert len(best) == 2


def test_a_question_that_shares_no_word_and_texts_without_words_have_an_order() -> None:
    index = PassageIndex(NOTES)
    assert [passage.document for passage in index.best("???", 9)] == [0, 1, 2, 4]
    assert PassageIndex([" "]).best("Who?", 1) == []
    assert [passage.document for passage in PassageIndex(["...", "!"]).best("Who?", 2)] == [0, 1]


def test_mistakes_and_a_missing_package_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="first must be a whole number of at least 1; received first=0"):
        PassageIndex(NOTES).best("Who?", 0)
    with pytest.raises(UserError, match="first must be a whole number of at least 1; received first='5'"):
        PassageIndex(NOTES).best("Who?", "5")  # type: ignore[arg-type]
    for given in ("Rain.", {"a.txt": "Rain."}, None):
        with pytest.raises(UserError, match="documents must be a list of texts"):
            PassageIndex(given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="longest must be a whole number"):
        PassageIndex(NOTES, 0)
    with pytest.raises(UserError, match="document 2: the context must be a text"):
        PassageIndex(["Rain.", 5])  # type: ignore[list-item]
    passages._bm25s.cache_clear()
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qa-fast\[rank\]'"):
        PassageIndex(NOTES)
    passages._bm25s.cache_clear()
