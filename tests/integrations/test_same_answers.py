"""A model's own options of answering: the same questions get the same answers and scores in every way of asking."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import ANSWERING, read_settings, write_settings
from qa_fast.builder.job import build_shards
from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.schema import FeatureConfig
from qa_fast.scoring.evaluation import evaluate
from qa_fast.scoring.keeping import check_writable
from qa_fast.serve.limits import Limits
from qa_fast.serve.model import ServedModel
from tests import sample
from tests.serve_doubles import running
from tests.small_models import TINY_BERT, tiny_model

FIXED = {"precision": "float32", "engine": "onnx"}
CALIBRATION = Calibration(0.7, 0.2, -1.0, "harbours", "validation", "f00d", 0, 600, 0.1, 0.02)
LONG_QUESTION = "the " * 66 + "?"  # longer than questions are by default


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global save_model
    pytest.importorskip("keras")
    from qa_fast.model.checkpoint import save_model


def questions() -> list[dict[str, Any]]:
    """Questions about documents of one window and of several, with and without an answer."""
    rows = sample.rows()
    long = "  " + " ".join(row["context"] for row in rows[::3]) * 2
    added = [(row["question"], long) for row in rows] + [(LONG_QUESTION, "Fog.")]
    empty: dict[str, list[Any]] = {"text": [], "answer_start": []}
    return rows + [
        {"id": f"none-{number}", "question": question, "context": context, "answers": empty}
        for number, (question, context) in enumerate(added)
    ]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and a model with random weights."""
    folder = tmp_path_factory.mktemp("same")
    source = sample.model_folder(folder / "tokenizer")
    raw = TINY_BERT | {"vocab_size": 400, "max_position_embeddings": 96}
    (source / "config.json").write_text(json.dumps(raw))
    save_model(tiny_model(raw), folder / "model", source)
    sample.write(folder / "in" / "validation.jsonl", questions())
    build_shards(str(folder / "in"), folder / "shards", str(folder / "model"), FeatureConfig(90, 12))
    return folder


def command(*arguments: str) -> str:
    run = CliRunner().invoke(app, [*arguments, *(part for name in FIXED for part in (f"--{name}", FIXED[name]))])
    assert run.exit_code == 0, run.output
    return run.stdout


def by_file(model: Path, rows: list[dict[str, Any]], place: Path) -> list[dict[str, Any]]:
    sample.write(place / "asked.jsonl", rows)
    command("answer", str(model), "--input", str(place / "asked.jsonl"), "--output", str(place / "answers.jsonl"))
    return [json.loads(line) for line in (place / "answers.jsonl").read_text("utf-8").splitlines()]


def by_command(model: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        json.loads(command("answer", str(model), "-q", row["question"], "-c", row["context"], "--json")) for row in rows
    ]


def by_answerer(model: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = [{name: row[name] for name in ("question", "context")} for row in rows]
    return Answerer.from_pretrained(model, **FIXED)(asked)


def by_server(model: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with running(ServedModel.from_pretrained(str(model), Limits(), **FIXED)) as client:
        return [client.ask(row["question"], row["context"])[1][0] for row in rows]


def by_haystack(model: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    haystack = pytest.importorskip("haystack")
    from qa_fast.integrations.haystack import ExtractiveReader

    reader, found = ExtractiveReader(model, **FIXED), []
    for row in rows:
        best = reader.run(row["question"], [haystack.Document(content=row["context"])])["answers"][0]
        place = best.document_offset
        start, end = (place.start, place.end) if place else (0, 0)
        found.append({"score": best.score, "start": start, "end": end, "answer": best.data or ""})
    return found


def by_spark(model: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from qa_fast.integrations import spark

    spark._answerer.cache_clear()
    columns = [{name: row[name] for name in ("id", "question", "context")} for row in rows]
    batches = spark.answer_in_arrow(str(model), **FIXED)(iter([pa.RecordBatch.from_pylist(columns)]))
    spark._answerer.cache_clear()
    return [row["answers"][0] for batch in batches for row in batch.to_pylist()]


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [True, False])
def test_every_way_of_asking_gives_what_was_scored(workshop: Path, tmp_path: Path, allowed: bool) -> None:
    model, rows = tmp_path / "model", questions()
    shutil.copytree(workshop / "model", model)
    options: dict[str, Any] = {"max_answer_len": 5, "align_to_words": False, "handle_impossible_answer": allowed}
    if allowed:
        margins = np.sort(evaluate(workshop / "shards", model, **FIXED).spans.null_margin())
        options["null_threshold"] = float(margins[len(margins) // 2 - 1 :][:2].mean())
    lines: list[str] = []
    first = evaluate(workshop / "shards", model, **FIXED, **options, keep=True, say=lines.append)
    assert any(line.startswith(f"{model / ANSWERING}: windows of up to 90 tokens") for line in lines)
    if allowed:
        write_settings(model, replace(read_settings(model), calibration=CALIBRATION))
    scored = evaluate(workshop / "shards", model, **FIXED, say=lines.append)
    assert scored.predictions == first.predictions
    assert not any("but this model answers with" in line for line in lines)
    if allowed:
        assert 0 < scored.predictions.count("") < len(rows)
    expected = [(candidates[0]["text"], candidates[0]["probability"]) for _, candidates in scored.n_best()]

    ways: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "file": lambda: by_file(model, rows, tmp_path),
        "command": lambda: by_command(model, rows[:3]),
        "Answerer": lambda: by_answerer(model, rows),
        "server": lambda: by_server(model, rows),
        "Haystack": lambda: by_haystack(model, rows),
        "Spark": lambda: by_spark(model, rows),
    }
    uncalibrated = [candidates[0]["probability"] for _, candidates in first.n_best()]
    assert ([score for _, score in expected] == uncalibrated) == (not allowed)
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for name, way in ways.items():
        found = way()
        assert {path.name: path.read_bytes() for path in model.iterdir()} == before, name
        assert [answer["answer"] for answer in found] == [text for text, _ in expected[: len(found)]], name
        scores = [score for _, score in expected[: len(found)]]
        assert [answer["score"] for answer in found] == pytest.approx(scores, rel=1e-4), name
        for answer, row in zip(found, rows, strict=False):
            assert row["context"][answer["start"] : answer["end"]] == answer["answer"], name


@pytest.mark.slow
def test_a_model_without_options_is_scored_with_a_word_about_what_differs(workshop: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(workshop / "model", model)
    lines: list[str] = []
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    evaluate(workshop / "shards", model, **FIXED, max_answer_len=5, say=lines.append)
    told = [line.split(",")[0] for line in lines if "but this model answers with" in line]
    assert told == [
        "scored with max_seq_len 90",
        "scored with doc_stride 12",
        "scored with max_answer_len 5",
        "scored with handle_impossible_answer True",
        "scored with max_question_len 90",
    ]
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before  # nothing was kept
    lines.clear()
    evaluate(workshop / "shards", model, **FIXED, handle_impossible_answer=False, say=lines.append)
    assert any(line.startswith("some questions have no answer") for line in lines)


@pytest.mark.slow
def test_the_threshold_that_is_kept_is_the_best_one_unless_one_is_given(workshop: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(workshop / "model", model)
    scored = evaluate(workshop / "shards", model, **FIXED, keep=True)
    kept = read_settings(model)
    assert kept.null_threshold == scored.metrics["oracle"]["best_f1_null_threshold"] != 0
    again = evaluate(workshop / "shards", model, **FIXED)
    assert again.metrics["f1"] == pytest.approx(scored.metrics["oracle"]["best_f1"], abs=2)
    assert again.metrics["f1"] >= scored.metrics["f1"]
    assert again.metrics["oracle"]["best_f1_null_threshold"] == kept.null_threshold  # is no difference from itself
    write_settings(model, replace(kept, calibration=CALIBRATION))
    lines: list[str] = []
    evaluate(workshop / "shards", model, **FIXED, keep=True, null_threshold=kept.null_threshold, say=lines.append)
    assert read_settings(model).calibration == CALIBRATION
    evaluate(workshop / "shards", model, **FIXED, keep=True, null_threshold=1.5, say=lines.append)
    assert (read_settings(model).null_threshold, read_settings(model).calibration) == (1.5, None)
    assert sum("the calibration was fitted with other options and is removed" in line for line in lines) == 1
    evaluate(workshop / "shards", model, **FIXED, keep=True, handle_impossible_answer=False)
    assert read_settings(model) == AnswerOptions(
        max_answer_len=30,
        handle_impossible_answer=False,
        align_to_words=True,
        max_seq_len=90,
        doc_stride=12,
        max_question_len=90,
    )
    # A name that is no folder of the user; `minilm` itself has no head, which is refused first.
    with pytest.raises(UserError, match="--keep writes into the model's folder, which must be a local one"):
        check_writable("minilm", model)
