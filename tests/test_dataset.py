"""Raw data sets: rows, splits, and which rows would be rejected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import qa_fast
from qa_fast.errors import UserError
from tests.small_runs import authored_examples


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = authored_examples()
    wrong = rows[0] | {"id": "wrong", "answers": {"text": ["a whale"], "answer_start": [4]}}
    for name, some in (("train", [*rows[:12], wrong]), ("validation", rows[12:])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(lines + ("[1, 2]\n" if name == "train" else ""))
    return str(folder)


def quiet(_: str) -> None:
    pass


def test_rows_are_the_files(source: str) -> None:
    data = qa_fast.load(source, say=quiet)
    rows = authored_examples()
    assert list(data) == ["train", "validation"]
    assert len(data["train"]) == 13
    assert data["train"][0] == rows[0]
    assert data["validation"][-1] == rows[-1]
    assert list(data["validation"]) == rows[12:]
    part = data["train"][2:6:2]
    assert [row["id"] for row in part] == [rows[2]["id"], rows[4]["id"]]
    assert "2 documents" in repr(part)
    assert "13 examples" in repr(data)


def test_an_id_is_found_or_said(source: str) -> None:
    split = qa_fast.load(source, say=quiet)["train"]
    assert split.find("Norre-1") == authored_examples()[7]
    with pytest.raises(UserError, match="an id must be one of the split's; train has no 'Atlantis-0'"):
        split.find("Atlantis-0")
    with pytest.raises(IndexError, match="received row 13"):
        split[13]


def test_a_column_is_a_list(source: str) -> None:
    split = qa_fast.load(source, say=quiet)["train"]
    assert split["question"] == [row["question"] for row in split]
    for wrong in ("frage", 1.5, None):
        with pytest.raises(UserError, match="a row must be a number, a slice or one of the columns id, question"):
            split[wrong]  # type: ignore[call-overload]


def test_what_featurize_would_leave_out(source: str) -> None:
    said: list[str] = []
    data = qa_fast.load(source, say=said.append)
    assert [reject.id for reject in data["train"].rejected] == ["", "wrong"]
    assert said[-1].startswith("train: 1 rows are no examples and were left out, the first without id: row 13 must be")
    assert "nowhere in the context" in data["train"].rejected[1].reason
    assert data["validation"].rejected == []


def test_other_forms(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = qa_fast.load(source, max_examples=4, say=quiet)["train"]
    assert split.to_arrow().column_names == ["id", "question", "context", "answers"]
    frame = pytest.importorskip("pandas") and split.to_pandas()
    assert frame["context"].tolist() == [row["context"] for row in authored_examples()[:4]]
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UserError, match="to_pandas needs pandas"):
        split.to_pandas()


def test_one_split_may_be_named(source: str) -> None:
    assert list(qa_fast.load(source, splits="validation", say=quiet)) == ["validation"]
    data = qa_fast.load(source, say=quiet)
    assert data.get("test") is None
    assert data.get("train") is data["train"]


def test_mistakes_are_told(source: str) -> None:
    with pytest.raises(UserError, match="the split must be one of train, validation; received 'test'"):
        qa_fast.load(source, say=quiet)["test"]
    with pytest.raises(UserError, match="max_examples must be at least 1; received 0"):
        qa_fast.load(source, max_examples=0, say=quiet)


def test_a_notebook_shows_examples_and_splits(source: str) -> None:
    data = qa_fast.load(source, say=quiet)
    shown = data["train"][1]._repr_html_()
    assert "<mark" in shown
    assert "Ane Skou" in shown
    assert "<mark" in next(iter(data["train"]))._repr_html_()
    assert "<svg" in data["train"]._repr_html_()
    assert data._repr_html_().count("validation") > 0


def test_rows_are_selected_in_the_order_given(source: str) -> None:
    split = qa_fast.load(source, say=quiet)["train"]
    assert list(split.select([4, 0, -1])) == [split[4], split[0], split[12]]
    assert len(split.select([])) == 0
    with pytest.raises(IndexError, match="train has 13 examples; received row 13"):
        split.select(iter([1, 13]))
    for rows in ([True, False], np.array([False, True]), [0.5]):
        with pytest.raises(UserError, match=r"rows must be whole numbers; received .*numpy\.flatnonzero"):
            split.select(rows)


def test_a_document_is_on_one_side(source: str) -> None:
    split = qa_fast.load(source, say=quiet)["validation"]
    parts = split.train_test_split(0.3)
    contexts = {name: {row["context"] for row in part} for name, part in parts.items()}
    assert {name: (part.name, len(part)) for name, part in parts.items()} == {
        "train": ("train", 9),
        "test": ("test", 3),
    }
    assert not contexts["train"] & contexts["test"]
    assert list(split.train_test_split(0.3)["test"]) == list(parts["test"])
    with pytest.raises(UserError, match="test_size must be above 0 and below 1; received 1"):
        split.train_test_split(1)
    with pytest.raises(UserError, match=r"at least two documents .* the split has 1"):
        split[:3].train_test_split()
