"""Sources in memory: every form gives the shards of the file, and what is no table is named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import qa_fast
from qa_fast.builder.featurizer import Featurizer
from qa_fast.errors import UserError
from qa_fast.schema import FeatureConfig
from qa_fast.show.source import open_show_source
from qa_fast.sources import pieces, resolve_source
from tests import sample
from tests.sources.test_json_text import examples_of

# A row that is rejected, and an answer that is given as numpy has it.
ROWS = [
    *sample.rows(),
    {**sample.rows()[0], "id": "bad", "answers": {"text": ["1874"], "answer_start": [4.5]}},
]
for row in ROWS:
    row["answers"] = {**row["answers"], "answer_start": [float(start) for start in row["answers"]["answer_start"]]}


def columns(make: Any = list) -> dict[str, Any]:
    return {name: make([row[name] for row in ROWS]) for name in ROWS[0]}


def array(values: list[Any]) -> np.ndarray:
    return np.array(values, object)


def frame(**options: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS).assign(**options)


def with_arrays() -> Any:
    """A frame as pandas reads it from Parquet, with a column that Arrow cannot hold."""
    given = frame()
    given["answers"] = [{name: np.array(values) for name, values in row["answers"].items()} for row in ROWS]
    given["is_impossible"] = ["false", False, None, *[0] * (len(ROWS) - 3)]
    return given


def hub(**options: Any) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(ROWS, **options)


FORMS = {
    "dicts": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "lists": columns,
    "arrays": lambda: columns(array),
    "table": lambda: sample.table(ROWS),
    "batch": lambda: sample.table(ROWS).to_batches()[0],
    "stream": lambda: sample.table(ROWS).to_reader(),
    "pandas": frame,
    "categories": lambda: frame().astype({"context": "category"}),
    "mixed": with_arrays,
    "from a cell": lambda: frame(answers=[str(row["answers"]) for row in ROWS]),
    "polars": lambda: pytest.importorskip("polars").DataFrame(ROWS),
    "datasets": hub,
    "selected": lambda: hub().select(range(len(ROWS))[::-1]).select(range(len(ROWS))[::-1]),
    "streamed": lambda: hub().to_iterable_dataset(),
    "series": lambda: dict(frame().items()),
    "loaded": lambda: qa_fast.load(ROWS, say=quiet)["train"],
}


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def from_file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = sample.write(tmp_path_factory.mktemp("file") / "train.jsonl", ROWS)
    source = resolve_source(str(path))
    return examples_of((part.rows, part.unreadable) for part in source.tables())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_bits_of_the_others(form: str, from_file: Any) -> None:
    source = resolve_source(FORMS[form](), splits="train")
    assert examples_of((part.rows, part.unreadable) for part in source.tables()) == from_file
    assert source.describe() == resolve_source(ROWS).describe()
    assert source.rows("train") == len(from_file[0]) == len(ROWS) - 1


def test_shards_are_those_of_files(tmp_path: Path) -> None:
    model = sample.model_folder(tmp_path / "model")
    options = {"max_length": 48, "doc_stride": 12, "say": quiet}
    for split in ("train", "validation"):
        sample.write(tmp_path / "data" / f"{split}.jsonl", ROWS)
    files = qa_fast.featurize(tmp_path / "data", model, out=tmp_path / "a", **options)
    held = qa_fast.featurize({"train": frame(), "validation": ROWS}, model, out=tmp_path / "b", **options)
    for shards in (files, held):
        assert shards.manifest["splits"]["train"]["rejected"] == 1
    assert [
        (file["file"].rpartition("-")[2], file["xxh3_128"])
        for file in held.manifest["splits"]["validation"]["shards"]
    ] == [
        (file["file"].rpartition("-")[2], file["xxh3_128"])
        for file in files.manifest["splits"]["validation"]["shards"]
    ]  # fmt: skip
    again: list[str] = []
    both = qa_fast.load({"train": columns(), "validation": sample.table(ROWS)}, say=quiet)
    qa_fast.featurize(both, model, out=tmp_path / "b", **{**options, "say": again.append})
    assert any("is up to date" in line for line in again)
    shown = open_show_source(str(tmp_path / "b"))
    assert not shown.has_texts("train")
    assert "their source was in memory" in shown.notes[0]
    featurizer = Featurizer(model, FeatureConfig(48, 12))
    expected = featurizer(sample.table(ROWS))
    for form in ("dicts", "lists", "pandas", "datasets", "loaded"):
        assert featurizer(FORMS[form]()).equals(expected), form
    assert [reject.id for reject in featurizer.featurize(ROWS).rejects] == ["bad"]
    with pytest.raises(UserError, match="the table must have a column id; received question, context, answers"):
        featurizer([{name: row[name] for name in ("question", "context", "answers")} for row in ROWS])


def test_blocks_travel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1 << 24)
    rows = [{"question": f"Who is {n}?", "context": str(n), "answers": None} for n in range(50_000)]
    source = resolve_source(rows)
    blocks = list(source.blocks())
    assert len(blocks) > 1
    for block in blocks:
        packed = pickle.dumps(block)
        assert len(packed) < len(pickle.dumps(source)) * 0.9
        again = pickle.loads(packed)
        assert again == block
        assert examples_of(source.read(again)) == examples_of(source.read(block))
    assert [part.rows["id"][0].as_py() for part in source.tables(1)] == ["row-0"]
    assert sum(part.rows.num_rows for part in source.tables(30_000)) == 30_000


def test_a_document_may_be_parsed_already(from_file: Any) -> None:
    for document in (sample.squad(), sample.squad()["data"]):
        assert qa_fast.load(document, say=quiet)["train"].to_arrow().to_pylist() == sample.rows()


def test_splits_have_their_names() -> None:
    said: list[str] = []
    assert list(qa_fast.load(ROWS, say=said.append)) == ["train"]
    assert "a single table is read as train; pass splits" in said[0]
    assert list(qa_fast.load(ROWS, splits="test", say=quiet)) == ["test"]
    both = {"train": ROWS, "dev": FORMS["lists"]()}
    assert list(qa_fast.load(both, splits="dev", say=quiet)) == ["dev"]
    with pytest.raises(UserError, match="data in memory has; received x, found train, dev"):
        qa_fast.load(both, splits="x", say=quiet)
    assert list(resolve_source(hub(split="test")).splits) == ["test"]
    assert list(resolve_source(qa_fast.load(both, say=quiet)["dev"]).splits) == ["dev"]
    with pytest.raises(UserError, match=r"must consist of letters, digits and any of \. - _; received '\.\./x'"):
        qa_fast.load({"../x": ROWS}, say=quiet)


def test_columns_may_have_other_names() -> None:
    other = sample.table([{"frage" if name == "question" else name: row[name] for name in row} for row in ROWS])
    for table in (other, other.to_pylist(), other.to_pydict()):
        loaded = qa_fast.load(table, columns={"question": "frage"}, say=quiet)
        assert loaded["train"][0]["question"] == ROWS[0]["question"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: None, "a mapping from split to table; received NoneType: a table is a data frame"),
        (lambda: 3, "received int: "),
        (lambda: {1, 2}, "received set: "),
        (lambda: [], "received list without rows: "),
        (lambda: {}, "received dict without rows: "),
        (lambda: ["a"], "received list of str: "),
        (lambda: [frame()], "received list of DataFrame: "),
        (lambda: frame()["id"], r"received pandas\.Series \(.*non-struct"),
        (lambda: {"train": "a.json"}, "the split 'train' of SOURCE must be a table; received str: "),
        (lambda: {"a": ["b"]}, "SOURCE must have the columns question, context, answers .* found a: "),
        (lambda: [{"a": "b"}], "SOURCE must have the columns question, context, answers .* found a: "),
        (lambda: columns() | {"context": "b"}, "a column of SOURCE must be a list; received str as 'context'"),
        (lambda: columns() | {"context": ["b"]}, "as many rows as each other; .*'context' with 1"),
        (lambda: {"train": {"train": ROWS}}, "the split 'train' of SOURCE must have the columns"),
    ],
)
def test_what_is_no_table_is_named(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        qa_fast.load(given(), say=quiet)


def test_missing_values_are_none() -> None:
    pd = pytest.importorskip("pandas")
    row = {**ROWS[0], "is_impossible": pd.NA, "answers": np.float64("nan")}
    assert qa_fast.load([row], say=quiet)["train"][0]["answers"] == {"text": [], "answer_start": []}
    assert pa.table(qa_fast.load([row], say=quiet)["train"]).num_rows == 1


def test_rows_that_are_no_dicts_and_names_that_are_no_texts() -> None:
    good = ROWS[0]
    assert len(qa_fast.load([None, good])["train"]) == 1
    with pytest.raises(UserError):
        qa_fast.load({0: ["q"], 1: ["text"]})


def test_splits_names_a_single_table_in_each_form() -> None:
    for given in (ROWS, columns(), ROWS[0]):
        assert list(qa_fast.load(given, splits="validation")) == ["validation"]
