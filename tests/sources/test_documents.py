"""Dividing a train split by document: no document is on both sides, and no row is lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.sources import pieces, resolve_source
from qa_fast.sources.documents import divide
from tests import sample


def row(number: int, text: str, title: str | None = None) -> dict[str, Any]:
    made = {"id": f"q{number}", "question": f"What is number {number}?", "context": text}
    made |= {"answers": {"text": [], "answer_start": []}}
    return made if title is None else made | {"title": title}


def article(title: str | None, texts: list[str], first: int) -> dict[str, Any]:
    paragraphs = [
        {"context": text, "qas": [{"id": f"q{first}-{place}", "question": "What is it?", "answers": []}]}
        for place, text in enumerate(texts)
    ]
    return {"paragraphs": paragraphs} if title is None else {"title": title, "paragraphs": paragraphs}


def sides(path: Path, share: float) -> dict[str, list[tuple[str, str]]]:
    """The ids and the texts of each split."""
    found: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
    for part in divide(resolve_source(str(path), splits=["train"]), share).tables():
        rows = part.rows
        found[part.split] += zip(rows["id"].to_pylist(), rows["context"].cast(pa.string()).to_pylist(), strict=True)
    return found


@given(
    titled=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=2, max_size=40),
    share=st.floats(0.05, 0.95),
    kind=st.sampled_from(["json", "jsonl", "parquet", "articles"]),
    turned=st.booleans(),
)
def test_documents_are_not_parted(
    tmp_path_factory: pytest.TempPathFactory, titled: list[tuple[int, int]], share: float, kind: str, turned: bool
) -> None:
    """Texts under one title are one document, and so are all texts of titles that share a text."""
    folder = tmp_path_factory.mktemp("divided")
    if kind == "articles":
        data: Any = {"data": [article(f"t{t}", [f"text {x}"], i) for i, (x, t) in enumerate(titled)]}
    else:
        data = [row(i, f"text {x}", f"t{t}") for i, (x, t) in enumerate(titled)]
    path = folder / f"train.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(data), path)
    else:
        path = sample.write(folder / ("train.json" if kind == "articles" else f"train.{kind}"), data)
    title_of: dict[str, set[str]] = {}
    for x, t in titled:
        title_of.setdefault(f"text {x}", set()).add(f"t{t}")
    if len(title_of) < 2:
        with pytest.raises(UserError, match="at least two documents"):
            sides(path, share)
        return
    found = sides(path, share)
    train, held_out = ({text for _, text in found[split]} for split in ("train", "validation"))
    assert train
    assert held_out
    assert not train & held_out
    assert sorted(text for side in found.values() for _, text in side) == sorted(f"text {x}" for x, _ in titled)
    if not _is_one_document(title_of):
        titles = [set[str]().union(*(title_of[text] for text in texts)) for texts in (train, held_out)]
        assert not titles[0] & titles[1]
    if turned:  # the order of the file decides nothing
        reverse = data["data"][::-1] if kind == "articles" else data[::-1]
        again = sample.write(folder / "again" / "train.json", {"data": reverse} if kind == "articles" else reverse)
        assert {text for _, text in sides(again, share)["validation"]} == held_out


def _is_one_document(title_of: dict[str, set[str]]) -> bool:
    reached, left = set[str](), list(title_of.values())
    reached |= left.pop()
    while near := [titles for titles in left if titles & reached]:
        reached = reached.union(*near)
        left = [titles for titles in left if titles not in near]
    return not left


def test_the_share_is_met_as_nearly_as_documents_allow(tmp_path: Path) -> None:
    texts = [f"Text {number}" for number in range(12) for _ in range(10)]
    path = sample.write(tmp_path / "my.json", [row(number, text) for number, text in enumerate(texts)])
    said: list[str] = []
    for share, count in ((0.01, 10), (0.2, 20), (0.25, 30), (0.99, 110)):
        assert divide(resolve_source(str(path)), share, said.append).questions["validation"] == count
    assert said[1] == "validation: 2 of 12 documents with 20 of 120 questions (17%); the others are train"


def test_paragraphs_of_an_article_without_a_title_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an article is cut into several pieces."""
    data = {
        "data": [
            article(None, [f"{number} {'wind and waves ' * 9}{i}" for i in range(6)], number) for number in range(4)
        ]
    }
    path = sample.write(tmp_path / "train.json", data)
    whole = sides(path, 0.5)
    assert {len(side) for side in whole.values()} == {12}
    assert Counter(text[0] for _, text in whole["validation"]).most_common()[0][1] == 6
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 600)
    assert len(list(resolve_source(str(path)).blocks())) > 4
    assert sides(path, 0.5) == whole


def test_one_title_for_all_texts_is_no_title(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "train.json", {"data": [article("my data", ["One.", "Two.", "Three."], 0)]})
    said: list[str] = []
    divide(resolve_source(str(path)), 0.3, said.append)
    assert said[0].endswith("(all texts have one title, so each is taken for a document)")


def test_rows_that_are_no_examples_are_rejected_once(tmp_path: Path) -> None:
    lines = [json.dumps(row(number, f"Text {number}.")) for number in range(4)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join([*lines[:2], "[1]", *lines[2:]]))
    parts = list(divide(resolve_source(str(path)), 0.5).tables())
    assert [(part.split, len(part.unreadable)) for part in parts] == [("train", 1), ("validation", 0)]


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        sample.write(tmp_path / "both" / f"{split}.json", sample.rows())
    with pytest.raises(UserError, match=r"has train, validation: leave it out, or pass --split train") as caught:
        divide(resolve_source(str(tmp_path / "both")), 0.2)
    assert "\n" not in str(caught.value)
    one = sample.write(tmp_path / "one.json", [row(0, "The only text.")])
    with pytest.raises(UserError, match=r"one\.json has 1: add documents"):
        divide(resolve_source(str(one)), 0.2)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_titles_may_be_numbers_and_in_another_case(tmp_path: Path, kind: str) -> None:
    rows = [{**row(number, f"text {number}"), "Title": 1900 + number // 4} for number in range(24)]
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        lines = [f"{each['id']},{each['question']},{each['context']},,{each['Title']}" for each in rows]
        path.write_text("\n".join(["id,question,context,answers,Title", *lines]), encoding="utf-8")
    else:
        sample.write(path, rows)
    titles = {split: {int(text.split()[1]) // 4 for _, text in found} for split, found in sides(path, 0.3).items()}
    assert titles["validation"]
    assert not titles["train"] & titles["validation"]


def test_that_titles_in_memory_are_not_read_is_said() -> None:
    said: list[str] = []
    divide(resolve_source([row(number, f"text {number}", "one") for number in range(9)]), 0.3, said.append)
    assert "titles of tables in memory are not read" in said[0]
