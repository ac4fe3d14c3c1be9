"""Answers to files of questions in one file, with a stand-in for the model; `test_bulk` has folders of parts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.answer import parts
from qa_fast.answer.answerer import Answerer
from qa_fast.answer.bulk import BulkResult, answer_all
from qa_fast.answer.options import AnswerOptions
from qa_fast.errors import UserError
from tests import sample
from tests.memory_place import memory_place
from tests.small_runs import make_model_folder


class Echo(Answerer):
    """Answers with the context's first word; a context of "no room" cannot be answered."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def answer_pairs(self, pairs: Any, options: AnswerOptions) -> Any:
        self.calls.append(len(pairs))
        results: list[Any] = []
        for _, context in pairs:
            if context == "no room":
                results.append("too long")
                continue
            word = context.split(" ")[0]
            answer = {"score": 0.5, "start": 0, "end": len(word), "answer": word}
            results.append([answer] * (options.top_k or 1))
        return results


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    echo = Echo()
    monkeypatch.setattr(Answerer, "from_pretrained", lambda *_: echo)
    return echo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"id": "a", "question": "who?", "context": "Herons nest"},
        {"id": 7, "question": "wer?", "context": "Störche — nisten"},
    ]
    (tmp_path / "in.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    return tmp_path


def run(model: Path, folder: Path, out: str = "out.jsonl", **options: Any) -> BulkResult:
    return answer_all(model, str(folder / "in.jsonl"), folder / out, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_line_is_answered_in_order(model: Path, folder: Path, echo: Echo) -> None:
    assert run(model, folder) == BulkResult(folder / "out.jsonl", 2, 0, None)
    assert lines(folder / "out.jsonl") == [
        {"id": "a", "question": "who?", "score": 0.5, "start": 0, "end": 6, "answer": "Herons"},
        {"id": "7", "question": "wer?", "score": 0.5, "start": 0, "end": 7, "answer": "Störche"},
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_lines_without_ids_are_named_after_their_place(model: Path, folder: Path, echo: Echo) -> None:
    (folder / "in.jsonl").write_text('{"question": "q", "context": "c d"}\n\n{"question": "q", "context": "e"}\n')
    run(model, folder)
    assert [(row["id"], row["answer"]) for row in lines(folder / "out.jsonl")] == [("row-0", "c"), ("row-2", "e")]


def test_top_k_answers_are_in_a_list(model: Path, folder: Path, echo: Echo) -> None:
    run(model, folder, options=AnswerOptions(top_k=2))
    assert [answer["answer"] for answer in lines(folder / "out.jsonl")[0]["answers"]] == ["Herons", "Herons"]


def test_a_parquet_file_has_the_same_rows(model: Path, folder: Path, echo: Echo) -> None:
    run(model, folder)
    run(model, folder, "out.parquet")
    assert pq.read_table(folder / "out.parquet").to_pylist() == lines(folder / "out.jsonl")


def test_a_folder_of_files_gives_one_file(model: Path, folder: Path, echo: Echo) -> None:
    sample.write(folder / "many" / "a.json", sample.squad())
    (folder / "many" / "b.jsonl").write_text((folder / "in.jsonl").read_text())
    result = answer_all(model, str(folder / "many"), folder / "new" / "out.ndjson")
    assert result.answered == sample.QUESTIONS + 2
    assert [row["id"] for row in lines(folder / "new" / "out.ndjson")[-2:]] == ["a", "7"]


def test_a_file_elsewhere(model: Path, folder: Path, echo: Echo) -> None:
    away = memory_place()
    with (folder / "in.jsonl").open("a") as file:
        file.write("[1]\n")
    result = answer_all(model, str(folder / "in.jsonl"), str(away / "out.jsonl"))
    assert result.rejects is not None
    assert len((away / "out.jsonl").read_bytes().splitlines()) == 2
    assert len(result.rejects.read_bytes().splitlines()) == 1


def test_bad_lines_are_kept_with_their_reason(model: Path, folder: Path, echo: Echo) -> None:
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"question": "who?"\n[1]\n{"id": "x", "question": "who?"}\n')
        file.write('{"id": "n", "question": "q", "context": "no room"}\n')
    result = run(model, folder)
    assert (result.answered, result.rejected, result.rejects) == (2, 4, folder / "out.rejected.jsonl")
    assert sorted((row["id"], row["reason"].partition("; ")[0]) for row in lines(folder / "out.rejected.jsonl")) == [
        ("", "line 4 must be JSON"),
        ("", "row 4 must be an object"),
        ("n", "too long"),
        ("x", "context must be text"),
    ]
    # A run without rejected rows removes the reasons of the last one.
    (folder / "in.jsonl").write_text('{"question": "q", "context": "c"}\n')
    assert run(model, folder, overwrite=True).rejects is None
    assert not (folder / "out.rejected.jsonl").exists()


def test_rows_are_answered_some_at_a_time(
    model: Path, folder: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS_AT_ONCE", 4)
    (folder / "in.jsonl").write_text('{"question": "q", "context": "c d"}\n' * 10)
    run(model, folder)
    assert echo.calls == [4, 4, 2]


def test_an_interrupted_run_leaves_the_old_file(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Echo):
        def answer_pairs(self, pairs: Any, options: AnswerOptions) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(Answerer, "from_pretrained", lambda *_: Interrupted())
    (folder / "out.jsonl").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run(model, folder, overwrite=True)
    assert (folder / "out.jsonl").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_files_must_be_usable(model: Path, folder: Path, echo: Echo) -> None:
    with pytest.raises(UserError, match=r"SOURCE must be .*none\.jsonl"):
        answer_all(model, str(folder / "none.jsonl"), folder / "out.jsonl")
    with pytest.raises(UserError, match=r"--output must not be among the files that the run reads; .*: choose another"):
        run(model, folder, "in.jsonl", overwrite=True)
    (folder / "link.jsonl").symlink_to(folder / "in.jsonl")
    with pytest.raises(UserError, match="--output must not be among the files"):
        run(model, folder, "link.jsonl", overwrite=True)
    assert echo.calls == []
    with pytest.raises(UserError, match=r"--output must have a name that can be written; .*: File name too long"):
        run(model, folder, "x" * 300 + ".jsonl")
    with pytest.raises(UserError, match=r"Ray writes answers into a folder; received --output .*: name a folder"):
        run(model, folder, ray=True)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_DEEP = st.sampled_from(["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[" * 10**5, "1" * 5000, '"\\ud800"'])


@settings(deadline=None, max_examples=40)
@given(
    value=_VALUES.map(json.dumps) | _DEEP,
    field=st.sampled_from(["id", "question", "context", "answers", "is_impossible", "other"]),
    whole=st.booleans(),
)
def test_no_value_of_a_row_harms_the_other_rows(value: str, field: str, whole: bool) -> None:
    """What the reader accepts and what it rejects can both be written."""
    fields = {"id": '"b"', "question": '"who?"', "context": '"Ane Skou"'} | {field: value}
    good = '{"id": "a", "question": "who?", "context": "Ane Skou"}'
    row = f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in fields.items())}}}"
    if not whole:
        row = f"{{{json.dumps(field)}: {value}}}"
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answerer, "from_pretrained", lambda *_: Echo())
        patch.setattr("qa_fast.answer.bulk.resolve_model", lambda *_: Path(name) / "model")
        (Path(name) / "in.jsonl").write_text(f"{good}\n{row}\n{good}\n", "utf-8")
        result = run(Path(name), Path(name))
        assert [answer["id"] for answer in lines(Path(name) / "out.jsonl")].count("a") >= 2
        assert result.answered + result.rejected == 3
        assert result.answered >= 2
