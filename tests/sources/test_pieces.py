"""Cutting files into pieces, and reading the pieces: `sources.pieces` and `kernels.json_cuts`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.sources import pieces
from qa_fast.sources import read as reading
from qa_fast.sources.pieces import Block, blocks_of, pieces_of
from qa_fast.sources.read import read_block, read_examples, read_piece
from tests import sample
from tests.memory_place import memory_place
from tests.sources.test_files import save
from tests.sources.test_json_text import documents


def rows_of(found: Any) -> tuple[list[dict[str, Any]], list[str]]:
    rows, rejects = [], []
    for table, bad in found:
        rows += table.to_pylist()
        rejects += [reject.reason for reject in bad]
    return rows, rejects


def cut_at(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(pieces, "BLOCK_BYTES", size)


def flat(rows: list[dict[str, Any]], ids: bool = True) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if ids or key != "id"} for row in rows]


LAYOUTS = {
    "nested": lambda: json.dumps(sample.squad()),
    "nested, version last": lambda: json.dumps(
        {"data": sample.squad()["data"], "version": {"data": [1, {}]}}, indent=1
    ),
    "two articles": lambda: json.dumps({"x": ["data", "]"], "data": sample.squad()["data"] * 2}),
    "rows under data": lambda: json.dumps({"data": sample.rows()}),
    "a list": lambda: json.dumps(sample.rows(), ensure_ascii=False),
    "a list of articles": lambda: json.dumps(sample.squad()["data"]),
    "lines": lambda: "\n".join(json.dumps(row, ensure_ascii=False) for row in sample.rows()),
    "lines, blank ones among them": lambda: "\n\n".join(json.dumps(row) for row in sample.rows()) + "\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 100, 400, 1000])
def test_cut_json_has_the_rows_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, size: int
) -> None:
    path = tmp_path / "a.json"
    path.write_text(LAYOUTS[layout](), encoding="utf-8")
    whole = rows_of(read_examples(path, {}))
    assert whole[0]
    cut_at(monkeypatch, size)
    found = list(pieces_of(path))
    assert len(found) > 1 or size == 1000
    assert sum(piece.size for piece in found) == path.stat().st_size
    assert rows_of(batch for piece in found for batch in read_piece(piece, {})) == whole


def test_what_is_wrong_is_found_in_a_cut_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = sample.squad()
    document["data"] += [5, *sample.squad()["data"], {"title": "no paragraphs"}]
    document["data"][0]["paragraphs"] += ["text", {"context": "no questions"}, {"context": "c", "qas": [None]}]
    path = sample.write(tmp_path / "a.json", document)
    whole = rows_of(read_examples(path, {}))
    assert any(reason.startswith("data[0].paragraphs[5]") for reason in whole[1])
    bad_lines = [*map(json.dumps, flat(sample.rows(), ids=False)), '{"question": ', "", "[1]"]
    lines = tmp_path / "b.jsonl"
    lines.write_text("\n".join([*bad_lines, bad_lines[0]]))
    whole_lines = rows_of(read_examples(lines, {}))
    assert whole_lines[0][-1]["id"] == f"row-{len(bad_lines)}"  # its line
    assert len(whole_lines[1]) == 2
    for size in (1, 100, 700):
        cut_at(monkeypatch, size)
        assert rows_of(read_examples(path, {})) == whole
        assert rows_of(read_examples(lines, {})) == whole_lines


def test_a_break_in_a_long_document_is_told_by_its_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(sample.squad())
    cut_at(monkeypatch, 200)
    at = text.rindex('"qas"')
    path = tmp_path / "a.json"
    path.write_text(text[:at] + "?" + text[at + 1 :])
    with pytest.raises(UserError, match=rf"a\.json must be JSON; .* at byte {at}"):
        rows_of(read_examples(path, {}))
    path.write_bytes(text[:at].encode() + b"\xff" + text[at:].encode())
    with pytest.raises(UserError, match=rf"must be UTF-8; received byte 0xff at byte {at}: save it"):
        rows_of(read_examples(path, {}))
    path.write_text(text[:-3])
    with pytest.raises(UserError, match=r"must be JSON; .* at byte \d+"):
        rows_of(read_examples(path, {}))


def test_a_document_without_a_place_to_cut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(monkeypatch, 100)
    monkeypatch.setattr(pieces, "MOST_PIECE_BYTES", 5000)
    path = tmp_path / "a.json"
    for text in ('{"rows": [' + "1," * 5000 + "1]}", '[{"question": "' + "x" * 10_000 + '"}]'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"must be JSON lines, a list of examples, .* has none after byte 0"):
            list(pieces_of(path))
    path.write_text('{"a": 1}\n{"a": "' + "x" * 10_000 + '"}')
    with pytest.raises(UserError, match=r"has none after byte \d+: split the element or line there"):
        list(pieces_of(path))


@settings(deadline=None)
@given(document=documents(), size=st.integers(1, 2000), indent=st.sampled_from([None, 1]))
def test_any_document_cut_anywhere_has_the_rows_of_the_whole(
    document: dict[str, Any], size: int, indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.json"
    path.write_text(json.dumps(document, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, 1 << 30)
        try:
            whole = rows_of(read_examples(path, {}))
        except UserError:
            return  # of no known shape; which part of it says so first may differ
        first = document["data"][0] if document.get("data") else None
        if not (isinstance(first, dict) and isinstance(first.get("paragraphs"), list)):
            return  # what is cut off before the first "paragraphs" is taken for flat rows
        cut_at(patch, size)
        cut = rows_of(read_examples(path, {}))
    assert cut[0] == whole[0]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_cut_tables_have_the_rows_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: int
) -> None:
    nameless = sample.table().drop_columns(["id"])
    for number, table in enumerate((sample.table(), nameless)):
        path = save(table, tmp_path / f"{number}{name}", row_group_size=2)
        whole = rows_of(read_examples(path, {}))
        with monkeypatch.context() as patch:
            cut_at(patch, 1)
            patch.setattr(pieces, "_PIECE_ROWS", rows)
            found = list(pieces_of(path))
            assert len(found) == (1 if rows == 100 else -(-sample.QUESTIONS // 2))
            assert rows_of(batch for piece in found for batch in read_piece(piece, {})) == whole


def test_a_file_that_is_gone_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(monkeypatch, 300)
    path = sample.write(tmp_path / "a.jsonl", sample.rows())
    found = list(pieces_of(path))
    path.unlink()
    with pytest.raises(UserError, match=r"a\.jsonl must be readable; No such file or directory"):
        rows_of(read_piece(found[1], {}))


def test_large_row_groups_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(sample.table(), tmp_path / "a.parquet")
    whole = rows_of(read_examples(path, {}))
    monkeypatch.setattr(reading, "_GROUP_BYTES", 1)
    monkeypatch.setattr(reading, "TABLE_ROWS", 2)
    tables = [table.num_rows for table, _ in read_examples(path, {})]
    assert max(tables) == 2
    assert rows_of(read_examples(path, {})) == whole


def test_blocks_are_cut_from_all_files_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [sample.write(tmp_path / f"{number}.jsonl", flat(sample.rows(), ids=False)) for number in range(3)]
    dev = sample.write(tmp_path / "dev.json", sample.squad())
    size = paths[0].stat().st_size
    for target, blocks in ((size * 10, 1), (size * 2, 2), (size, 3), (size // 2, 6)):
        cut_at(monkeypatch, target)
        found = list(blocks_of({"train": paths, "validation": [dev]}))
        train = [block for block in found if block.split == "train"]
        assert len(train) >= blocks
        assert [block.number for block in train] == list(range(len(train)))
        assert next(block.name for block in found if block.split == "validation") == "validation-00000"
        rows, _ = rows_of(batch for block in train for batch in read_block(block, {}))
        numbers = range(sample.QUESTIONS)
        assert [row["id"] for row in rows] == [f"row-{file}-{number}" for file in range(3) for number in numbers]
        assert pickle.loads(pickle.dumps(found)) == found


def test_a_limited_block_has_its_first_rows(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "a.jsonl", sample.rows())
    (block,) = blocks_of({"train": [path, path]})
    for limit in (1, sample.QUESTIONS, sample.QUESTIONS + 1, 99):
        rows, _ = rows_of(read_block(Block("train", 0, block.pieces, limit), {}))
        assert rows == (sample.rows() * 2)[:limit]


def test_files_elsewhere_are_read_and_cut_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = memory_place()
    for number, name in enumerate(("a.parquet", "a.arrow", "a.feather")):
        local = save(sample.table(), tmp_path / name, row_group_size=2)
        (away / name).parent.mkdir(parents=True, exist_ok=True)
        (away / name).write_bytes(local.read_bytes())
        assert rows_of(read_examples(away / name, {})) == (sample.rows(), []), number
    for layout, text in LAYOUTS.items():
        (away / "b.json").write_bytes(text().encode())
        (tmp_path / "b.json").write_bytes(text().encode())
        with monkeypatch.context() as patch:
            cut_at(patch, 300)
            assert rows_of(read_examples(away / "b.json", {})) == rows_of(read_examples(tmp_path / "b.json", {})), (
                layout
            )
    with pytest.raises(UserError, match=r"SOURCE must exist; memory://.*none\.json does not exist"):
        rows_of(read_examples(away / "none.json", {}))


def test_rows_without_answers_are_read_where_none_are_needed(tmp_path: Path) -> None:
    bare = [{"question": row["question"], "context": row["context"]} for row in sample.rows()]
    paths = [sample.write(tmp_path / "a.jsonl", bare), sample.write(tmp_path / "b.json", bare),
             save(pa.Table.from_pylist(bare), tmp_path / "c.parquet")]  # fmt: skip
    for path in paths:
        rows, rejects = rows_of(read_examples(path, {}, answered=False))
        assert [(row["question"], row["context"]) for row in rows] == [tuple(row.values()) for row in bare]
        assert all(row["answers"] == {"text": [], "answer_start": []} for row in rows)
        assert not rejects
        with pytest.raises(UserError, match="missing answers"):
            rows_of(read_examples(path, {}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}\n{"b": 2}', True),
        ('\ufeff\n {"a": 1}\r\n\n\n{"b": 2}\n', True),
        ('{"a": 1}\nbad\nbad', True),
        ('{"a": \n{"b": 2}', True),
        ('{"a": \n{"b": 2}\nbad', True),
        ('{"a": 1}', False),
        ('{"a": 1}\n', False),
        ('{"data": [\n{"b": 2}\n]}', False),
        ('{"data": [\n{"b": 2}\n, {"b": 3}]}', False),
        ('{"data":\n{"b": 2}\n}', False),
        ('[{"a": 1},\n{"b": 2}]', False),
        ('{\n"a": 1\n}', False),
        ("", False),
        ("\n\n", False),
    ],
)
def test_lines_are_told_from_a_document(text: str, expected: bool) -> None:
    assert pieces.is_lines(text.encode()) == expected


def test_a_long_run_of_spaces_is_read_in_one_pass() -> None:
    assert not pieces.is_lines(b'{"data":' + b" " * 2_000_000 + b"[]}")
