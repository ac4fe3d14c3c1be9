from __future__ import annotations

import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.evidence import MARGIN
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.passages import Passage, PassageIndex
from qa_fast.answer.ranking import ranking, usable
from qa_fast.cli.app import main
from qa_fast.encode import TextEncoder
from qa_fast.errors import UserError
from qa_fast.infer.decode import DEFAULT_N_BEST
from tests.answer.test_answer import EEL, HERON, answerer, letter_encoder, pond


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return letter_encoder(tmp_path_factory.mktemp("letters"))


def found(score: float, start: int, end: int) -> dict[str, Any]:
    return {"score": score, "start": start, "end": end, "answer": "x" * (end - start)}


def test_documents_are_compared_by_odds_against_no_answer() -> None:
    sure = [found(0.5, 0, 4), found(0.001, 0, 0)]
    unsure = [found(0.6, 0, 4), found(0.4, 0, 0)]
    ranked, nowhere = ranking([unsure, sure], None)
    assert [one.document for one in ranked] == [1, 0]
    assert sum(one.score for one in ranked) + nowhere == pytest.approx(1)
    alone, nowhere = ranking([unsure], None)
    assert (alone[0].score, nowhere) == pytest.approx((0.6, 0.4))


def test_how_well_a_passage_fits_counts_in_the_ranking() -> None:
    answers = [[found(0.5, 0, 4), found(0.5, 0, 0)], [found(0.6, 20, 24), found(0.4, 0, 0)]]
    ranked, nowhere = ranking(answers, None, passages=[Passage(3, 0, 9, 5.0), Passage(3, 20, 30, 4.0)])
    assert [(one.document, one.answer["start"]) for one in ranked] == [(3, 0), (3, 20)]
    assert ranked[0].score == pytest.approx(nowhere)
    assert ranked[1].score == pytest.approx(1.5 * nowhere / math.e)


def test_answers_that_overlap_and_those_beyond_a_limit_are_left_out() -> None:
    answers = [[found(0.5, 0, 10), found(0.2, 8, 20), found(0.1, 30, 34), found(0.2, 0, 0)]]
    assert [one.answer["start"] for one in ranking(answers, None)[0]] == [0, 30]
    assert [one.answer["start"] for one in ranking(answers, None, overlap_threshold=0.2)[0]] == [0, 8, 30]
    assert [one.answer["start"] for one in ranking(answers, None, answers_per_document=1)[0]] == [0]
    assert [one.answer["start"] for one in ranking(answers, 1)[0]] == [0]


@pytest.mark.parametrize("top_k", [1, 7, None])
@pytest.mark.parametrize(("overlap", "margin"), [(0.01, None), (0.5, None), (None, MARGIN)])
def test_few_answers_of_many_documents_give_the_same_ranking(
    top_k: int | None, overlap: float | None, margin: float | None
) -> None:
    chance = random.Random(0)
    documents = []
    for _ in range(5):
        places = [(start, start + chance.randrange(1, 30)) for start in chance.choices(range(300), k=200)]
        scores = sorted((chance.random() ** 9 for _ in places), reverse=True)
        documents.append([found(score, *place) for score, place in zip(scores, places, strict=True)])
        documents[-1].insert(chance.randrange(200), found(0.01, 0, 0))
    few = [usable(answers, top_k, overlap, margin) for answers in documents]
    assert max(map(len, few)) < 80
    for most in (None, 3):
        whole = ranking(documents, top_k, most, overlap, margin=margin)
        assert ranking(few, top_k, most, overlap, margin=margin) == whole


def test_many_documents_are_held_by_few_answers(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def recorded(answers: Any, *others: Any, **named: Any) -> Any:
        held.extend(map(len, answers))
        return ranking(answers, *others, **named)

    monkeypatch.setattr("qa_fast.answer.answerer.ranking", recorded)
    pond(encoder).rank("where?", [" ".join([HERON] * 9)] * 3, top_k=2)
    assert len(held) == 3
    assert max(held) <= DEFAULT_N_BEST + 3


def test_answers_have_their_document_and_sentence(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    best, *_ = ask.rank("where?", [EEL, f"It rains. {HERON} It snows.", " "])
    assert (best["answer"], best["document"], best["sentence"]) == ("pond", 1, HERON)
    assert best["start"] == 10 + HERON.index("pond")
    alone = ask.rank("where?", [HERON], top_k=1)[0]
    assert alone["score"] == pytest.approx(
        ask(question="where?", context=HERON, handle_impossible_answer=True)["score"]
    )


def test_only_the_best_passages_are_read(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    book = "It rains. " * 200 + f"\n\n{HERON}\n\n" + "It snows. " * 200
    best = ask.rank("where does the heron nest?", [EEL, book], top_k=1, first=1)[0]
    assert (best["answer"], best["document"], best["sentence"]) == ("pond", 1, HERON)
    assert book[best["start"] : best["end"]] == "pond"
    assert ask.predict.calls[-1] < 30  # type: ignore[attr-defined]
    index = PassageIndex([HERON, f"{HERON}\n" + "It rains. " * 200 + f"\n\n{HERON}", EEL])
    one_each = ask.rank("where does the heron nest?", index, first=3, answers_per_document=1)
    assert [answer["document"] for answer in one_each] == [0, 1]
    assert ask.windows("where?", [HERON, EEL], AnswerOptions()) == 2


def test_no_answer_is_in_the_ranking_where_it_is_allowed(encoder: TextEncoder) -> None:
    ask = answerer(encoder, {"p": 1}, {"d": 1}, null=9)
    best = ask.rank("where?", [HERON, EEL], handle_impossible_answer=True)[0]
    assert (best["answer"], best["document"], best["sentence"]) == ("", None, "")
    assert all(answer["answer"] for answer in ask.rank("where?", [HERON, EEL]))


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (HERON, {}, "documents must be a list of texts; received a single text"),
        ([], {}, "documents must hold at least one text"),
        ([HERON, 5], {}, "document 2: the context must be a text"),
        ([HERON], {"top_k": 0}, "top_k must be a whole number of at least 1; received top_k=0"),
        ([HERON], {"answers_per_document": 0}, "answers_per_document must be a whole number"),
        ([HERON], {"top_k": "3"}, "received top_k='3'"),
        ([HERON], {"overlap_threshold": 2}, "overlap_threshold must be from 0 to 1"),
        ([HERON], {"topk": 1}, "topk must be given as top_k"),
        ([HERON], {"first": 0}, "first must be a whole number of at least 1; received first=0"),
    ],
)
def test_mistakes_are_one_line(encoder: TextEncoder, given: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        pond(encoder).rank("where?", given, **options)


def test_files_and_folders_are_ranked_on_the_command_line(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Answerer, "from_pretrained", lambda *_: pond(encoder))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text(HERON)
    (tmp_path / "notes" / "b.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "notes" / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes" / "d.txt").write_text(" \n")
    (tmp_path / "notes" / "e.txt").write_bytes(b"\0\1")
    (tmp_path / "notes" / "f.md").symlink_to("a.md")
    (tmp_path / "notes" / "g").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "notes" / "h.txt")
    (tmp_path / "eel.txt").write_text(EEL)

    def run(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["qa-fast", "answer", "model", "-q", "where?", *words])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code or 0, *capsys.readouterr()

    code, out, err = run("-d", str(tmp_path / "notes"), "-d", str(tmp_path / "eel.txt"), "--json")
    best = json.loads(out)[0]
    assert (code, best["answer"], best["document"]) == (0, "pond", str(tmp_path / "notes" / "a.md"))
    assert len(json.loads(out)) == 1
    assert [line.partition(str(tmp_path))[0] for line in err.splitlines()] == [
        "left out: the document in ",
        "left out: the document in ",
        "left out: 3 that are no .txt, .md, .markdown files: ",
        "left out: 1 without text: ",
    ]
    code, out, err = run("-d", str(tmp_path / "eel.txt"), str(tmp_path / "notes" / "a.md"), "--first", "1", "--json")
    assert json.loads(out)[0]["document"] == str(tmp_path / "eel.txt")
    assert err == "reading 1 of 2 passages; answers in the others are not found\n"
    monkeypatch.setattr("qa_fast.cli.answer._MANY_WINDOWS", 1)
    assert (
        "reading 2 windows of 2 documents; --first" in run("-d", str(tmp_path / "eel.txt"), str(tmp_path / "notes"))[2]
    )
    code, out, _ = run("-d", str(tmp_path / "notes"))
    assert code == 0
    assert f"of {tmp_path / 'notes' / 'a.md'}" in out.replace("\n", " ")
    (tmp_path / "empty").mkdir()
    assert (
        "--documents must name text files, or folders with files that end in .txt"
        in run("-d", str(tmp_path / "empty"))[2]
    )
    assert "--first must be at least 1; received 0" in run("-d", str(tmp_path), "--first", "0")[2]
    assert "--first needs --documents" in run("-c", "x", "--first", "3")[2]
    assert "a command has one MODEL; received also eel.txt" in run("eel.txt")[2]
    assert "none.txt must be a readable file" in run("-d", str(tmp_path / "none.txt"))[2]
    assert "--documents replaces --context" in run("-d", str(tmp_path), "-c", "x")[2]
