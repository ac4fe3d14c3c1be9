"""The layouts that are read give the same rows, and those that are not are named: `layouts`, `delimited`, `foreign`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.sources import delimited, pieces, resolve_source
from qa_fast.sources import read as reading
from qa_fast.sources.foreign import FORMS_READ
from qa_fast.sources.forms import NO_PLACE
from qa_fast.sources.read import form_of, read_examples
from tests import sample
from tests.sources.test_files import save
from tests.sources.test_json_text import read

TEXT = "The mill at Osby was rebuilt in 1887 by Karin Holm."
WHEN, WHO, COST = "When?", "Who?", "What did it cost?"
# The same three questions in every layout; the last has no answer.
STARTS = [[32], [40], []]
TEXTS = [["1887"], ["Karin Holm"], []]


def region(start: int, end: int, **more: Any) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": TEXT[start:end], "labels": ["Answer"], **more}
    return {"type": "labels", "from_name": "answer", "to_name": "text", "value": value}


def task(number: int, question: str, *results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    annotations = [{"id": 50 + number, "was_cancelled": False, "result": list(results), **annotation}]
    return {"id": number, "data": {"text": TEXT, "question": question, "id": "doc-7"}, "annotations": annotations}


def marked(number: int, question: str, *spans: tuple[int, int]) -> dict[str, Any]:
    """A row of Label Studio's export JSON-MIN."""
    row: dict[str, Any] = {"id": number, "text": TEXT, "question": question, "annotation_id": 1, "lead_time": 2.5}
    answers = [{"start": start, "end": end, "text": TEXT[start:end], "labels": ["Answer"]} for start, end in spans]
    return {**row, "answer": answers} if answers else row


def question(name: str, text: str, key: str = "id", asked: str = "question", **more: Any) -> dict[str, Any]:
    return {key: name, asked: text, **more}


def in_mrqa(name: str, text: str, *spans: tuple[int, int]) -> dict[str, Any]:
    detected = [
        {"text": TEXT[begin : end + 1], "char_spans": [[begin, end]], "token_spans": [[0, 0]]} for begin, end in spans
    ]
    return question(name, text, "qid", answers=[each["text"] for each in detected], detected_answers=detected)


def decided(number: int, question: str, *spans: tuple[int, int], **more: Any) -> dict[str, Any]:
    """A task of Prodigy."""
    marks = [{"start": start, "end": end, "token_start": 1, "label": "A"} for start, end in spans]
    return {
        "id": number,
        "text": TEXT,
        "question": question,
        "spans": marks,
        "_task_hash": 7,
        "answer": "accept",
        **more,
    }


SQUAD_QAS = [
    question("1", WHEN, answers=[{"text": "1887", "answer_start": "32"}]),
    question("2", WHO, answers=[{"text": "Karin Holm", "answer_start": 40.0, "answer_category": None}]),
    question("3", COST, answers=[], is_impossible=True),
]
MRQA_QAS = [in_mrqa("1", WHEN, (32, 35)), in_mrqa("2", WHO, (40, 49)), in_mrqa("3", COST)]
CMRC_QAS = [
    question(str(at), text, "query_id", "query_text", answers=texts)
    for at, (text, texts) in enumerate(zip((WHEN, WHO, COST), TEXTS, strict=True), 1)
]
ROWS = [
    {"id": str(at), "question": text, "context": TEXT, "answers": {"text": texts, "answer_start": starts}}
    for at, (text, texts, starts) in enumerate(zip((WHEN, WHO, COST), TEXTS, STARTS, strict=True), 1)
]
BY_COLUMN = {name: [row[name] for row in ROWS] for name in ROWS[0]}
COMMA = f"""id,question,context,answer,answer_start
1,When?,"{TEXT}",1887,32
2,Who?,{TEXT},Karin Holm,40.0
3,"{COST}",{TEXT},,
""".replace("\n", "\r\n")
FROM_PANDAS = f"""id;Question;Context;Answers
1;When?;{TEXT};{{'text': array(['1887'], dtype=object), 'answer_start': array([32], dtype=int32)}}
2;Who?;{TEXT};"{{""text"": [""Karin Holm""], ""answer_start"": [40]}}"
3;{COST};{TEXT};{{'text': [], 'answer_start': []}}
"""
# Name -> content and the form that is told.
READ: dict[str, tuple[Any, str]] = {
    "squad.json": ({"data": [{"paragraphs": [{"context": TEXT, "qas": SQUAD_QAS}]}]}, "nested SQuAD JSON"),
    "articles.json": ([{"title": "Osby", "paragraphs": [{"context": TEXT, "qas": SQUAD_QAS}]}], "nested SQuAD JSON"),
    "article.json": ({"paragraphs": [{"context": TEXT, "qas": SQUAD_QAS}]}, "nested SQuAD JSON"),
    "articles.jsonl": ([{"paragraphs": [{"context": TEXT, "qas": SQUAD_QAS}]}], "nested SQuAD JSON"),
    "paragraphs.json": ({"data": [{"context": TEXT, "qas": SQUAD_QAS}]}, "documents-with-questions JSON"),
    "paragraphs.jsonl": ([{"context": TEXT, "qas": SQUAD_QAS[:2]}, {"context": TEXT, "qas": SQUAD_QAS[2:]}],
                         "JSON lines, documents-with-questions"),
    "mrqa.jsonl": ([{"header": {"dataset": "Osby", "split": "dev"}}, {"id": "", "context": TEXT, "qas": MRQA_QAS}],
                   "JSON lines, MRQA"),
    "cmrc.json": ([{"context_id": "T", "context_text": TEXT, "qas": CMRC_QAS, "title": "Osby"}], "CMRC JSON"),
    "tasks.json": ([task(1, WHEN, region(32, 36)), task(2, WHO, region(40, 50)), task(3, COST)], "Label Studio JSON"),
    "old.json": ([{**{key: value for key, value in each.items() if key != "annotations"},
                   "completions": each["annotations"]}
                  for each in (task(1, WHEN, region(32, 36)), task(2, WHO, region(40, 50)), task(3, COST))],
                 "Label Studio JSON"),
    "prodigy.jsonl": ([decided(1, WHEN, (32, 36)), decided(2, WHO, (40, 50)), decided(3, COST)],
                      "JSON lines, Prodigy"),
    "named.json": ({"Osby": {"context": TEXT, "qas": SQUAD_QAS}}, "documents-with-questions JSON"),
    "marked.json": ([marked(1, WHEN, (32, 36)), marked(2, WHO, (40, 50)), marked(3, COST)], "JSON rows"),
    "columns.json": (BY_COLUMN, "JSON rows"),
    "pandas.json": ({name: {str(at): cell for at, cell in enumerate(cells)} for name, cells in BY_COLUMN.items()},
                    "JSON rows"),
    "split.json": ({"columns": list(ROWS[0]), "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]},
                   "JSON rows"),
    "index.json": ({str(at): row for at, row in enumerate(ROWS)}, "JSON rows"),
    "server.json": ({"features": [], "rows": [{"row_idx": at, "row": row} for at, row in enumerate(ROWS)]},
                    "JSON rows"),
    "rows.csv": (COMMA, "CSV"),
    "excel.csv": ("sep=;\n" + FROM_PANDAS, "CSV"),
    "rows.tsv": (COMMA.replace(",", "\t"), "CSV"),
    "pandas.csv": (FROM_PANDAS, "CSV"),
}  # fmt: skip


def write(path: Path, content: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
        return path
    return sample.write(path, content)


@pytest.mark.parametrize("name", READ)
def test_every_layout_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    content, form = READ[name]
    path = write(tmp_path / name, content)
    rows, rejects = read(path)
    assert rejects == []
    assert [(row["id"], row["question"], row["context"]) for row in rows] == [
        (row["id"], row["question"], row["context"]) for row in ROWS
    ]
    assert [row["answers"]["text"] for row in rows] == TEXTS
    starts = [[NO_PLACE], [NO_PLACE], []] if name.startswith("cmrc") else STARTS
    assert [row["answers"]["answer_start"] for row in rows] == starts
    assert form_of(path) == form
    for table, _ in read_examples(path, {}, answered=False):  # answers are neither needed nor read
        assert [row["text"] for row in table["answers"].to_pylist()] == [[]] * table.num_rows


@pytest.mark.parametrize(
    "name", ["squad.json", "paragraphs.jsonl", "mrqa.jsonl", "cmrc.json", "rows.csv", "table.parquet"]
)
def test_questions_without_ids_are_numbered_and_that_is_said(tmp_path: Path, name: str) -> None:
    content = READ.get(name, (None, ""))[0]
    if name == "rows.csv":
        content = "\n".join(line.partition(",")[2] for line in COMMA.splitlines())
        expected = ["row-0", "row-1", "row-2"]
    elif name == "table.parquet":
        expected = ["row-0", "row-1", "row-2"]
    else:
        for key in ("id", "qid", "query_id"):
            content = json.loads(json.dumps(content).replace(f'"{key}": ', '"number": '))
        expected = {
            "squad.json": ["row-0-0-0", "row-0-0-1", "row-0-0-2"],
            "paragraphs.jsonl": ["row-0-0", "row-0-1", "row-1-0"],
            "mrqa.jsonl": ["row-1-0", "row-1-1", "row-1-2"],
            "cmrc.json": ["row-0-0", "row-0-1", "row-0-2"],
        }[name]
    if name == "table.parquet":
        path = save(pa.Table.from_pylist(ROWS).drop_columns("id"), tmp_path / name)
    else:
        path = write(tmp_path / name, content)
    assert [row["id"] for row in read(path)[0]] == expected
    assert form_of(path).endswith(", without ids")
    said: list[str] = []
    resolve_source(str(path), say=said.append)
    assert "train: the questions have no ids and are numbered in the order of their file" in said
    said.clear()
    resolve_source(str(sample.write(tmp_path / "b.jsonl", ROWS)), say=said.append)
    assert not any("numbered" in line for line in said)


def test_numbers_do_not_depend_on_where_a_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(json.dumps(sample.squad()).replace('"id": ', '"number": '))
    document["data"] *= 2
    path = sample.write(tmp_path / "a.json", document)
    whole = read(path)
    assert len({row["id"] for row in whole[0]}) == 2 * sample.QUESTIONS
    for size in (1, 100, 700):
        monkeypatch.setattr(pieces, "BLOCK_BYTES", size)
        assert read(path) == whole


def test_label_studio_tells_what_was_not_annotated(tmp_path: Path) -> None:
    tasks = [
        task(1, WHEN, region(32, 36), was_cancelled=True),
        {**task(2, WHO), "annotations": []},
        task(3, WHO, region(40, 50), region(40, 45), {"type": "choices", "value": {"choices": ["sure"]}}),
        task(4, WHEN, {"type": "labels", "value": {"start": "32", "end": "36", "text": "1887", "labels": ["Answer"]}}),
        task(5, WHEN, {"type": "labels", "value": {"start": 32, "end": 36, "labels": ["Answer"]}}),
        task(6, WHEN, {"type": "textarea", "value": {"text": ["in 1887"]}}),
        {"data": 5, "annotations": []},
    ]  # fmt: skip
    rows, rejects = read(sample.write(tmp_path / "a.json", tasks))
    assert [(row["id"], row["answers"]["text"], row["answers"]["answer_start"]) for row in rows] == [
        ("3", ["Karin Holm", "Karin"], [40, 40]),
        ("4", ["1887"], [32]),
        ("5", ["1887"], [32]),
        ("6", ["in 1887"], [NO_PLACE]),
    ]
    assert [name for name, _ in rejects] == ["1", "2", ""]
    assert "a task must have an annotation; received none" in rejects[0][1]
    renamed = [{**each, "data": {"nr": 9, "body": TEXT, "frage": WHEN}} for each in tasks[2:3]]
    path = sample.write(tmp_path / "b.json", renamed)
    with pytest.raises(UserError, match=r"missing question, context, found body, frage, nr: map .* context=body"):
        read(path)
    (row,), _ = read(path, {"id": "nr", "context": "body", "question": "frage"})
    assert (row["id"], row["question"], row["context"]) == ("9", WHEN, TEXT)


def test_a_decision_of_prodigy_is_no_answer(tmp_path: Path) -> None:
    text = TEXT + " They accept guests."
    tasks = [
        decided(1, WHEN, (32, 36), context=text),
        decided(2, WHEN, (32, 36), context=text, answer="reject"),
        decided(3, WHEN, context=text, spans=None),
    ]
    rows, rejects = read(sample.write(tmp_path / "a.jsonl", tasks))
    assert [(row["id"], row["answers"]["text"]) for row in rows] == [("1", ["1887"])]
    assert [(name, reason.split("received ")[1]) for name, reason in rejects] == [
        ("2", "answer 'reject'"),
        ("3", "none"),
    ]
    table = save(pa.Table.from_pylist(tasks).drop_columns("text"), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"an export of Prodigy as a table.*: give the JSON lines"):
        read(table)
    (row,), _ = read(sample.write(tmp_path / "b.jsonl", [{**tasks[2], "typed": "guests"}]), {"answers": "typed"})
    assert row["answers"] == {"text": ["guests"], "answer_start": [NO_PLACE]}


def test_mrqa_has_every_place_and_the_other_texts(tmp_path: Path) -> None:
    detected = [{"text": "in", "char_spans": [[29, 30], [45, 46]]}]
    qas = [
        question("1", WHEN, "qid", answers=["in", "In"], detected_answers=detected),
        question("2", WHEN, "qid", answers=["in"], detected_answers=[{"text": "in"}]),
    ]
    (row, other), rejects = read(sample.write(tmp_path / "a.jsonl", [{"context": TEXT, "qas": qas}]))
    assert row["answers"] == {"text": ["in", "in", "In"], "answer_start": [29, 45, NO_PLACE]}
    assert other["answers"] == {"text": ["in"], "answer_start": [NO_PLACE]}
    assert rejects == []


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1).filter(
    lambda text: text.strip() and text.lstrip()[0] not in "[{"
)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1), delimiter=st.sampled_from(",;\t|"), mark=st.booleans()
)
def test_any_text_survives_a_table(rows: list[tuple[str, str, str]], delimiter: str, mark: bool) -> None:
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    table.writerows([("question", "context", "answer"), *rows])
    data = file.getvalue().encode("utf-8-sig" if mark else "utf-8")
    found = [tuple(row.values()) for _, row in delimited.table_rows(data, {}, "a.csv")]
    assert found == rows


def test_bad_rows_of_a_table_are_rejected_alone(tmp_path: Path) -> None:
    good = f"1,When?,{TEXT},1887"
    lines = ["id,question,context,answer", good, "2,When?", '3,"a"b,c,d', "", "4,When?,a,b,,", "5,When?,a,b,c"]
    rows, rejects = read(write(tmp_path / "a.csv", "\n".join(lines)))
    assert [row["id"] for row in rows] == ["1", "4"]
    assert [reason.split(";")[0] for _, reason in rejects] == [
        "line 3 must have 4 cells, as the first",
        "line 4 must be a row of a table with quotes written twice",
        "line 7 must have 4 cells, as the first",
    ]
    path = write(tmp_path / "b.csv", f'id,question,context,answer\n{good}\n2,"When?\n3,a,b,c\n')
    for text in ("id,when,text", f"1,When?,{TEXT},1887\n"):  # rows without names
        with pytest.raises(UserError, match="missing question, context, answers"):
            read(write(tmp_path / "c.csv", text))
    with pytest.raises(UserError, match=r"d.csv must name each column once; received 'answer' twice: rename one"):
        read(write(tmp_path / "d.csv", f"question,context,answer,answer\nWhen?,{TEXT},1887,in 1887\n"))
    with pytest.raises(
        UserError, match="must close every quote; the one that opens in the row of line 3 is not closed"
    ):
        read(path)


def test_a_table_has_other_names_long_cells_and_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = "x " * 100_000 + TEXT
    path = write(tmp_path / "a.csv", f"frage,text,antwort,ab\nWann?,{context},1887,{context.index('1887')}\n")
    names = {"question": "frage", "context": "text", "answers": "antwort", "answer_start": "ab"}
    (row,), _ = read(path, names)
    assert row["answers"] == {"text": ["1887"], "answer_start": [context.index("1887")]}
    with pytest.raises(UserError, match=r"missing question, context, answers, found .*: map .*context=text"):
        read(path)
    source = resolve_source(str(path), names)
    assert sum(table.num_rows for block in source.blocks() for table, _ in source.read(block)) == 1
    monkeypatch.setattr(reading, "MOST_PIECE_BYTES", 1000)
    with pytest.raises(UserError, match=r"a CSV file must have at most 0 MiB; .* has more: save it as Parquet"):
        read(path, names)


SPANS = {"text": "Osby", "entities": [{"id": 1, "label": "A", "start_offset": 0, "end_offset": 4}], "relations": []}
# Name -> content, and how the message says what it is.
REFUSED: dict[str, tuple[Any, str]] = {
    "pointer.json": ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS"),
    "page.json": ("\n<!DOCTYPE html>\n<html>", "a web page"),
    "cas.xmi": ('<?xml version="1.0"?>\n<xmi:XMI xmi:version="2.0">', "a UIMA CAS as XMI"),
    "data.xml": ("<quiz><question/></quiz>", "XML"),
    "webanno.tsv": ("#FORMAT=WebAnno TSV 3.3\n", "WebAnno TSV"),
    "brat.ann": ("T1\tAnswer 0 4\tOsby\n", "brat's standoff annotations"),
    "labels.conll": ("-DOCSTART- -X- O O\n", "CoNLL"),
    "cas.json": ({"%TYPES": {}, "%FEATURE_STRUCTURES": []}, "a UIMA CAS as JSON"),
    "joined.jsonl": ([{"version": "v2.0", "data": []}] * 2, "a SQuAD document within a list or a line"),
    "predicted.json": ([{"id": 1, "data": {}, "predictions": []}], "tasks of Label Studio without annotations"),
    "labels.jsonl": ([{"id": 1, "text": "Osby", "label": [[0, 4, "A"]]}], "an export of Doccano"),
    "entities.jsonl": ([SPANS], "an export of Doccano"),
    "prodigy.jsonl": ([{"text": "Osby", "_task_hash": 2, "answer": "accept"}], "an export of Prodigy"),
    "spacy.json": ({"classes": ["A"], "annotations": [["Osby", {"entities": [[0, 4, "A"]]}]]}, "labels of entities"),
    "nq.jsonl": ([{"question_text": "a", "document_html": "b", "long_answer_candidates": []}], "Natural Questions"),
    "hotpot.json": ([{"_id": "1", "question": "a", "answer": "yes", "context": [["T", ["s"]]], "supporting_facts": []}],
                    "HotpotQA"),
    "trivia.json": ({"Data": [{"Question": "a"}], "Domain": "Web"}, "TriviaQA"),
    "news.json": ({"data": [{"storyId": "s", "text": "a", "questions": [{"q": "b"}]}]}, "NewsQA"),
    "news.csv": ("story_id,question,answer_char_ranges\ns,a,1:2\n", "NewsQA without its stories"),
    "coqa.json": ({"data": [{"story": "a", "questions": [], "answers": []}]}, "CoQA"),
    "drop.json": ([{"passage": "a", "qa_pairs": []}], "DROP"),
    "marco.jsonl": ([{"query": "a", "passages": [], "answers": []}], "MS MARCO"),
    "race.json": ([{"article": "a", "options": [], "questions": []}], "multiple choice"),
    "record.json": ({"data": [{"passage": {"text": "a"}, "qas": [{"query": "b"}]}]}, "ReCoRD"),
    "chat.jsonl": ([{"messages": [{"role": "user", "content": "a"}]}], "chats for tuning language models"),
    "tydi.jsonl": ([{"document_plaintext": "a", "question_text": "b", "annotations": []}], "TyDi QA's primary task"),
    "argilla.jsonl": ([{"question": "a", "context": "b", "answer.responses": [], "answer.responses.status": []}],
                      "an export of Argilla"),
    "labelbox.ndjson": ([{"data_row": {"row_data": "a"}, "projects": {}}], "an export of Labelbox"),
    "truth.manifest": ([{"source": "a", "qa": {}, "qa-metadata": {}}], "a manifest of SageMaker"),
    "bioasq.json": ({"questions": [{"body": "a", "snippets": [], "exact_answer": []}]}, "questions in a list"),
    "qasper.json": ({"1909.1": {"full_text": [], "qas": []}}, "QASPER"),
    "boolq.jsonl": ([{"question": "a", "passage": "b", "answer": True}], "yes-or-no questions"),
    "subjqa.csv": ("question,review,human_ans_spans,human_ans_indices\na,b,ANSWERNOTFOUND,\"(1, 2)\"\n", "SubjQA"),
    "cdqa.csv": ("title,paragraphs\na,['b']\n", "documents without questions"),
    "notes.yaml": ("- question: a\n", "text that is neither JSON nor a table"),
    "splits.json": ({"train": [], "validation": []}, "several splits in one file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_named(tmp_path: Path, name: str) -> None:
    content, what = REFUSED[name]
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is {what}")
    assert message.endswith(f" ({FORMS_READ})")
    assert "\n" not in message


def as_text(path: Path) -> list[list[str]]:
    rows, rejects = read(path)
    assert rejects == []
    return [row["answers"]["text"] for row in rows]


def test_fields_that_the_first_row_lacks_count_wherever_a_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"q{number}", "question": WHO, "context": TEXT, "answers": ["Karin Holm"]} for number in range(40)]
    for row in rows[1::3]:
        row["is_impossible"] = True  # type: ignore[assignment]
    rows[13] = {"id": "q13", "question": WHEN, "context": TEXT + TEXT, "answers": ["1887"], "answer_start": [84]}  # type: ignore[dict-item]
    path = sample.write(tmp_path / "a.jsonl", rows)
    whole = read(path)
    assert whole[0][4]["answers"]["text"] == []
    assert whole[0][13]["answers"]["answer_start"] == [84]
    for size in (300, 3000):
        monkeypatch.setattr(pieces, "BLOCK_BYTES", size)
        assert read(path) == whole


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_column_called_header_is_no_header(tmp_path: Path, name: str) -> None:
    row = {"id": "1", "question": WHEN, "context": TEXT, "answers": "1887", "header": "Mills"}
    text = f'id,question,context,answers,header\n1,{WHEN},"{TEXT}",1887,Mills\n'
    assert as_text(write(tmp_path / name, text if name == "a.csv" else [row])) == [["1887"]]


def test_columns_as_json_must_have_the_same_rows(tmp_path: Path) -> None:
    table = {"question": [WHO, WHEN], "context": [TEXT, TEXT], "answers": ["Karin Holm", "1887"]}
    with pytest.raises(UserError, match="'tags' with 1"):
        read(sample.write(tmp_path / "a.json", {**table, "tags": ["x"]}))
    # pandas keys columns by row, and their order may differ.
    keyed = {name: dict(zip("01", values, strict=True)) for name, values in table.items()}
    keyed["answers"] = dict(reversed(keyed["answers"].items()))
    assert as_text(sample.write(tmp_path / "b.json", keyed)) == [["Karin Holm"], ["1887"]]


def test_regions_under_the_name_of_another_tag_are_not_left_out(tmp_path: Path) -> None:
    rows = [marked(1, WHO, (40, 50)), marked(2, COST)]
    rows[0]["label"] = rows[0].pop("answer")
    for order in (rows, rows[::-1]):
        assert sorted(as_text(sample.write(tmp_path / "a.json", order))) == [[], ["Karin Holm"]]
    rows[0]["span"] = rows[0].pop("label")
    path = sample.write(tmp_path / "a.json", rows)
    with pytest.raises(UserError, match="--columns answers=span"):
        read(path)
    tables = read_examples(path, {"answers": "span"})
    assert [row["answers"]["text"] for table, _ in tables for row in table.to_pylist()] == [["Karin Holm"], []]


def test_a_table_of_values_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"columns": ["question", "context", "answers"], "index": [0], "data": [[WHO, TEXT, "Karin Holm"]]}
    path = sample.write(tmp_path / "a.json", table)
    assert as_text(path) == [["Karin Holm"]]
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 100)
    with pytest.raises(UserError, match="orient='records'"):
        read(path)


def test_names_of_columns_hold_in_nested_layouts(tmp_path: Path) -> None:
    document = {"context": TEXT, "qas": [{"id": "1", "frage": WHEN, "question": "no", "antworten": ["1887"]}]}
    for content in ({"data": [{"paragraphs": [document]}]}, [document]):
        path = sample.write(tmp_path / "a.json", content)
        (found,) = read_examples(path, {"question": "frage", "answers": "antworten"})
        assert [(row["question"], row["answers"]["text"]) for row in found[0].to_pylist()] == [(WHEN, ["1887"])]


def test_what_only_looks_like_another_form(tmp_path: Path) -> None:
    cell = write(
        tmp_path / "set.csv", f'id,question,context,answers\n1,Which?,"{TEXT} {{{{1}},{{2}}}}","{{{{1}},{{2}}}}"\n'
    )
    assert as_text(cell) == [["{{1},{2}}"]]
    lines = "// exported, by me\n" + "\n".join(map(json.dumps, ROWS)) + "\n"
    rows, rejects = read(write(tmp_path / "lines.jsonl", lines))
    assert (len(rows), len(rejects)) == (len(ROWS), 1)
    # Where the header of an archive has its mark.
    context = TEXT.ljust(257 - len('question,context,answers\nx,"')) + "ustar"
    assert as_text(write(tmp_path / "a.csv", f'question,context,answers\nx,"{context}",ustar\n')) == [["ustar"]]


def test_a_remark_on_a_region_is_no_answer(tmp_path: Path) -> None:
    remark = {"type": "textarea", "value": {"start": 40, "end": 50, "text": ["I am not sure"]}}
    assert as_text(sample.write(tmp_path / "a.json", [task(1, WHO, region(40, 50), remark)])) == [["Karin Holm"]]
