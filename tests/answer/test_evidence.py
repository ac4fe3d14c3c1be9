from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.evidence import evidence_of, without_overlaps
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.parts import AnswerWriter
from qa_fast.answer.settings import kept_values
from qa_fast.cli.app import main
from qa_fast.encode import TextEncoder
from qa_fast.errors import UserError
from tests.answer.test_answer import EEL, HERON, answerer, letter_encoder, pond
from tests.answer.test_settings import CALIBRATION

TWO = f"\n {HERON} It rains. A frog, too, likes the pond at night."


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return letter_encoder(tmp_path_factory.mktemp("letters"))


def test_the_span_from_one_passage_to_another_is_none() -> None:
    text = "It was paid for by Ane Skou, and in the year after by Ole Krog of Osby."
    bridge = "Ane Skou, and in the year after by Ole Krog"
    passages = evidence_of(text, found(text, bridge, "Ane Skou", "Ole Krog"))
    assert [passage["answer"] for passage in passages] == ["Ane Skou", "Ole Krog"]
    assert [passage["answer"] for passage in evidence_of(text, found(text, bridge, "Ane Skou"))] == [bridge]
    assert evidence_of(text, found(text, "Ole Krog of Osby", "Ole Krog", "Osby"))[0]["answer"] == "Ole Krog of Osby"


def found(text: str, *words: str) -> list[Any]:
    """The words as candidates, the first one the best."""
    return [
        {"score": 0.5 / (n + 1), "start": text.index(word), "end": text.index(word) + len(word), "answer": word}
        for n, word in enumerate(words)
    ]


def test_all_passages_come_with_their_sentences(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    passages = ask(question="where?", context=TWO, evidence=True)
    assert [passage["answer"] for passage in passages] == ["pond", "pond"]
    assert [passage["sentence"] for passage in passages] == [HERON, "A frog, too, likes the pond at night."]
    for passage in passages:
        assert TWO[passage["start"] : passage["end"]] == passage["answer"]
        assert TWO[passage["sentence_start"] : passage["sentence_end"]] == passage["sentence"]
    assert passages[0]["score"] == ask(question="where?", context=TWO)["score"]
    assert ask(question="where?", context=TWO, evidence=True, top_k=2) == passages
    html = passages._repr_html_()
    assert html.count("<mark") == 2


def test_no_answer_decides_where_it_is_allowed(encoder: TextEncoder) -> None:
    options = {"question": "where?", "evidence": True, "handle_impossible_answer": True}
    assert len(pond(encoder, null=8.5)(context=TWO, **options)) == 2
    (nothing,) = pond(encoder, null=9.5)(context=TWO, **options)
    assert (nothing["answer"], nothing["sentence"], nothing["sentence_end"]) == ("", "", 0)
    assert nothing["score"] > 0.4
    assert len(pond(encoder, null=9.5)(context=TWO, null_threshold=2, **options)) == 2
    assert pond(encoder)(context=" ", **options)[0]["sentence"] == ""


def test_evidence_may_be_the_default_of_an_answerer_and_belongs_to_no_model(encoder: TextEncoder) -> None:
    ask = Answerer(pond(encoder).predict, encoder, 128, options=AnswerOptions(evidence=True))
    assert len(ask(question="where?", context=TWO)) == 2
    assert ask(question="where?", context=TWO, evidence=False)["answer"] == "pond"
    assert kept_values(AnswerOptions(evidence=True, overlap_threshold=0.5, max_answer_len=9)) == {"max_answer_len": 9}


def test_a_passage_in_another_window_is_found(encoder: TextEncoder) -> None:
    text = " ".join([HERON, *["mill"] * 200, HERON])
    passages = pond(encoder)(question="where?", context=text, evidence=True, max_seq_len=60, doc_stride=20)
    assert [text[: passage["start"]].count("pond") for passage in passages] == [0, 1]


def test_candidates_that_touch_are_one_passage() -> None:
    text = "The bell was paid for by Ane Skou, Ole\nKrog and Per."
    joined = evidence_of(text, found(text, "Skou", "Ane", "Ole", "Krog"))
    assert [passage["answer"] for passage in joined] == ["Ane Skou", "Ole", "Krog"]
    assert [passage["score"] for passage in joined] == [0.5, 0.5 / 3, 0.125]
    for threshold, answer in ((0.4, "Ane Skou"), (0.5, "Ane Skou, Ole")):
        (passage,) = evidence_of(text, found(text, "Ane Skou", "Skou, Ole"), threshold)
        assert passage["answer"] == answer


def test_the_overlap_counts_in_characters_of_the_shorter_answer() -> None:
    text = "in the river in Maine"
    longer, shorter = "in the river in", "river in Maine"  # they share 8 of 14 characters
    for threshold, kept in ((0.5, 1), (0.58, 2), (None, 2)):
        assert len(without_overlaps(found(text, longer, shorter), threshold)) == kept


def test_plain_answers_may_be_without_overlaps(encoder: TextEncoder) -> None:
    ask = answerer(encoder, {"p": 9, "m": 3}, {"d": 9, "l": 3})
    plain = ask(question="where?", context=HERON, top_k=2)
    apart = ask(question="where?", context=HERON, top_k=2, overlap_threshold=0)
    assert [answer["answer"] for answer in plain] == ["pond", "mill pond"]
    assert [answer["answer"] for answer in apart] == ["pond", "mill"]
    assert plain[0] == apart[0]
    with pytest.raises(UserError, match="overlap_threshold must be from 0 to 1; received overlap_threshold=2"):
        ask(question="where?", context=HERON, overlap_threshold=2)
    with pytest.raises(UserError, match="evidence must be true or false; received evidence=3"):
        ask(question="where?", context=HERON, evidence=3)


def test_passages_of_several_documents_are_in_one_ranking(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    ranked = ask.rank("where?", [EEL, TWO, HERON], evidence=True)
    assert [(passage["document"], passage["answer"]) for passage in ranked] == [(1, "pond"), (1, "pond"), (2, "pond")]
    assert ranked[1]["sentence_start"] == TWO.index("A frog")
    assert len(ask.rank("where?", [EEL, TWO, HERON], top_k=1, evidence=True)) == 3
    assert len(ask.rank("where?", [EEL, TWO, HERON], top_k=2, evidence=True)) == 2
    (nothing,) = pond(encoder, null=9.5).rank("where?", [TWO], evidence=True, handle_impossible_answer=True)
    assert (nothing["document"], nothing["answer"], nothing["sentence"]) == (None, "", "")


def test_files_of_answers_have_the_sentences(encoder: TextEncoder, tmp_path: Path) -> None:
    writer = AnswerWriter(AnswerOptions(evidence=True), {}, "parquet")
    rows, _ = writer._answer([{"id": "1", "question": "where?", "context": TWO}], pond(encoder))
    with writer._writing(tmp_path / "answers.parquet") as write:
        write(rows)
    assert pq.read_table(tmp_path / "answers.parquet").to_pylist()[0]["answers"] == rows[0]["answers"]


def test_the_command_line_lists_them(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Answerer, "from_pretrained", lambda *_: pond(encoder))
    monkeypatch.setattr(sys, "argv", ["qa-fast", "answer", "model", "-q", "where?", "-c", TWO, "--evidence"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.count("pond  score") == 2


def test_a_calibration_changes_scores_and_no_passage(encoder: TextEncoder) -> None:
    ask, text = pond(encoder), f"{TWO} {EEL}"
    fitted = Answerer(ask.predict, encoder, 128, options=AnswerOptions(calibration=CALIBRATION))
    plain = ask(question="where?", context=text, evidence=True)
    calibrated = fitted(question="where?", context=text, evidence=True)
    assert [{**passage, "score": 0} for passage in calibrated] == [{**passage, "score": 0} for passage in plain]
    assert calibrated[0]["score"] == fitted(question="where?", context=text)["score"] != plain[0]["score"]
    ranked = fitted.rank("where?", [text], evidence=True)
    assert [passage["score"] for passage in ranked] == pytest.approx([passage["score"] for passage in calibrated])
