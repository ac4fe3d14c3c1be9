from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qa_fast.answer import answer_file as module
from qa_fast.answer.answer_file import answer_file
from qa_fast.answer.answerer import Answerer, AnswerOptions
from qa_fast.errors import UserError


class Echo(Answerer):
    """Answers with the context's first word; a context of "no room" cannot be answered."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def answer_pairs(self, pairs: Any, options: AnswerOptions) -> Any:
        self.blocks.append(len(pairs))
        results: list[Any] = []
        for question, context in pairs:
            if not isinstance(question, str) or context == "no room":
                results.append("the question must be a text; received NoneType" if question is None else "too long")
                continue
            word = context.split(" ")[0]
            results.append([{"score": 0.5, "start": 0, "end": len(word), "answer": word}] * options.top_k)
        return results


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"id": "a", "question": "who?", "context": "Herons nest"},
        {"question": "wer?", "context": "Störche — nisten"},
    ]
    (tmp_path / "in.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    return tmp_path


def test_each_line_is_answered_in_order(folder: Path) -> None:
    report = answer_file(Echo(), folder / "in.jsonl", folder / "out.jsonl")
    assert (report.answered, report.rejected, report.rejects) == (2, 0, None)
    assert lines(report.output) == [
        {"id": "a", "question": "who?", "score": 0.5, "start": 0, "end": 6, "answer": "Herons"},
        {"line": 3, "question": "wer?", "score": 0.5, "start": 0, "end": 7, "answer": "Störche"},
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_top_k_answers_stand_in_a_list(folder: Path) -> None:
    answer_file(Echo(), folder / "in.jsonl", folder / "out.jsonl", AnswerOptions(top_k=2))
    assert [answer["answer"] for answer in lines(folder / "out.jsonl")[0]["answers"]] == ["Herons", "Herons"]


def test_bad_lines_are_told_with_their_reason(folder: Path) -> None:
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"question": "who?"\n[1]\n{"id": 7, "question": "who?"}\n{}\n')
        file.write('{"question": null, "context": "x"}\n{"id": "n", "question": "q", "context": "no room"}\n')
    report = answer_file(Echo(), folder / "in.jsonl", folder / "out.jsonl")
    assert (report.answered, report.rejected) == (2, 6)
    assert report.rejects == folder / "out.rejected.jsonl"
    found = {row["line"]: (row.get("id"), row["reason"]) for row in lines(report.rejects)}
    assert "must be JSON; " in found[4][1]
    assert found[5] == (None, "the line must be a JSON object; received list")
    assert found[6] == (7, "the line must have question and context; received id, question")
    assert found[7] == (None, "the line must have question and context; received no keys")
    assert found[8] == (None, "the question must be a text; received NoneType")
    assert found[9] == ("n", "too long")
    # A clean second run leaves no reasons of the first.
    (folder / "in.jsonl").write_text('{"question": "q", "context": "c"}\n')
    answer_file(Echo(), folder / "in.jsonl", folder / "out.jsonl")
    assert not report.rejects.exists()


def test_files_are_answered_a_block_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINES_A_BLOCK", 4)
    (folder / "in.jsonl").write_text('{"question": "q", "context": "c d"}\n' * 10)
    echo, done = Echo(), []
    answer_file(echo, folder / "in.jsonl", folder / "out.jsonl", progress=done.append)
    assert echo.blocks == [4, 4, 2]
    assert done == [4, 8, 10]
    monkeypatch.setattr(module, "_BYTES_A_BLOCK", 70)
    answer_file(echo, folder / "in.jsonl", folder / "out.jsonl")
    assert echo.blocks[3:] == [2, 2, 2, 2, 2]


def test_an_empty_file_gives_an_empty_file(folder: Path) -> None:
    (folder / "in.jsonl").write_text("\n")
    report = answer_file(Echo(), folder / "in.jsonl", folder / "out.jsonl")
    assert (report.answered, report.output.read_text()) == (0, "")


def test_a_broken_run_leaves_what_was_there(folder: Path) -> None:
    class Broken(Echo):
        def answer_pairs(self, pairs: Any, options: AnswerOptions) -> Any:
            raise KeyboardInterrupt

    (folder / "out.jsonl").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        answer_file(Broken(), folder / "in.jsonl", folder / "out.jsonl")
    assert (folder / "out.jsonl").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_files_must_be_usable(folder: Path) -> None:
    with pytest.raises(UserError, match=r"the input must be a file of JSON lines; .*none.jsonl is not there"):
        answer_file(Echo(), folder / "none.jsonl", folder / "out.jsonl")
    with pytest.raises(
        UserError, match=r"the output must be a file in a folder that exists; received .*: make the folder"
    ):
        answer_file(Echo(), folder / "in.jsonl", folder / "nowhere" / "out.jsonl")
    with pytest.raises(UserError, match="the output must be a file in a folder"):
        answer_file(Echo(), folder / "in.jsonl", folder)
    with pytest.raises(UserError, match="the output must not be the input"):
        answer_file(Echo(), folder / "in.jsonl", folder / "in.jsonl")
    for name in ("x" * 250, "x" * 300):  # too long with the temporary name's additions, and without
        with pytest.raises(
            UserError, match=r"the input must be a file to read and the output one to write; .*: File name"
        ):
            answer_file(Echo(), folder / "in.jsonl", folder / name)
