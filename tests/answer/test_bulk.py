"""Bulk answering: parts in the input's order, kept when they are whole. tests/docs/test_beyond.py has it on Ray."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from qa_fast import store
from qa_fast.answer import bulk
from qa_fast.answer.answerer import Answerer
from qa_fast.answer.bulk import answer_all
from qa_fast.answer.options import AnswerOptions
from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.infer.graphs import model_key
from qa_fast.infer.recipe import Recipe, Rounding, write_recipe
from qa_fast.progress import Reporter
from tests import sample
from tests.memory_place import memory_place
from tests.small_runs import make_model_folder

FIXED = {"precision": "float32", "engine": "onnx"}
KEYS = ("score", "start", "end", "answer")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of three kinds, with about thirty questions and two rows that cannot be answered; several parts of each."""
    monkeypatch.setattr(bulk, "PART_BYTES", 1200)
    rows = [{"id": f"{row['id']}-{i}", "question": row["question"], "context": row["context"]}
            for i in range(3) for row in sample.rows()]  # fmt: skip
    rows[3]["question"] = ""
    sample.write(tmp_path / "in" / "a.jsonl", rows)
    with (tmp_path / "in" / "a.jsonl").open("a") as file:
        file.write('\n{"question": \n')
    sample.write(tmp_path / "in" / "b.json", sample.squad())
    table = pa.Table.from_pylist([{"question": row["question"], "context": row["context"]} for row in sample.rows()])
    pq.write_table(table, tmp_path / "in" / "c.parquet", row_group_size=2)
    return tmp_path / "in"


def parts(out: Path) -> list[dict[str, Any]]:
    index = json.loads((out / "qa_fast_answers.json").read_bytes())
    assert {part["file"] for part in index["parts"]} == {
        name for name in store.names_in(out) if name.startswith("part-")
    }
    found: list[dict[str, Any]] = []
    for part in index["parts"]:
        data = (out / part["file"]).read_bytes()
        if part["file"].endswith(".parquet"):
            found += pq.read_table(pa.BufferReader(data)).to_pylist()
        else:
            found += [json.loads(line) for line in data.splitlines()]
    return found


def test_answers_equal_those_of_one_call_in_the_order_of_the_input(tmp_path: Path, source: Path, model: Path) -> None:
    steps: list[int] = []
    report = Reporter(progress=lambda _, rows, __: steps.append(rows))
    result = answer_all(model, str(source), tmp_path / "out", **FIXED, report=report)
    found = parts(tmp_path / "out")
    assert result.parts is not None
    assert result.parts > 8
    assert (result.answered, result.rejected) == (5 * sample.QUESTIONS - 1, 2)
    assert sum(steps) == 5 * sample.QUESTIONS + 1
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["id"] for line in rejected] == [f"{sample.rows()[3]['id']}-0", ""]
    assert f"line {3 * sample.QUESTIONS + 2}" in rejected[1]["reason"]

    asked = [(row["question"], row["context"]) for row in sample.rows()] * 5
    del asked[3]
    assert [row["question"] for row in found] == [question for question, _ in asked]
    assert [row["id"] for row in found][-sample.QUESTIONS :] == [f"row-2-{i}" for i in range(sample.QUESTIONS)]
    whole = Answerer.from_pretrained(model, "float32", "onnx").answer_pairs(asked, AnswerOptions())
    for row, answers in zip(found, whole, strict=True):
        assert not isinstance(answers, str)
        assert {key: row[key] for key in KEYS} == pytest.approx(answers[0])


def test_parquet_several_answers_other_columns_and_urls(tmp_path: Path, source: Path, model: Path) -> None:
    answer_all(model, str(source), tmp_path / "lines", AnswerOptions(top_k=2), **FIXED)
    answer_all(model, str(source), tmp_path / "columns", AnswerOptions(top_k=2), form="parquet", **FIXED)
    assert parts(tmp_path / "lines") == parts(tmp_path / "columns")
    assert len(parts(tmp_path / "lines")[0]["answers"]) == 2
    away = memory_place()
    renamed = [{"q": row["question"], "text": row["context"]} for row in sample.rows()]
    store.write_whole(away / "in.jsonl", "\n".join(map(json.dumps, renamed)).encode())
    columns = {"question": "q", "context": "text"}
    for form in bulk.FORMATS:
        answer_all(model, str(away / "in.jsonl"), str(away / form), form=form, columns=columns, **FIXED)
        assert [row["question"] for row in parts(away / form)] == [row["q"] for row in renamed]


def test_a_second_run_does_nothing_and_other_options_are_refused(tmp_path: Path, source: Path, model: Path) -> None:
    out = tmp_path / "out"
    answer_all(model, str(source), out, **FIXED)
    before = parts(out)
    assert answer_all(model, str(source), out, **FIXED).up_to_date
    with pytest.raises(UserError, match=r"holds answers to other questions, .*: pass --overwrite to replace them"):
        answer_all(model, str(source), out, AnswerOptions(max_answer_len=2), **FIXED)
    assert parts(out) == before
    victim = next(out.glob("part-*-00002.jsonl"))
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    said: list[str] = []
    assert not answer_all(model, str(source), out, **FIXED, report=Reporter(said.append)).up_to_date
    assert f"{out}: {victim.name} is missing or damaged, answering again" in said
    assert parts(out) == before
    (source / "b.json").unlink()
    answer_all(model, str(source), out, **FIXED, overwrite=True)
    assert len(parts(out)) == len(before) - sample.QUESTIONS
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    (tmp_path / "plain").write_text("mine")
    for place, message in (
        (tmp_path / "mine", "holds other files .thesis.tex"),
        (tmp_path / "plain", "which is a file"),
    ):
        with pytest.raises(UserError, match=message):
            answer_all(model, str(source), place, **FIXED)
    with pytest.raises(UserError, match="--format must be one of jsonl, parquet; received 'csv'"):
        answer_all(model, str(source), out, form="csv")


def test_another_recipe_or_vocabulary_makes_other_answers(tmp_path: Path, source: Path) -> None:
    model, out = make_model_folder(tmp_path / "model"), tmp_path / "out"
    for kept in (("head/",), ("head/", "block_0/outer")):
        write_recipe(model, Recipe(model_key(model), Rounding(kept, {}), 1.0, 1.0, 1.0, 1.0, "validation", 3))
        assert not answer_all(model, str(source), out, engine="onnx", precision="int8", overwrite=True).up_to_date
    assert answer_all(model, str(source), out, engine="onnx", precision="int8").up_to_date
    (model / "added_tokens.json").write_text("{}")
    with pytest.raises(UserError, match="made with another model or other options"):
        answer_all(model, str(source), out, engine="onnx", precision="int8")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left"), UserError)],
)
def test_finished_parts_are_kept(
    tmp_path: Path,
    source: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    expected: type[BaseException],
) -> None:
    answer_all(model, str(source), tmp_path / "whole", **FIXED)
    out, real, made = tmp_path / "out", bulk.PartMaker.make, []

    def interrupted(maker: Any, block: Any, answerer: Any) -> Any:
        if len(made) == 4:
            raise failure
        made.append(block.number)
        return real(maker, block, answerer)

    def refused(*_: Any) -> Any:
        raise UserError("the cache folder must be writable")

    with monkeypatch.context() as patch:
        patch.setattr(bulk.PartMaker, "make", interrupted)
        with pytest.raises(expected):
            answer_all(model, str(source), out, **FIXED)
    assert not (out / "qa_fast_answers.json").exists()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(stamps) == 4
    with monkeypatch.context() as patch:  # the next run does not get as far
        patch.setattr(bulk.Answerer, "from_pretrained", refused)
        with pytest.raises(UserError, match="the cache folder must be writable"):
            answer_all(model, str(source), out, **FIXED)
    answer_all(model, str(source), out, **FIXED)
    assert parts(out) == parts(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    # A mistake in the input takes them away: the next input is another.
    (source / "d.json").write_text("{")
    with pytest.raises(UserError, match=r"d\.json must be JSON"):
        answer_all(model, str(source), tmp_path / "bad", **FIXED)
    assert not list(tmp_path.glob("bad/part-*"))


@pytest.mark.slow
def test_a_killed_run_is_resumed(tmp_path: Path, source: Path, model: Path) -> None:
    answer_all(model, str(source), tmp_path / "whole", **FIXED)
    script = (
        "import sys\nfrom qa_fast.answer import bulk\nbulk.PART_BYTES = 1200\nreal = bulk.PartMaker.make\n"
        "def reporting(maker, block, answerer):\n"
        "    facts = real(maker, block, answerer)\n    print(block.number, flush=True)\n    return facts\n"
        "bulk.PartMaker.make = reporting\n"
        "bulk.answer_all(sys.argv[1], sys.argv[2], sys.argv[3], precision='float32', engine='onnx')\n"
    )
    out = tmp_path / "out"
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen([sys.executable, "-c", script, str(model), str(source), str(out)], stdout=subprocess.PIPE,
                           text=True, env={**os.environ, "PYTHONPATH": root})  # fmt: skip
    assert run.stdout is not None
    while run.stdout.readline() != "3\n":
        assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert not (out / "qa_fast_answers.json").exists()
    answer_all(model, str(source), out, **FIXED)
    assert parts(out) == parts(tmp_path / "whole")
    assert not (out / ".qa_fast-partial").exists()


def test_the_command(tmp_path: Path, source: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    monkeypatch.setattr("qa_fast.infer.measure_engines", lambda *given: measured.append(given[:3]))
    command = ["answer", str(model), "--input", str(source), "--engine", "onnx", "--precision", "float32"]
    to_folder = [*command, "--output", str(tmp_path / "out"), "--format", "parquet"]
    result = CliRunner().invoke(app, to_folder)
    assert result.exit_code == 0, result.output
    assert "answered in" in result.output
    assert "2 rejected, with reasons" in result.output
    again = CliRunner().invoke(app, [*to_folder, "--json"])
    assert json.loads(again.stdout.splitlines()[-1])["up_to_date"] is True
    file = tmp_path / "answers.jsonl"
    result = CliRunner().invoke(app, [*command, "--output", str(file), "--json", "--measure"])
    assert measured == [(model, "onnx", "float32")]
    counts = {"answered": 5 * sample.QUESTIONS - 1, "rejected": 2, "output": str(file)}
    assert json.loads(result.stdout.splitlines()[-1]) == counts
    assert [json.loads(line) for line in file.read_bytes().splitlines()] == parts(tmp_path / "out")
    assert len((tmp_path / "answers.rejected.jsonl").read_bytes().splitlines()) == 2
    refused = CliRunner().invoke(app, [*to_folder, "--engine", "ray:onnx", "--measure"]).exception
    assert str(refused).startswith("--measure measures this machine; received --engine ray:onnx, whose machines choose")


@pytest.mark.parametrize("linked", [True, False])
def test_a_part_that_is_the_input_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    monkeypatch.setattr(bulk, "resolve_model", lambda *_: tmp_path / "model")
    out = tmp_path / "out"
    part = sample.write(out / "part-0123abcd-00000.jsonl", sample.rows())
    kept = sample.write(out / "part-of-a-thesis.jsonl", sample.rows())
    sample.write(out / bulk.ANSWERS_INDEX, {"parts": []})
    source = tmp_path / "in.jsonl" if linked else part
    if linked:
        source.symlink_to(part)
    with pytest.raises(UserError, match="--output must not be among the files that the run reads"):
        bulk.answer_all("model", str(source), out, overwrite=True)
    bulk._remove_parts(out, kept=None)
    assert kept.is_file()
    assert not part.exists()
