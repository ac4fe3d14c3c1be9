"""JSON in all its forms, good and bad: `sources.json_text`, `sources.nested` and the row collector."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_fast.errors import UserError, shown
from qa_fast.sources import json_text, rows
from qa_fast.sources.nested import nested_tables
from qa_fast.sources.pieces import WHOLE_JSON, Piece
from qa_fast.sources.read import read_examples
from tests import sample


def read(path: Path, columns: dict[str, str] | None = None) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """All rows and all rejects of a file."""
    return examples_of(read_examples(path, columns or {}))


def examples_of(batches: Iterable[rows.Batch]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """All rows and all rejects of some tables."""
    found, rejects = [], []
    for table, bad in batches:
        found += table.to_pylist()
        rejects += [(reject.id, reject.reason) for reject in bad]
    return found, rejects


@pytest.mark.parametrize("indent", [None, 2])
def test_nested_v1(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(sample.squad(), indent=indent), encoding="utf-8")
    assert read(path) == (sample.rows(), [])


def test_nested_v2_has_unanswerable_questions(tmp_path: Path) -> None:
    found, rejects = read(sample.write(tmp_path / "squad.json", sample.squad_v2()))
    impossible = [row for row in found if row["id"].startswith("none-")]
    assert len(impossible) == len(sample.DOCUMENTS)
    assert all(row["answers"] == {"text": [], "answer_start": []} for row in impossible)
    assert [row for row in found if row not in impossible] == sample.rows()
    assert not rejects


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt"])
@pytest.mark.parametrize("layout", ["dict of lists", "list of dicts"])
def test_flat_rows(tmp_path: Path, name: str, layout: str) -> None:
    flat = sample.rows()
    if layout == "list of dicts":
        flat = [{**row, "answers": sample.listed(row["answers"])} for row in flat]
    assert read(sample.write(tmp_path / name, flat)) == (sample.rows(), [])


def test_flat_rows_under_data_and_a_single_line(tmp_path: Path) -> None:
    assert read(sample.write(tmp_path / "a.json", {"data": sample.rows()})) == (sample.rows(), [])
    assert read(sample.write(tmp_path / "b.jsonl", sample.rows()[:1])) == (sample.rows()[:1], [])


def test_one_row_spread_over_lines_is_no_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"data": [\n' + json.dumps(sample.rows()[0]) + "\n]}", encoding="utf-8")
    assert read(path) == (sample.rows()[:1], [])


def test_marks_blank_lines_and_crlf(tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in sample.rows()]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(["", *lines, ""]).encode())
    assert read(path) == (sample.rows(), [])
    path.write_bytes(b"".join(b"\xef\xbb\xbf" + line.encode() + b"\n" for line in lines))  # of files that were joined
    assert read(path) == (sample.rows(), [])
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(sample.squad()).encode())
    assert read(path) == (sample.rows(), [])


def test_columns_by_other_names(tmp_path: Path) -> None:
    names = {"id": "nr", "question": "frage", "context": "text", "answers": "antworten"}
    flat = [{names[key]: value for key, value in row.items()} for row in sample.rows()]
    assert read(sample.write(tmp_path / "a.json", flat), names) == (sample.rows(), [])


def test_rows_without_ids_are_numbered_and_numbers_are_ids(tmp_path: Path) -> None:
    flat = [{key: value for key, value in row.items() if key != "id"} for row in sample.rows()]
    found, _ = read(sample.write(tmp_path / "a.json", flat))
    assert [row["id"] for row in found] == [f"row-{i}" for i in range(len(flat))]
    found, _ = read(sample.write(tmp_path / "b.jsonl", [{**row, "id": i} for i, row in enumerate(flat)]))
    assert [row["id"] for row in found] == [str(i) for i in range(len(flat))]
    nested = sample.squad()
    nested["data"][0]["paragraphs"][0]["qas"][0]["id"] = 17
    found, rejects = read(sample.write(tmp_path / "c.json", nested))
    assert found[0]["id"] == "17"
    assert not rejects


@pytest.mark.parametrize("marked", [True, 1, 1.0, "true", "True", "1"])
def test_impossible_rows_have_no_answers_whatever_they_hold(tmp_path: Path, marked: Any) -> None:
    flat = [{**row, "is_impossible": marked} for row in sample.rows()]
    found, _ = read(sample.write(tmp_path / "a.jsonl", flat))
    assert all(row["answers"]["text"] == [] for row in found)
    nested = sample.squad()
    nested["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = marked
    found, _ = read(sample.write(tmp_path / "b.json", nested))
    assert found[0]["answers"] == {"text": [], "answer_start": []}
    assert found[1]["answers"] == sample.rows()[1]["answers"]


@pytest.mark.parametrize("marked", [None, False, 0, 0.0, "false", "False", "FALSE ", "0"])
def test_rows_that_are_not_impossible_keep_their_answers(tmp_path: Path, marked: Any) -> None:
    flat = [{**row, "is_impossible": marked} for row in sample.rows()]
    for name, content in (("a.jsonl", flat), ("a.json", flat), ("b.json", {"data": flat})):
        found, rejects = read(sample.write(tmp_path / name, content))
        assert [row["answers"] for row in found] == [row["answers"] for row in sample.rows()]
        assert not rejects
    nested = sample.squad()
    nested["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = marked
    found, _ = read(sample.write(tmp_path / "c.json", nested))
    assert [row["answers"] for row in found] == [row["answers"] for row in sample.rows()]


@pytest.mark.parametrize("marked", ["maybe", "", 2, -1, [], {}, [True], 0.5])
def test_a_mark_that_means_nothing_is_a_reject(tmp_path: Path, marked: Any) -> None:
    rows = sample.rows()
    rows[0]["is_impossible"] = marked
    found, rejects = read(sample.write(tmp_path / "a.json", rows))
    assert [row["id"] for row in found] == [row["id"] for row in rows[1:]]
    reason = f"is_impossible must be true or false; received {shown(marked)}"
    assert rejects == [(rows[0]["id"], reason)]
    nested = sample.squad()
    nested["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = marked
    found, rejects = read(sample.write(tmp_path / "b.json", nested))
    assert len(found) == len(rows) - 1
    assert [reject_reason for _, reject_reason in rejects] == [reason]


@pytest.mark.parametrize("answers", [None, [], {"text": [], "answer_start": []}])
def test_no_answers_mean_unanswerable(tmp_path: Path, answers: Any) -> None:
    found, rejects = read(sample.write(tmp_path / "a.json", [{**sample.rows()[0], "answers": answers}]))
    assert found[0]["answers"] == {"text": [], "answer_start": []}
    assert not rejects


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "id must be text; received None"),
        ({"id": 1.5}, "id must be text; received 1.5"),
        ({"id": True}, "id must be text; received True"),
        ({"question": None}, "question must be text; received None"),
        ({"question": ["a"]}, "question must be text; received ['a']"),
        ({"context": 7}, "context must be text; received 7"),
        ({"answers": 1874}, "answers must be texts or objects with 'text'; received 1874"),
        ({"answers": {"text": ["1874"], "answer_start": []}}, "answer_start as text; received ['1874'] and []"),
        ({"answers": {"text": ["a", "b"], "answer_start": [0]}}, "received ['a', 'b'] and [0]"),
        ({"answers": [{"text": None, "answer_start": 0}]}, "an answer's text must be text; received None"),
        ({"answers": [{"text": "a", "answer_start": "5a"}]}, "whole number of characters; received '5a'"),
        ({"answers": [{"text": "a", "answer_start": 5.5}]}, "whole number of characters; received 5.5"),
        ({"answers": {}}, "answers must be texts or objects with 'text'; received {}"),
        ({"answers": [{"text": "a", "answer_start": True}]}, "whole number of characters; received True"),
        (
            {"answers": [{"text": "a", "answer_start": 10**18}]},
            "whole number of characters; received 1000000000000000000",
        ),
        ({"question": "x" * 90, "context": ["y" * 90]}, "context must be text; received ['yyyy"),
    ],
)
@pytest.mark.parametrize("layout", ["nested", "flat", "lines"])
def test_a_row_of_the_wrong_kind_is_rejected_alone(tmp_path: Path, change: dict, reason: str, layout: str) -> None:
    flat = sample.rows()
    flat[1].update(change)
    if layout == "nested":
        document = sample.squad()
        qas = document["data"][0]["paragraphs"][0]["qas"]
        if "context" in change:
            document["data"][0]["paragraphs"].append({"context": change["context"], "qas": [qas.pop(1)]})
        else:
            qas[1].update(change)
        path = sample.write(tmp_path / "a.json", document)
    else:
        path = sample.write(tmp_path / ("a.json" if layout == "flat" else "a.jsonl"), flat)
    found, rejects = read(path)
    assert {row["id"] for row in found} == {row["id"] for row in sample.rows()} - {"en-2"}
    ((row_id, why),) = rejects
    assert row_id == ("" if "id" in change else "en-2")
    assert reason in why
    assert len(why) < 200


@pytest.mark.parametrize("where", ["question", "context", "answers", "id"])
def test_lone_surrogates_reject_their_row(tmp_path: Path, where: str) -> None:
    flat = sample.rows()
    flat[1][where] = {"text": ["\ud800"], "answer_start": [0]} if where == "answers" else "half \ud83d"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(flat), encoding="utf-8")  # ASCII: the surrogate is an escape
    found, rejects = read(path)
    assert len(found) == sample.QUESTIONS - 1
    assert "must be valid Unicode; received a lone surrogate" in rejects[0][1]
    assert rejects[0][0] == ("" if where == "id" else "en-2")


def test_parts_of_the_wrong_shape_are_rejected(tmp_path: Path) -> None:
    document = sample.squad()
    document["data"] += [5, {"title": "no paragraphs"}]
    document["data"][0]["paragraphs"] += ["text", {"context": "no questions"}, {"context": "c", "qas": [None]}]
    found, rejects = read(sample.write(tmp_path / "a.json", document))
    assert found == sample.rows()
    assert [reason for _, reason in rejects] == [
        "data[0].paragraphs[4] must have a 'context' and a list 'qas'",
        "data[0].paragraphs[5] must have a 'context' and a list 'qas'",
        "data[0].paragraphs[6].qas holds a non-object",
        "row 1 must be an object; received int",
        "data[2] must be an article with a list 'paragraphs'",
    ]
    _, rejects = read(sample.write(tmp_path / "b.json", [*sample.rows(), "text"]))
    assert rejects == [("", f"row {sample.QUESTIONS} must be an object; received str")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must hold examples; it is empty"),
        (b" \n\n", "must hold examples; it is empty"),
        (b"\xef\xbb\xbf", "must hold examples; it is empty"),
        (b'{"data": [\n  {"paragraphs": [}\n]}', "must be JSON; .* at line 2, column 1[0-9]"),
        (b'{"data": [{"paragraphs": [', "must be JSON; .* at line 1, column 2[0-9]"),
        (b"id,question,context\n1,a,b\n", "missing answers, found context, id, question"),
        (b"id question context", "is text that is neither JSON nor a table with the names of its columns"),
        (b"[" * 5000, "must be JSON; .* at line 1"),
        (
            b'{"data": [{"paragraphs": [{"context": "a\xffb"}]}]}',
            "must be UTF-8; received byte 0xff at byte 40 .line 1",
        ),
        (b'\xef\xbb\xbf[\n"\xc3"]', r"must be UTF-8; received byte 0xc3 at byte 6 \(line 2\): save it as UTF-8"),
        (b"5", "must be SQuAD JSON .* found int"),
        (b'"text"', "must be SQuAD JSON .* found str"),
        (b'{"data": 5, "version": 2}', "must be SQuAD JSON .* found data, version"),
        (b'{"version": 2}', "missing question, context, answers, found version: map other names with --columns"),
        (b'[{"frage": "q", "context": "c"}]', "missing question, answers, found context, frage"),
        (b'{"frage": "q", "context": "c"}\n{"frage": "q"}\n', "missing question, answers, found context, frage"),
        (b"[{}]", "found none"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [b'{"id": "x", "question": "\xff"}', b'{"id": ', b'{"id": "\xed\xa0\x80"}'])
@pytest.mark.parametrize("at", [0, 1, 4, sample.QUESTIONS])
def test_a_bad_line_is_rejected_alone(tmp_path: Path, bad: bytes, at: int) -> None:
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in sample.rows()]
    lines.insert(at, bad)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    found, rejects = read(path)
    assert found == sample.rows()
    ((row_id, why),) = rejects
    assert row_id == ""
    assert why.startswith(f"line {at + 1} must be ")


@pytest.mark.parametrize("layout", ["nested", "lines"])
def test_values_of_any_depth_or_size_are_told_briefly(tmp_path: Path, layout: str) -> None:
    deep: Any = "a"
    for _ in range(900):
        deep = [deep]
    flat = sample.rows()
    flat[0]["answers"], flat[1]["answers"], flat[2]["question"] = (
        deep,
        {"text": "x" * 10**6},
        {"a" * 10**6: [1] * 10**5},
    )
    document = sample.squad()
    for number, change in enumerate(flat[:3]):
        paragraph = document["data"][0]["paragraphs"][0] if number < len(sample.DOCUMENTS[0][1]) else None
        if paragraph is not None and number < len(paragraph["qas"]):
            paragraph["qas"][number].update(answers=change["answers"], question=change["question"])
    path = sample.write(
        tmp_path / ("a.json" if layout == "nested" else "a.jsonl"), document if layout == "nested" else flat
    )
    found, rejects = read(path)
    assert len(found) + len(rejects) == sample.QUESTIONS
    assert len(rejects) >= 2
    assert all(len(reason) < 250 for _, reason in rejects)


def test_json_that_no_parser_takes_says_why(tmp_path: Path) -> None:
    good = json.dumps(sample.rows()[0])
    bad = {"nested too deeply": "[" * 100_000 + "]" * 100_000, "too many digits": "1" * 5000}
    for reason, value in bad.items():
        line = good[:-1] + f', "more": {value}' + "}"
        path = tmp_path / "a.jsonl"
        path.write_text(f"{good}\n{line}\n{good}\n")
        found, rejects = read(path)
        if reason == "too many digits" and not rejects:
            continue  # a parser that makes a float of it
        assert len(found) == 2
        assert reason in rejects[0][1], rejects


def test_long_files_come_in_tables_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TABLE_ROWS", 3)
    paths = [sample.write(tmp_path / "a.json", sample.squad()), sample.write(tmp_path / "b.jsonl", sample.rows())]
    for path in paths:
        assert max(table.num_rows for table, _ in read_examples(path, {})) == 3
        assert read(path) == (sample.rows(), [])
    monkeypatch.setattr(rows, "TABLE_ROWS", 100)
    monkeypatch.setattr(rows, "TABLE_CONTEXT_CHARS", 200)
    for path in paths:
        assert len(list(read_examples(path, {}))) > 1
        assert read(path) == (sample.rows(), [])


def test_garbage_collection_is_on_while_tables_are_used(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "a.json", [{**row, "id": 5} for row in sample.rows()])
    for _ in read_examples(path, {}):
        assert gc.isenabled()
    gc.disable()
    try:
        list(read_examples(path, {}))
        assert not gc.isenabled()
    finally:
        gc.enable()


# What a nested document may hold in the place of a good value.
ODD = st.sampled_from(
    [None, 0, 1.5, True, "", "a", [], {}, [None], ["x"], [{}], "\ud800", {"text": ["a"], "answer_start": [0]}]
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Nested documents, good or with one odd value somewhere."""
    kept = draw(st.lists(st.sampled_from(sample.DOCUMENTS), max_size=4))
    document = copy.deepcopy(draw(st.sampled_from([sample.squad, sample.squad_v2]))(kept))
    articles = draw(st.integers(0, 2))
    document["data"] += [{"paragraphs": copy.deepcopy(document["data"][0]["paragraphs"])} for _ in range(articles)]
    if draw(st.booleans()):
        at: Any = document
        for _ in range(draw(st.integers(1, 9))):
            if not at or not isinstance(at, dict | list):
                break
            parent, key = at, draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            at = at[key]
        if draw(st.booleans()):
            parent[key] = draw(ODD)
        else:
            del parent[key]
    return document


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents())
def test_the_bulk_reader_agrees_with_the_careful_one(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    tables = nested_tables(data)
    if tables is None:
        return
    careful = json_text._from_document(data, Piece("a.json", WHOLE_JSON, len(data)), {}, True)
    assert [reject for _, rejects in careful for reject in rejects] == []
    expected = [row for table, _ in careful for row in table.to_pylist()]
    assert [row for table in tables for row in table.to_pylist()] == expected


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_bulk_reader_takes_the_usual_documents(mark: bytes) -> None:
    for document in (sample.squad(), sample.squad_v2()):
        tables = nested_tables(mark + json.dumps(document, indent=1).encode())
        assert tables is not None
        assert sum(table.num_rows for table in tables) >= sample.QUESTIONS
    assert nested_tables(b'{"data": [{"paragraphs": []}]}\n{"data": []}') is None
    assert nested_tables(b"") is None
