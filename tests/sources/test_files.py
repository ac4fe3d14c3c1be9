"""Reading Parquet, Arrow, folders and splits: `sources.files`, and the Arrow side of `sources.rows`."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qa_fast import store
from qa_fast.errors import UnreachableError, UserError
from qa_fast.scoring.predictions import read_predictions
from qa_fast.sources import read as reading
from qa_fast.sources import rows
from qa_fast.sources.files import find_files, row_count, split_of
from qa_fast.sources.read import read_examples
from qa_fast.sources.resolve import resolve_model, resolve_source
from tests import sample
from tests.sources.test_json_text import read

LISTS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
STRUCTS = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int64())]))


def save(table: pa.Table, path: Path, **options: Any) -> Path:
    """Write a table as the kind that the name's ending says."""
    if path.suffix == ".parquet":
        with pa.OSFile(os.fsencode(path), "wb") as sink:
            pq.write_table(table, sink, **options)
    elif path.suffix == ".arrow":  # what `datasets` writes
        with pa.OSFile(os.fsencode(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=options.get("row_group_size"))
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=options.get("row_group_size"))
    return path


def with_column(name: str, values: pa.Array | pa.ChunkedArray, table: pa.Table | None = None) -> pa.Table:
    table = sample.table() if table is None else table
    return table.set_column(table.schema.get_field_index(name), name, values)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("group", [None, 1, 3])
def test_parquet_and_arrow(tmp_path: Path, name: str, group: int | None) -> None:
    assert read(save(sample.table(), tmp_path / name, row_group_size=group)) == (sample.rows(), [])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_kind_is_told_by_content(tmp_path: Path, name: str) -> None:
    path = save(sample.table(), tmp_path / name)
    assert read(path.rename(tmp_path / "data.json")) == (sample.rows(), [])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string()),
             pa.binary(), pa.large_binary(), pa.string_view(), pa.binary_view()], ids=str,
)  # fmt: skip
def test_text_columns_of_any_type(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    table = sample.table()
    for column in ("id", "question", "context"):
        table = with_column(column, table[column].cast(kind), table)
    assert read(save(table, tmp_path / name, row_group_size=3)) == (sample.rows(), [])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize(
    "kind", [LISTS, STRUCTS, pa.large_list(STRUCTS.value_type), pa.list_view(STRUCTS.value_type),
             pa.list_(pa.struct([("text", pa.dictionary(pa.int32(), pa.string())), ("answer_start", pa.int64())])),
             pa.struct([("text", pa.list_view(pa.string_view())), ("answer_start", pa.large_list_view(pa.int16()))]),
             pa.struct([("answer_start", pa.large_list(pa.int64())), ("text", pa.large_list(pa.large_string()))])],
    ids=str,
)  # fmt: skip
def test_answers_of_any_layout(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    answers = [row["answers"] for row in sample.rows()]
    if not pa.types.is_struct(kind):
        answers = [sample.listed(each) for each in answers]
    table = with_column("answers", pa.array(answers, kind))
    assert read(save(table, tmp_path / name, row_group_size=3)) == (sample.rows(), [])
    table = table.slice(2, 3)  # buffers that begin before the first row
    assert read(save(table, tmp_path / name)) == (sample.rows()[2:5], [])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_answers_in_lists_of_one_size(tmp_path: Path, name: str) -> None:
    kind = pa.struct([("text", pa.list_(pa.string(), 1)), ("answer_start", pa.list_(pa.int64(), 1))])
    expected = [row | {"answers": {key: values[:1] for key, values in row["answers"].items()}} for row in sample.rows()]
    table = with_column("answers", pa.array([row["answers"] for row in expected], kind))
    assert read(save(table, tmp_path / name, row_group_size=3)) == (expected, [])


@pytest.mark.parametrize("wrap", [lambda texts: pa.ExtensionArray.from_storage(pa.json_(pa.string()), texts),
                                  lambda texts: pa.RunEndEncodedArray.from_arrays(range(1, 1 + len(texts)), texts),
                                  lambda texts: pa.DictionaryArray.from_arrays(
                                      texts.dictionary_encode().indices,
                                      texts.dictionary_encode().dictionary.cast(pa.string_view()))])  # fmt: skip
def test_texts_that_parquet_does_not_hold(tmp_path: Path, wrap: Any) -> None:
    table = with_column("question", wrap(sample.table()["question"].combine_chunks()))
    assert read(save(table, tmp_path / "a.arrow")) == (sample.rows(), [])


@pytest.mark.parametrize("kind", [LISTS, STRUCTS, pa.list_view(STRUCTS.value_type)], ids=str)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_null_answers_are_unanswerable(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    answers: list[Any] = [row["answers"] for row in sample.rows()]
    if kind != LISTS:
        answers = [sample.listed(each) for each in answers]
    answers[1] = None
    found, rejects = read(save(with_column("answers", pa.array(answers, kind)), tmp_path / name, row_group_size=4))
    assert found[1]["answers"] == {"text": [], "answer_start": []}
    assert [row["answers"] for row in found[2:]] == [row["answers"] for row in sample.rows()[2:]]
    assert not rejects


def test_single_answers_outside_lists(tmp_path: Path) -> None:
    kind = pa.struct([("text", pa.string()), ("answer_start", pa.int32())])
    answers: list[Any] = [sample.listed(row["answers"])[0] for row in sample.rows()]
    answers[1] = None
    answers[2] = {"text": None, "answer_start": None}
    found, _ = read(save(with_column("answers", pa.array(answers, kind)), tmp_path / "a.parquet"))
    expected = [{name: values[:1] for name, values in row["answers"].items()} for row in sample.rows()]
    expected[1] = expected[2] = {"text": [], "answer_start": []}
    assert [row["answers"] for row in found] == expected


def test_starts_beyond_any_context_are_left_to_the_checks(tmp_path: Path) -> None:
    answers = [row["answers"] for row in sample.rows()]
    answers[1] = {"text": ["Ane Skou"], "answer_start": [2**40]}
    answers[2] = {"text": ["seventeen"], "answer_start": [-(2**40)]}
    kind = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))])
    found, _ = read(save(with_column("answers", pa.array(answers, kind)), tmp_path / "a.parquet"))
    assert found[1]["answers"]["answer_start"] == [2**31 - 1]
    assert found[2]["answers"]["answer_start"] == [-(2**31 - 1)]
    assert found[3] == sample.rows()[3]


def test_impossible_rows_have_no_answers(tmp_path: Path) -> None:
    table = sample.table().append_column("is_impossible", pa.array([True, None] + [False] * (sample.QUESTIONS - 2)))
    found, _ = read(save(table, tmp_path / "a.parquet"))
    assert found[0]["answers"] == {"text": [], "answer_start": []}
    assert found[1:] == sample.rows()[1:]
    lists = pa.array([sample.listed(row["answers"]) for row in sample.rows()])
    found, _ = read(save(with_column("answers", lists, table), tmp_path / "a.arrow"))
    assert found[0]["answers"] == {"text": [], "answer_start": []}
    assert found[1:] == sample.rows()[1:]


def test_ids_are_text_numbers_or_row_numbers(tmp_path: Path) -> None:
    table = with_column("id", pa.array(np.arange(sample.QUESTIONS, dtype=np.uint16)))
    found, _ = read(save(table, tmp_path / "a.parquet"))
    assert [row["id"] for row in found] == [str(i) for i in range(sample.QUESTIONS)]
    for name in ("a.parquet", "a.arrow"):
        path = save(sample.table().drop_columns("id"), tmp_path / name, row_group_size=3)
        found, _ = read(path)
        assert [row["id"] for row in found] == [f"row-{i}" for i in range(sample.QUESTIONS)]


def test_null_texts_are_empty_texts(tmp_path: Path) -> None:
    table = sample.table()
    for column in ("id", "question", "context"):
        values = table[column].to_pylist()
        values[2] = None
        table = with_column(column, pa.array(values), table)
    found, _ = read(save(table, tmp_path / "a.parquet"))
    assert (found[2]["id"], found[2]["question"], found[2]["context"]) == ("", "", "")
    assert found[3:] == sample.rows()[3:]


def test_long_files_come_in_tables_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rows, reading):
        monkeypatch.setattr(module, "TABLE_ROWS", 3)
    for name in ("a.parquet", "a.arrow"):
        for group in (None, 2):
            path = save(sample.table(), tmp_path / name, row_group_size=group)
            assert max(table.num_rows for table, _ in read_examples(path, {})) <= 3
            assert read(path) == (sample.rows(), [])
    monkeypatch.setattr(reading, "TABLE_ROWS", 100)
    monkeypatch.setattr(reading, "TABLE_CONTEXT_CHARS", 500)
    path = save(sample.table(), tmp_path / "a.arrow", row_group_size=1)
    assert len(list(read_examples(path, {}))) > 1
    assert read(path) == (sample.rows(), [])


def invalid(table: pa.Table, column: str, row: int, kind: pa.DataType) -> pa.Table:
    """The table with bytes in one text that are no UTF-8."""
    values = [text.encode() for text in table[column].to_pylist()]
    values[row] = b"cut \xe6\xb8"
    return with_column(column, pa.array(values, pa.binary()).cast(kind, safe=False), table)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary()], ids=str)
@pytest.mark.parametrize("column", ["id", "question", "context", "answers"])
def test_bytes_that_are_no_utf8_reject_their_row(tmp_path: Path, name: str, column: str, kind: pa.DataType) -> None:
    if column == "answers":
        texts = [[text.encode() for text in row["answers"]["text"]] for row in sample.rows()]
        texts[1] = [b"Ane \xff"]
        answers = pa.array([{"text": text, "answer_start": [0] * len(text)} for text in texts])
        if kind == pa.string():
            answers = answers.cast(LISTS, safe=False)
        table = with_column("answers", answers)
    else:
        table = invalid(sample.table(), column, 1, kind)
    found, rejects = read(save(table, tmp_path / name))
    assert [row["id"] for row in found] == [row["id"] for row in sample.rows() if row["id"] != "en-2"]
    expected = "an answer's text" if column == "answers" else column
    assert rejects == [("" if column == "id" else "en-2", f"{expected} must be valid UTF-8; received other bytes")]
    for got, _ in read_examples(tmp_path / name, {}):
        got.validate(full=True)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("question", pa.array(range(sample.QUESTIONS))),
        ("question", pa.array([1.5] * sample.QUESTIONS)),
        ("id", pa.array([1.5] * sample.QUESTIONS)),
        ("context", pa.array([["a"]] * sample.QUESTIONS)),
        ("context", pa.array([5] * sample.QUESTIONS)),
        ("context", pa.array([5] * sample.QUESTIONS).dictionary_encode()),
        ("answers", pa.array([True] * sample.QUESTIONS)),
        ("answers", pa.array([[1874]] * sample.QUESTIONS)),
        ("answers", pa.array([{"answer_start": [1]}] * sample.QUESTIONS)),
    ],
)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_columns_of_the_wrong_type(tmp_path: Path, column: str, values: pa.Array, name: str) -> None:
    path = save(with_column(column, values), tmp_path / name)
    with pytest.raises(UserError, match=rf"must hold text questions and contexts.*received .*{column}: ") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("question", 5, "expected text, found int64"),
        ("context", 5, "expected text, found int64"),
        ("answers", 5, "expected answers as texts, a struct of lists or a list of structs, found int64"),
    ],
)
def test_what_a_column_should_have_been(tmp_path: Path, column: str, value: int, message: str) -> None:
    path = save(with_column(column, pa.array([value] * sample.QUESTIONS)), tmp_path / "a.arrow")
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_missing_columns_are_named_with_those_found(tmp_path: Path, name: str) -> None:
    path = save(sample.table().rename_columns(["id", "frage", "context", "loesung"]), tmp_path / name)
    with pytest.raises(
        UserError, match="missing question, answers, found context, frage, id, loesung: map other names"
    ):
        read(path)
    with pytest.raises(UserError, match=r"missing nr, found .* --columns id=NAME"):
        read(path, {"id": "nr", "question": "frage", "answers": "loesung"})
    assert read(path, {"question": "frage", "answers": "loesung"}) == (sample.rows(), [])


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str) -> None:
    path = save(sample.table(), tmp_path / name)
    whole = path.read_bytes()
    kind = "Parquet" if name == "a.parquet" else "Arrow"
    for size in (9, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        if name == "a.arrow" and size == len(whole) - 9:
            continue  # only the end mark is missing, which streams may do without
        with pytest.raises(UserError, match=f"must be a whole {kind} file; .*: fetch or write it again"):
            read(path)


def test_a_column_whose_name_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    path = save(sample.table(), tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes().replace(b"question", b"quest\xf2on"))
    with pytest.raises(UserError, match=r"must be a whole Parquet file; .*can't decode byte 0xf2.*: fetch or write it"):
        read(path)


def test_damage_within_never_gets_past_the_reader(tmp_path: Path) -> None:
    whole = save(sample.table(), tmp_path / "a.arrow").read_bytes()
    random = np.random.default_rng(7)
    for _ in range(150):
        data = bytearray(whole)
        for at in random.integers(8, len(data), 3):
            data[at] = random.integers(0, 256)
        path = tmp_path / "b.arrow"
        path.write_bytes(data)
        try:
            for table, _ in read_examples(path, {}):
                table.validate(full=True)
        except UserError:
            pass


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample.write(tmp_path / "a.json", sample.squad())

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="must be readable; Permission denied"):
        read(path)
    assert row_count(path) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-v1.1.json", "train"),
        ("dev-v1.1.json", "validation"),
        ("my_val.parquet", "validation"),
        ("validation-00000-of-00002.parquet", "validation"),
        ("TEST.arrow", "test"),
        ("xquad.de.json", None),
        ("contest.json", None),
        ("train/part-0.json", "train"),
        ("plain_text/test/0000.parquet", "test"),
        ("train/dev.json", "validation"),
    ],
)
def test_names_say_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_folders(tmp_path: Path) -> None:
    names = ["dev.json", "train/a.jsonl", "train/b.parquet", "other.json", "notes.md", ".hidden/train.json",
             "dataset_infos.json"]  # fmt: skip
    for name in names:
        sample.write(tmp_path / name, [])
    assert find_files(tmp_path).splits == {
        "validation": [tmp_path / "dev.json"],
        "train": [tmp_path / "other.json", tmp_path / "train/a.jsonl", tmp_path / "train/b.parquet"],
    }
    assert find_files(tmp_path / "dev.json").splits == {"validation": [tmp_path / "dev.json"]}
    assert find_files(tmp_path / "other.json").splits == {"train": [tmp_path / "other.json"]}


def test_every_file_of_a_folder_that_is_not_read_is_named(tmp_path: Path) -> None:
    read = ["train.json.gz", "b/dev.JSONL.zst", "c.parquet"]
    for name in [*read, "notes.md", "a.tar.gz", "x.gz", ".git/a", ".git/b", ".git/c", ".git/d", "LICENSE",
                 "out/qa_fast.json", "out/validation/a.arrow", "state.json"]:  # fmt: skip
        sample.write(tmp_path / name, [])
    for name, members in (("one.zip", ["validation.json"]), ("two.zip", ["a.json", "b.json"]), ("text.zip", ["a.txt"])):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, b"[]")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "more").symlink_to(tmp_path / "b")
    os.mkfifo(tmp_path / "pipe.json")
    found = find_files(tmp_path)
    assert found.splits == {
        "train": [tmp_path / "c.parquet", tmp_path / "train.json.gz"],
        "validation": [tmp_path / "b/dev.JSONL.zst", tmp_path / "one.zip"],
    }
    assert found.skipped == {
        **dict.fromkeys([".git/a", ".git/b", ".git/c", ".git/d"], "hidden"),
        "LICENSE": "its name has no ending",
        "a.tar.gz": "no data by its ending .tar",
        "gone.json": "a link that leads nowhere",
        "more": "a link to a folder",
        "notes.md": "no data by its ending .md",
        "out/qa_fast.json": "made by qa-fast",
        "out/validation/a.arrow": "made by qa-fast",
        "pipe.json": "a pipe",
        "state.json": "it describes the data",
        "text.zip": "no data by its ending .txt",
        "two.zip": "a zip file must hold one file of data",
        "x.gz": "the name must say what is compressed, as in train.json.gz",
    }
    assert found.remark.startswith("16 not read: .git/a, .git/b, .git/c and 1 more (hidden); LICENSE (its name")
    told: list[str] = []
    source = resolve_source(str(tmp_path), say=told.append)
    assert told[-1] == f"{tmp_path}: {found.remark}"
    assert source.skipped == found.skipped
    for name in ("a.txt", "b.txt"):
        sample.write(tmp_path / "no" / name, [])
    with pytest.raises(UserError, match=r"found none in .*no \(2 not read: a\.txt, b\.txt \(no data by"):
        find_files(tmp_path / "no")


def test_what_datasets_saved(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list(sample.rows())
    table.save_to_disk(tmp_path / "one", num_shards=2)
    table.filter(lambda row: row["id"] != "en-1", cache_file_name=str(tmp_path / "one" / "cache-1.arrow"))
    ((split, paths),) = find_files(tmp_path / "one").splits.items()
    assert split == "train"
    assert [path.name for path in paths] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert [row for path in paths for row in read(path)[0]] == sample.rows()
    both = datasets.DatasetDict({"dev": table, "holdout": table})
    both.save_to_disk(tmp_path / "dict")
    assert set(find_files(tmp_path / "dict").splits) == {"dev", "holdout"}
    named = datasets.Dataset.from_list(sample.rows(), split="test")
    named.save_to_disk(tmp_path / "named")
    assert set(find_files(tmp_path / "named").splits) == {"test"}


def test_another_tools_state_file_is_no_data(tmp_path: Path) -> None:
    sample.write(tmp_path / "state.json", {"a": 1})
    data = sample.write(tmp_path / "rows.json", sample.rows())
    assert find_files(tmp_path).splits == {"train": [data]}


def test_paths_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"received .*nowhere, which does not exist"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"must hold JSON, .* files; found none in"):
        find_files(tmp_path)
    (tmp_path / "qa_fast.json").write_text("{}")
    with pytest.raises(UserError, match="holds shards, which are already featurized"):
        find_files(tmp_path)


def test_what_was_made_inside_a_source_is_no_source(tmp_path: Path) -> None:
    data = sample.write(tmp_path / "train.json", sample.squad())
    for number, mark in enumerate(("qa_fast.json", "qa_fast_answers.json", ".qa_fast-partial/x.json")):
        sample.write(tmp_path / f"out-{number}" / mark, {})
        (tmp_path / f"out-{number}" / "validation").mkdir()
        save(sample.table(), tmp_path / f"out-{number}" / "validation" / "data-00000.arrow")
    assert find_files(tmp_path).splits == {"train": [data]}


def test_row_counts(tmp_path: Path) -> None:
    assert row_count(save(sample.table(), tmp_path / "a.parquet")) == sample.QUESTIONS
    assert row_count(sample.write(tmp_path / "a.json", sample.squad())) == sample.QUESTIONS
    assert row_count(sample.write(tmp_path / "a.jsonl", sample.rows())) == sample.QUESTIONS
    renamed = [{"frage": row["question"]} for row in sample.rows()]
    assert row_count(sample.write(tmp_path / "b.jsonl", renamed), "frage") == sample.QUESTIONS
    assert row_count(save(sample.table(), tmp_path / "a.arrow")) is None
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("c.parquet", "empty", "nowhere"):
        assert row_count(tmp_path / name) is None


def test_a_null_among_the_contexts_of_a_dictionary_is_an_empty_one(tmp_path: Path) -> None:
    context = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array(["a bell here", None]))
    answers = pa.array([{"text": ["bell"], "answer_start": [2]}] * 3)
    table = pa.table({"id": ["a", "b", "c"], "question": ["q"] * 3, "context": context, "answers": answers})
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    [(found, rejects)] = list(read_examples(tmp_path / "train.arrow", {}))
    assert found["context"].to_pylist() == ["a bell here", "", "a bell here"]
    assert rejects == []


def test_a_file_whose_name_says_no_split_is_told_how_to_be_named(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "questions.json", sample.squad_v2())
    told: list[str] = []
    assert list(resolve_source(str(path), say=told.append).splits) == ["train"]
    assert told[-1].endswith("the file name contains no split, so it is read as train; pass --split to name another")
    assert list(resolve_source(str(path), splits=["validation"], say=told.append).splits) == ["validation"]
    assert "no split" not in told[-1]


def test_what_has_no_end_is_refused_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("-", "standard input"), ("/dev/zero", "a device"), (str(tmp_path / "pipe"), "a pipe")):
        with pytest.raises(UserError, match=rf"SOURCE must be a file or folder, .* is {kind}: save what it holds"):
            resolve_source(name)
    with pytest.raises(UserError, match=r"MODEL must be .* which is a device"):
        resolve_model("/dev/zero")
    with pytest.raises(UserError, match=r"predictions must be in a file; /dev/zero is a device"):
        read_predictions("/dev/zero")


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nAccept-Ranges: bytes\r\n\r\n["])
def test_a_server_that_says_nothing_is_given_up(begins: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SILENT_SECONDS", 0.2)
    kept = []

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(listening.accept()[0])
                kept[-1].recv(1 << 16)
                kept[-1].sendall(begins)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        name = f"http://127.0.0.1:{listening.getsockname()[1]}/train.json"
        with pytest.raises(UnreachableError, match=r"one that can be reached and used; .* it was silent for 0.2 s"):
            list(resolve_source(name).tables())
        listening.shutdown(socket.SHUT_RDWR)
    with pytest.raises(UnreachableError, match=r"one that can be reached and used; .*Cannot connect to host"):
        resolve_source(name)


def test_a_compressed_copy_beside_its_file_is_not_read_again(tmp_path: Path) -> None:
    import gzip

    path = sample.write(tmp_path / "train.jsonl", sample.rows())
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    found = resolve_source(str(tmp_path))
    assert found.splits == {"train": [path]}
    assert found.skipped == {"train.jsonl.gz": "train.jsonl is beside it"}
