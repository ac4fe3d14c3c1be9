"""Spark: the recipes inside a real local Spark give what they give outside."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.options import AnswerOptions
from qa_fast.builder.featurizer import Featurizer
from qa_fast.errors import UserError
from qa_fast.integrations import spark as recipes
from qa_fast.integrations.spark import (
    ANSWERS,
    REJECTS,
    answer_in_arrow,
    featurize_in_arrow,
    rejects_in_arrow,
    spark_schema,
)
from qa_fast.schema import FeatureConfig
from tests import sample
from tests.small_runs import make_model_folder

pytestmark = pytest.mark.cluster

CONFIG = FeatureConfig(max_length=48, doc_stride=12)
EXAMPLES = "id string, question string, context string, answers struct<text: array<string>, answer_start: array<int>>"


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    made = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "3").getOrCreate()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "model")


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["example_id"], row["window_index"]))


def test_features_and_rejects_equal_those_outside_of_spark(session: Any, model: Path) -> None:
    rows = sample.rows()
    rows[2]["question"] = " "
    frame = session.createDataFrame([tuple(row.values()) for row in rows], EXAMPLES).repartition(3)
    for split in ("train", "validation"):
        featurizer = Featurizer(model, CONFIG, split=split)
        found = frame.mapInArrow(featurize_in_arrow(featurizer), spark_schema(featurizer)).collect()
        expected = featurizer(pa.Table.from_pylist(rows)).to_pylist()
        assert ordered([row.asDict() for row in found]) == ordered(expected)
    rejected = frame.mapInArrow(rejects_in_arrow(featurizer), REJECTS).collect()
    assert [(row["id"], row["reason"]) for row in rejected] == [
        (rows[2]["id"], "a question must not be empty; received only white space or nothing")
    ]


def test_answers_equal_those_outside_of_spark(session: Any, model: Path) -> None:
    rows = [(row["id"], row["question"], row["context"]) for row in sample.rows()]
    rows[1], rows[2] = (rows[1][0], "", rows[1][2]), (None, *rows[2][1:])
    frame = session.createDataFrame(rows, "id string, question string, context string").repartition(2)
    options = AnswerOptions(top_k=2)
    found = frame.mapInArrow(
        answer_in_arrow(str(model), options, precision="float32", engine="onnx"), ANSWERS
    ).collect()
    pairs = [(question, context) for _, question, context in rows]
    outside = Answerer.from_pretrained(model, "float32", "onnx").answer_pairs(pairs, options)
    by_id = {row["id"]: row.asDict(recursive=True) for row in found}
    assert by_id.keys() == {row_id for row_id, _, _ in rows}
    for (row_id, _, _), result in zip(rows, outside, strict=True):
        if isinstance(result, str):
            assert (by_id[row_id]["rejected"], by_id[row_id]["answers"]) == (result, [])
        else:
            assert by_id[row_id]["rejected"] is None
            assert [answer["answer"] for answer in by_id[row_id]["answers"]] == [answer["answer"] for answer in result]


def test_a_frame_without_its_columns_is_refused(model: Path) -> None:
    batch = pa.RecordBatch.from_pylist([{"id": "a", "text": "b"}])
    with pytest.raises(
        UserError, match="must have the columns id, question and context; missing question, context, found"
    ):
        list(answer_in_arrow(str(model), precision="float32", engine="onnx")(iter([batch])))
    recipes._answerer.cache_clear()


def test_an_id_of_bytes_is_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def answer_pairs(self, pairs: list[tuple[str, str]], _: AnswerOptions) -> list[list[dict[str, Any]]]:
            return [[] for _ in pairs]

    monkeypatch.setattr(recipes, "_answerer", lambda *_: Silent())
    batch = pa.RecordBatch.from_pylist([{"id": "å-1".encode(), "question": "who?", "context": "Ane"}])
    [answered] = answer_in_arrow("model")(iter([batch]))
    assert answered["id"].to_pylist() == ["å-1"]
