"""Featurizers: tables cut in any way, in any process, give the rows that a build makes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import qa_fast
from qa_fast.builder.featurizer import Featurizer
from qa_fast.errors import UserError
from qa_fast.raw import EXAMPLES
from qa_fast.schema import FeatureConfig
from tests.small_runs import authored_examples, make_model_folder

ROOT = Path(__file__).parents[2]
CONFIG = FeatureConfig(max_length=32, doc_stride=8)


@pytest.fixture(scope="module", params=["bert", "roberta", "deberta-v3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("featurizer") / "model", request.param)


def table_of(rows: list[dict]) -> pa.Table:
    """Return the table as Ray or Spark have it: plain texts, large integers."""
    return pa.Table.from_pylist(rows)


def by_id(table: pa.Table) -> list[dict]:
    return table.sort_by([("example_id", "ascending"), ("window_index", "ascending")]).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("labels", ["exact", "reference"])
def test_any_cut_gives_the_rows_of_the_shards(model: Path, tmp_path: Path, split: str, labels: str) -> None:
    rows = authored_examples()
    (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_length": 32, "doc_stride": 8, "labels": labels, "say": lambda _: None}
    source = str(tmp_path / f"{split}.jsonl")
    there = qa_fast.featurize(source, str(model), out=tmp_path / "out", splits=[split], **options)
    featurizer = Featurizer(model, FeatureConfig(32, 8, labels), split=split)
    again = pickle.loads(pickle.dumps(featurizer))
    expected = sorted(there[split], key=lambda row: (row["example_id"], row["window_index"]))
    assert len(expected) > len(rows)  # some documents have several windows
    for cuts in ([24], [5, 1, 18], [1] * 24):
        parts, begin = [], 0
        for number, size in enumerate(cuts):
            parts.append((again if number % 2 else featurizer)(table_of(rows[begin : begin + size])))
            begin += size
        found = by_id(pa.concat_tables(parts[::-1]))
        assert found == expected
        assert parts[0].schema == featurizer.schema
    counts = there.manifest["splits"][split]
    normal = qa_fast.load(source, splits=[split], say=lambda _: None)[split].to_arrow()
    for name, value in featurizer.featurize(normal).counts.to_dict().items():
        assert counts[name] == value


@pytest.mark.slow
def test_another_process_needs_no_model_folder(model: Path, tmp_path: Path) -> None:
    featurizer = Featurizer(model, CONFIG)
    given = table_of(authored_examples()[:6])
    with pa.OSFile(str(tmp_path / "given.arrow"), "wb") as sink, pa.ipc.new_file(sink, given.schema) as writer:
        writer.write_table(given)
    (tmp_path / "recipe").write_bytes(pickle.dumps(featurizer))
    moved = model.rename(model.with_name("away"))
    try:
        program = (
            "import pickle, sys, pyarrow as pa\n"
            "recipe = pickle.load(open(sys.argv[1] + '/recipe', 'rb'))\n"
            "given = pa.ipc.open_file(sys.argv[1] + '/given.arrow').read_all()\n"
            "print(recipe(given).to_pylist() == eval(sys.stdin.read()))\n"
            "assert not {'tensorflow', 'jax', 'torch', 'keras'} & set(sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            input=repr(featurizer(given).to_pylist()),
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    finally:
        moved.rename(model)
    assert done.stdout == "True\n", done.stderr[-2000:]


def test_rejects_and_repeats_are_told(model: Path) -> None:
    rows = authored_examples()[:4]
    rows[1] = rows[1] | {"answers": {"text": ["a whale"], "answer_start": [3]}}
    rows[3] = rows[3] | {"id": rows[0]["id"]}
    featurizer = Featurizer(model, FeatureConfig(128, 16))
    assert set(featurizer(table_of(rows))["example_id"].to_pylist()) == {rows[0]["id"], rows[2]["id"]}
    normal = EXAMPLES
    columns = {name: [row[name] for row in rows] for name in normal.names}
    columns["context"] = pa.array(columns["context"]).dictionary_encode()
    done = featurizer.featurize(pa.table(columns, schema=normal))
    assert [reject.id for reject in done.rejects] == [rows[1]["id"], rows[0]["id"]]
    assert (done.counts.examples, done.counts.rejected) == (2, 2)
    plain = featurizer.featurize(table_of(rows))  # of other Arrow types, as the featurizer itself takes it
    assert plain.counts == done.counts
    assert plain.rejects == done.rejects
    with pytest.raises(UserError, match="the table must have the columns question, context, answers"):
        featurizer.featurize(table_of(rows).drop_columns("question"))


def test_fingerprints_tell_recipes_apart(model: Path) -> None:
    prints = {
        Featurizer(model, config, split=split).fingerprint
        for config in (CONFIG, FeatureConfig(32, 8, "reference"), FeatureConfig(33, 8))
        for split in ("train", "validation")
    }
    assert len(prints) == 6
    assert Featurizer(model, CONFIG, encode="direct").fingerprint == Featurizer(model, CONFIG).fingerprint in prints


def test_what_cannot_be_is_told(model: Path) -> None:
    with pytest.raises(UserError, match="must have a column id; received context, question, answers"):
        Featurizer(model, CONFIG)(table_of(authored_examples()).drop_columns(["id"]))
    with pytest.raises(UserError, match="--doc-stride"):
        Featurizer(model, FeatureConfig(16, 16))
    with pytest.raises(UserError, match=r"longest input of model; received 4096"):
        Featurizer(model, FeatureConfig(4096, 16))
    renamed = table_of(authored_examples()).rename_columns(["id", "context", "frage", "answers"])
    assert Featurizer(model, CONFIG, columns={"question": "frage"})(renamed).num_rows > 0
