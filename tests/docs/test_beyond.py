"""docs/beyond.md, run as it is written: an object store, Ray, two training processes, Spark."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_fast import store
from qa_fast.answer import bulk
from qa_fast.shards import open_shards
from tests import sample
from tests.object_store import s3_bucket
from tests.short_command import write_command
from tests.small_runs import authored_examples, make_model_folder

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


def block(language: str) -> str:
    """The only block of a language on the page."""
    page = (ROOT / "docs" / "beyond.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)
    return code


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with s3_bucket(monkeypatch) as bucket:
        examples = authored_examples()
        sample.write(tmp_path / "raw" / "train.jsonl", examples)
        sample.write(tmp_path / "raw" / "dev.json", {"data": examples[:6]})
        asked = [{"question": row["question"], "context": row["context"]} for row in examples]
        asked[3]["question"] = ""
        sample.write(tmp_path / "questions" / "a.jsonl", asked[:9])
        sample.write(tmp_path / "questions" / "b.json", {"data": asked[9:15]})
        pq.write_table(pa.Table.from_pylist(asked[15:]), tmp_path / "questions" / "c.parquet")
        make_model_folder(tmp_path / "start")
        for folder, there in (("raw", "raw"), ("questions", "questions"), ("start", "model")):
            for path in (tmp_path / folder).iterdir():
                store.place(f"{bucket}/{there}/{path.name}").write_bytes(path.read_bytes())
        monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PART_BYTES", "1200")
        monkeypatch.setattr(bulk, "PART_BYTES", 1200)
        write_command(tmp_path / "bin")
        path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        monkeypatch.setenv("PATH", os.pathsep.join(path))
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        # The tiny model takes 128 tokens; the command's defaults are for a real one.
        commands = block("sh").replace("--engine ray\n", "--engine ray --max-length 128 --doc-stride 32\n")
        # The engine is named, so that actors and this process compute alike.
        commands = commands.replace("--engine ray --format", "--engine ray:onnx --precision float32 --format")
        commands = commands.replace("train s3://corpus/shards", "train s3://corpus/shards --epochs 1")
        done = subprocess.run(["bash", "-e", "-c", commands], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "is up to date: same source, model and options" in done.stderr
        monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "other"))
        assert set(open_shards(f"{bucket}/shards").names) == {"train", "validation"}
        answers = store.place(f"{bucket}/answers")
        index = json.loads((answers / "qa_fast_answers.json").read_bytes())
        assert (index["answered"], index["rejected"]) == (len(examples) - 1, 1)
        parts = [(answers / part["file"]).read_bytes() for part in index["parts"]]
    here = {"form": "parquet", "engine": "onnx", "precision": "float32"}
    bulk.answer_all(tmp_path / "start", str(tmp_path / "questions"), tmp_path / "here", **here)
    assert parts == [path.read_bytes() for path in sorted((tmp_path / "here").glob("part-*"))]
    assert len(parts) > 3
    for made in ("model", "both"):
        metrics = json.loads((tmp_path / made / "training" / "metrics.json").read_bytes())
        assert metrics["steps"] > 0
        assert (tmp_path / made / "model.safetensors").exists()
    assert metrics["processes"] == 2


def test_the_recipes_for_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    make_model_folder(tmp_path / "model", max_position_embeddings=384)
    rows = sample.rows()
    rows[1]["question"] = ""
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        kinds = (
            "id string, question string, context string, answers struct<text: array<string>, answer_start: array<int>>"
        )
        examples = session.createDataFrame([tuple(row.values()) for row in rows], kinds)
        names = {"examples": examples, "questions": examples.select("id", "question", "context")}
        exec(block("python"), names)
        features, rejected, answers = (names[name].collect() for name in ("features", "rejected", "answers"))
    finally:
        session.stop()
    assert {row["example_id"] for row in features} == {row["id"] for row in rows} - {rows[1]["id"]}
    assert [row["id"] for row in rejected] == [rows[1]["id"]]
    assert {row["id"]: bool(row["answers"]) for row in answers} == {row["id"]: row["question"] != "" for row in rows}
