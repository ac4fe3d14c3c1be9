"""The same data in every kind of file, and in memory, gives the same rows and rejects, whatever its types."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.builder.job import build_shards
from qa_fast.progress import Reporter
from qa_fast.schema import FeatureConfig
from qa_fast.sources.forms import NO_PLACE, answer_lists, truth_of, whole_of
from qa_fast.sources.memory import read_table
from tests import sample
from tests.sources.test_json_text import examples_of, read

TEXT = "The mill at Osby was rebuilt in 1887 by Karin Holm."
LAYOUTS = ("nested.json", "flat.json", "lines.jsonl", "table.parquet", "stream.arrow")


def columns_of(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of values of one kind, as a column has them, some of them null."""
    return st.one_of([st.lists(kind | st.none(), min_size=1, max_size=4) for kind in kinds])


WORDS = st.sampled_from(["true", "False ", "1", "0.0", "no", "", "NaN"])
NUMBERS = st.sampled_from(["4", " 4.0 ", "-1", "4.5", "x", "", "٤", "1e1"])
MARKS = columns_of(st.booleans(), st.integers(-1, 2), st.sampled_from([0.0, 1.0, 0.5]), WORDS)
STARTS = columns_of(st.integers(-(2**40), 2**40), st.sampled_from([4.0, 4.5, -1.0, 1e300]), st.booleans(), NUMBERS)

TEXTS = st.sampled_from(["1887", "", 5, None])
PLACES = st.sampled_from([32, 40.0, "32", "x", None, True])
ANSWER = st.fixed_dictionaries({}, optional={"text": TEXTS, "answer_start": PLACES, "start": PLACES})
ANSWERS = st.one_of(
    TEXTS,
    ANSWER,
    st.lists(TEXTS, max_size=2),
    st.lists(ANSWER, max_size=2),
    st.fixed_dictionaries({"text": st.lists(TEXTS, max_size=2), "answer_start": st.lists(PLACES, max_size=2)}),
)


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    if name == "nested.json":
        qas = [{key: value for key, value in row.items() if key != "context"} for row in rows]
        path.write_text(json.dumps({"data": [{"paragraphs": [{"context": TEXT, "qas": qas}]}]}))
    elif name.endswith(("json", "jsonl")):
        sample.write(path, rows)
    elif name.endswith((".csv", ".tsv")):
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="," if name.endswith("csv") else "\t")
            table.writeheader()
            for row in rows:
                cells = {key: json.dumps(cell) if isinstance(cell, list | dict) else cell for key, cell in row.items()}
                table.writerow(cells)
    elif name == "table.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return path


def same_everywhere(folder: Path, rows: list[dict[str, Any]], layouts: tuple[str, ...] = LAYOUTS) -> Any:
    """Read the rows from every kind of file and from memory; return what all of them gave."""
    import pandas as pd

    given = [{"id": str(number), "question": "When?", "context": TEXT, **row} for number, row in enumerate(rows)]
    first, *others = [read(written(folder, name, given)) for name in layouts]
    for name, other in zip(layouts[1:], others, strict=True):
        assert other == first, name
    columns = {name: [row[name] for row in given] for name in given[0]}
    typed = "table.parquet" in layouts  # Arrow's columns have one type each
    for table in (given, columns, *([pa.Table.from_pylist(given), pd.DataFrame(given, dtype=object)] if typed else [])):
        assert examples_of(read_table(table, {})) == first, type(table)
    return first


@settings(deadline=None)
@given(MARKS)
def test_marks_mean_the_same_everywhere(tmp_path_factory: pytest.TempPathFactory, marks: list[Any]) -> None:
    answers = {"text": ["1887"], "answer_start": [32]}
    rows = [{"answers": answers, "is_impossible": mark} for mark in marks]
    found, rejects = same_everywhere(tmp_path_factory.mktemp("a"), rows)
    assert [row["id"] for row in found] == [str(at) for at, mark in enumerate(marks) if truth_of(mark) is not None]
    for row in found:
        assert bool(row["answers"]["text"]) != truth_of(marks[int(row["id"])])
    assert len(found) + len(rejects) == len(marks)


@settings(deadline=None)
@given(STARTS)
def test_starts_mean_the_same_everywhere(tmp_path_factory: pytest.TempPathFactory, starts: list[Any]) -> None:
    rows = [{"answers": {"text": ["1887"], "answer_start": [start]}} for start in starts]
    found, rejects = same_everywhere(tmp_path_factory.mktemp("a"), rows)
    expected = {str(at): whole for at, start in enumerate(starts) if (whole := whole_of(start)) is not None}
    assert {row["id"]: row["answers"]["answer_start"][0] for row in found} == expected
    assert len(found) + len(rejects) == len(starts)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": "1887", "answer_start": 32}, {"text": ["1887"], "answer_start": [32]}),
        ({"text": ["1887"], "answer_start": 32.0}, {"text": ["1887"], "answer_start": [32]}),
        ([{"text": "1887", "answer_start": "32"}], {"text": ["1887"], "answer_start": [32]}),
        ([{"text": "1887", "start": 32}], {"text": ["1887"], "answer_start": [32]}),
        ({"text": ["1887"], "answer_start": [None]}, {"text": ["1887"], "answer_start": [NO_PLACE]}),
        ({"text": "1887", "answer_start": None}, {"text": ["1887"], "answer_start": [NO_PLACE]}),
        ({"text": ["1887", "in 1887"]}, {"text": ["1887", "in 1887"], "answer_start": [NO_PLACE, NO_PLACE]}),
        ([{"text": "1887"}], {"text": ["1887"], "answer_start": [NO_PLACE]}),
        (["1887"], {"text": ["1887"], "answer_start": [NO_PLACE]}),
        ("1887", {"text": ["1887"], "answer_start": [NO_PLACE]}),
        ({"text": None, "answer_start": None}, {"text": [], "answer_start": []}),
        ([], {"text": [], "answer_start": []}),
        (None, {"text": [], "answer_start": []}),
    ],
)
def test_answers_may_have_these_forms(tmp_path: Path, answers: Any, expected: Any) -> None:
    ((row,), rejects) = same_everywhere(tmp_path, [{"answers": answers}], (*LAYOUTS, "table.csv", "table.tsv"))
    assert (row["answers"], rejects) == (expected, [])


@pytest.mark.parametrize(
    "names", [("answer", "answer_start"), ("Answers", " Answer_Start"), ("answers.text", "answers.answer_start")]
)
def test_answers_and_starts_may_be_columns(tmp_path: Path, names: tuple[str, str]) -> None:
    given = [("1887", "32"), ("1887", None), (["1887", "by Karin"], [32, 37]), (None, None)]
    expected = [["1887"], [32]], [["1887"], [NO_PLACE]], [["1887", "by Karin"], [32, 37]], [[], []]
    for (text, start), (texts, starts) in zip(given, expected, strict=True):
        row = dict(zip(names, (text, start), strict=True))
        (found,), rejects = same_everywhere(tmp_path, [row], (*LAYOUTS, "table.csv"))
        assert (found["answers"], rejects) == ({"text": texts, "answer_start": starts}, [])


@settings(deadline=None)
@given(st.lists(ANSWERS, min_size=1, max_size=3))
def test_any_answers_mean_the_same_in_json(tmp_path_factory: pytest.TempPathFactory, answers: list[Any]) -> None:
    found, rejects = same_everywhere(tmp_path_factory.mktemp("a"), [{"answers": each} for each in answers], LAYOUTS[:3])
    assert len(found) + len(rejects) == len(answers)
    for row in found:
        texts, starts = answer_lists(answers[int(row["id"])])
        assert row["answers"] == {"text": texts, "answer_start": [whole_of(start) for start in starts]}


@pytest.mark.parametrize("name", ["answer_span", "Answers given"])
@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_answers_under_another_name_are_not_lost_silently(tmp_path: Path, name: str, layout: str) -> None:
    rows = sample.rows()
    rows[1][name] = rows[1].pop("answers")
    if layout == "nested.json":
        document = sample.squad()
        question = document["data"][0]["paragraphs"][0]["qas"][1]
        question[name] = question.pop("answers")
        path = sample.write(tmp_path / layout, document)
    else:
        path = sample.write(tmp_path / layout, rows)
    found, rejects = read(path)
    assert [row["id"] for row in found] == [row["id"] for row in rows if row is not rows[1]]
    ((row_id, reason),) = rejects
    assert row_id == "en-2"
    assert reason.startswith(f"answers must be texts or objects with 'text'; received {{'{name}': ")


def test_the_mark_may_have_another_name(tmp_path: Path) -> None:
    rows = [{**row, "leer": row["id"] == "en-1"} for row in sample.rows()]
    for path in (sample.write(tmp_path / "a.jsonl", rows), written(tmp_path, "table.parquet", rows)):
        found, _ = read(path, {"is_impossible": "leer"})
        assert [row["id"] for row in found if not row["answers"]["text"]] == ["en-1"]


def said_about(folder: Path, documents: Any, model: Path) -> list[str]:
    said: list[str] = []
    path = sample.write(folder / "train.json", documents)
    for _ in range(2):  # when made, and when up to date
        build_shards(str(path), folder / "out", str(model), FeatureConfig(48, 12), report=Reporter(said.append))
    return said


def test_a_train_split_without_answers_and_an_unreadable_language_are_told(tmp_path: Path) -> None:
    model = sample.model_folder(tmp_path / "model")
    document = sample.squad()
    for paragraph in document["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            del question["answers"]
    said = said_about(tmp_path / "a", document, model)
    assert sum(line.startswith("train: no question has an answer") for line in said) == 2
    thai = [
        {"id": "1", "question": "ใคร", "context": "ถนน ใหญ่ และ สวย", "answers": {"text": ["ใหญ่"], "answer_start": [4]}}
    ]
    said = said_about(tmp_path / "b", thai, model)
    assert sum("% of the tokens of the texts are unknown to the tokenizer" in line for line in said) == 2
    said = said_about(tmp_path / "c", sample.squad(), model)
    assert not any("no question has an answer" in line or "unknown" in line for line in said)
