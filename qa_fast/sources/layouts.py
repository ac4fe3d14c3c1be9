"""The layouts in which JSON and CSV hold examples, each with the function that turns a record into examples.

A record is a line, a row, or an element of a document's list. `LAYOUTS` says by which keys a record shows its layout; a
record that shows none is a row. `records_of` finds the records of a document. The functions only rename and gather:
whether a value is accepted is decided by `rows.RowCollector`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from qa_fast.errors import UserError, shown
from qa_fast.raw import Reject
from qa_fast.sources.foreign import refuse_record
from qa_fast.sources.forms import answers_in, name_of, value_of
from qa_fast.sources.rows import column_names, likely_name

# The arguments of `RowCollector.add`, with the values as they were given.
Example = tuple[Any, ...]


class Place(NamedTuple):
    """Where a record is.

    Attributes:
        number: Its number in the file, from 0.
        id_prefix: How the ids of examples without ids begin.
        first: Number of the first of its paragraphs, if the piece begins inside of it.
    """

    number: int
    id_prefix: str
    first: int = 0

    @property
    def name(self) -> str:
        """The id of an example without id, or how it begins if the record holds several."""
        return f"{self.id_prefix}{self.number}"


Reader = Callable[[Mapping[str, Any], Place], Iterable[Example | Reject]]


def reader_of(record: Mapping[str, Any], columns: Mapping[str, str], where: str, answered: bool) -> Reader | None:
    """Return the function that reads a record and those that are like it; None if it is a header.

    Args:
        record: The first record of a piece that shows its layout, or else the first.
        columns: The user's mapping of our column names -> those of the source.
        where: The source, for the message.
        answered: Whether answers are required.

    Raises:
        UserError: It is a row that lacks a column, or of a form that is not read.
    """
    layout = recognised(record)
    if "qas" in record and name_of("context", record) is None:
        refuse_record(record, where, has_question=False)
    if layout is not None:
        return layout.opened(record, columns, where, answered)
    if "header" in record and name_of("question", record) is None:  # the first line of MRQA
        return None
    required = answered
    if "annotation_id" in record:  # a row of Label Studio; one without answers was annotated as having none
        columns = _with_text_as_context(record, columns)
        # The regions are under the name of their tag in the project, which Label Studio calls "label" by itself.
        others = [name for name in record if name != columns.get("context")]
        required = answered and likely_name("answers", others) is not None
        if not required and name_of("answers", record) is None:
            columns = {"answers": "label", **columns}
    question, context = (columns.get(field) or name_of(field, record) for field in ("question", "context"))
    if question not in record or not isinstance(record.get(context or ""), str):
        refuse_record(record, where, question in record)
    names = column_names(list(record), columns, where, answered, required)
    return partial(_row, names=names, known=frozenset(record))


def _row(row: Mapping[str, Any], place: Place, names: Mapping[str, str], known: frozenset[str]) -> tuple[Example]:
    """Read a row of question, context and answers, given the names in the typical row."""
    # It may lack what other rows have, such as a mark that is only written where it is true.
    if not row.keys() <= known:
        found = {field: name_of(field, row) for field in ("id", "is_impossible", "answer_start") if field not in names}
        names = {**names, **{field: name for field, name in found.items() if name is not None}}
    example = (
        row.get(names["id"]) if "id" in names else place.name,
        row.get(names["question"]),
        row.get(names["context"]),
        answers_in(row, names.get("answers", "answers")),
        row.get(names["is_impossible"]) if "is_impossible" in names else None,
        row.get(names["answer_start"]) if "answer_start" in names else None,
    )
    return (example,)


def _article(article: Mapping[str, Any], place: Place, columns: Mapping[str, str]) -> Iterator[Example | Reject]:
    """Read an article of SQuAD's nested form."""
    paragraphs, where = article.get("paragraphs"), f"data[{place.number}]"
    if not isinstance(paragraphs, list):
        yield Reject("", f"{where} must be an article with a list 'paragraphs'")
        return
    for number, paragraph in enumerate(paragraphs, place.first):
        yield from _document(paragraph, f"{place.name}-{number}", f"{where}.paragraphs[{number}]", columns)


def _paragraph(paragraph: Mapping[str, Any], place: Place, columns: Mapping[str, str]) -> Iterator[Example | Reject]:
    """Read a document with its questions, as SQuAD's paragraphs, MRQA and CMRC have them."""
    return _document(paragraph, place.name, f"row {place.number}", columns)


def _document(document: Any, name: str, where: str, columns: Mapping[str, str]) -> Iterator[Example | Reject]:
    questions = document.get("qas") if isinstance(document, dict) else None
    if not isinstance(questions, list):
        yield Reject("", f"{where} must have a 'context' and a list 'qas'")
        return

    def value(field: str, record: Mapping[str, Any]) -> Any:
        return record.get(columns[field]) if field in columns else value_of(field, record)

    context = value("context", document)
    for number, question in enumerate(questions):
        if not isinstance(question, dict):
            yield Reject("", f"{where}.qas holds a non-object")
            continue
        yield (
            value("id", question) if "id" in columns or name_of("id", question) else f"{name}-{number}",
            value("question", question),
            context,
            _detected_answers(question)
            if "detected_answers" in question and "answers" not in columns
            else answers_in(question, columns.get("answers", "answers")),
            value("is_impossible", question),
            value("answer_start", question),
        )


def _detected_answers(question: Mapping[str, Any]) -> Any:
    """Return the answers of MRQA: all places where one was detected, and the texts that were detected nowhere."""
    try:
        found = [
            {"text": answer["text"], "answer_start": span[0]}
            for answer in question["detected_answers"]
            for span in answer["char_spans"]
        ]
        texts, given = {answer["text"] for answer in found}, question.get("answers")
        others = [{"text": text} for text in given if text not in texts] if isinstance(given, list) else []
        return found + others
    except (KeyError, IndexError, TypeError):
        return question["detected_answers"]


def _with_text_as_context(values: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, str]:
    """Return the mapping of names for data of Label Studio and Prodigy, which name the document "text"."""
    return {"context": "text", **columns} if name_of("context", values) is None and "text" in values else columns


def _task(
    task: Mapping[str, Any], place: Place, names: Mapping[str, str], answered: bool
) -> Iterator[Example | Reject]:
    """Read a task of Label Studio: the marked regions of all annotations are its answers."""
    data, annotations = task.get("data"), task.get("annotations", task.get("completions"))
    if not isinstance(data, dict) or not isinstance(annotations, list):
        yield Reject("", f"row {place.number} must be a task with an object 'data' and a list 'annotations'")
        return
    row_id = data.get(names["id"]) if "id" in names else task.get("id", place.name)
    done = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    if answered and not done:  # which does not mean that the question has no answer
        yield Reject(
            str(row_id) if isinstance(row_id, int | str) else "",
            "a task must have an annotation; received none, or cancelled ones",
        )
        return
    context = data.get(names["context"])
    yield row_id, data.get(names["question"]), context, _marked(done, context)


def _marked(annotations: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
    """Return the regions of text that annotations mark, and texts that were typed in."""
    answers = []
    for annotation in annotations:
        results = annotation.get("result")
        for result in results if isinstance(results, list) else []:
            value = result.get("value") if isinstance(result, dict) else None
            if not isinstance(value, dict):
                continue
            whole = value.get("globalOffsets")  # of a region in HTML, whose own offsets count inside of a tag
            span = whole if isinstance(whole, dict) else value
            text, start, end = value.get("text"), span.get("start"), span.get("end")
            if isinstance(text, list):  # typed in; with a start if it is a remark on a region
                answers += [{"text": typed} for typed in text] if start is None else []
            if start is None or isinstance(text, list):
                continue
            answers.append(_region(start, end, text, context))
    return answers


def _region(start: Any, end: Any, text: Any, context: Any) -> dict[str, Any]:
    """Return a marked region as an answer, with its text from the context if the tool leaves it out."""
    if text is None and isinstance(context, str) and isinstance(start, int) and isinstance(end, int):
        text = context[start:end]
    return {"text": text, "answer_start": start}


def _prodigy_task(
    task: Mapping[str, Any], place: Place, names: Mapping[str, str], marks: str, answered: bool
) -> Iterator[Example | Reject]:
    """Read a task of Prodigy, whose "answer" is the annotator's decision; its answers are in the list `marks`."""
    row_id = task.get(names["id"]) if "id" in names else place.name
    found, context, decision = task.get(marks), task.get(names["context"]), task.get("answer")
    if answered and (decision != "accept" or found is None):  # neither means that the question has no answer
        yield Reject(
            str(row_id) if isinstance(row_id, int | str) else "",
            f"a task must be accepted and have a list '{marks}', empty if it has no answer; received "
            + (f"answer {shown(decision)}" if decision != "accept" else "none"),
        )
        return
    if isinstance(found, list):
        found = [
            _region(span.get("start"), span.get("end"), span.get("text"), context) if isinstance(span, dict) else span
            for span in found
        ]
    yield row_id, task.get(names["question"]), context, found


class Layout(NamedTuple):
    """A layout of records other than rows.

    Attributes:
        name: What it is, in words.
        keys: A record with all of these has this layout.
        opened: Returns the function that reads the records, from the arguments of `reader_of`.
    """

    name: str
    keys: tuple[str, ...]
    opened: Callable[[Mapping[str, Any], Mapping[str, str], str, bool], Reader]


def _open(read: Callable[..., Any], _record: Any, columns: Mapping[str, str], *_: Any) -> Reader:
    return partial(read, columns=columns)


def _open_tasks(task: Mapping[str, Any], columns: Mapping[str, str], where: str, answered: bool) -> Reader:
    data = task["data"] if isinstance(task["data"], dict) else {}
    names = column_names(list(data), _with_text_as_context(data, columns), where, answered=False)
    if "id" not in columns:  # the ids of tasks are unique; those in the data may be ids of documents
        names.pop("id", None)
    return partial(_task, names=names, answered=answered)


def _open_prodigy(task: Mapping[str, Any], columns: Mapping[str, str], where: str, answered: bool) -> Reader:
    if "question" not in columns and name_of("question", task) is None:
        refuse_record(task, where, has_question=False)
    marks = columns.get("answers", "spans")
    names = column_names(list(task), _with_text_as_context(task, columns), where, answered=False)
    return partial(_prodigy_task, names=names, marks=marks, answered=answered)


# The second key of MRQA is in its questions. `layout_by_keys`, which sees keys at any depth, names it to people; its
# records are read as those of other documents with questions are.
LAYOUTS = (
    Layout("nested SQuAD", ("paragraphs",), partial(_open, _article)),
    Layout("CMRC", ("qas", "context_text"), partial(_open, _paragraph)),
    Layout("MRQA", ("qas", "detected_answers"), partial(_open, _paragraph)),
    Layout("documents-with-questions", ("qas",), partial(_open, _paragraph)),
    Layout("Label Studio", ("data", "annotations"), _open_tasks),
    Layout("Label Studio", ("data", "completions"), _open_tasks),  # before version 1.0
    Layout("Prodigy", ("_task_hash",), _open_prodigy),
)


def recognised(record: Any) -> Layout | None:
    """Return the layout that a record shows by its keys; None if it is a row, or not an object."""
    if not isinstance(record, dict):
        return None
    # The cell of a table is a text, such as the paragraphs in the CSV of cdQA, and no part of these layouts.
    return next(
        (
            layout
            for layout in LAYOUTS
            if all(key in record for key in layout.keys) and not isinstance(record[layout.keys[0]], str)
        ),
        None,
    )


_STRING = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?', re.DOTALL)


def keys_in(head: bytes) -> list[str]:
    """Return the keys of objects in the start of a JSON file, at any depth and in order."""
    return [found[1].decode("utf-8", "replace") for found in _STRING.finditer(head) if found[2]]


def layout_by_keys(keys: Collection[str]) -> str | None:
    """Return in words the layout of JSON with these keys; None if it has rows."""
    return next((layout.name for layout in LAYOUTS if all(key in keys for key in layout.keys)), None)


def records_of(document: Any) -> list[Any] | None:
    """Return the records of a parsed JSON document; None if it has none.

    A document is a list of records; an object with such a list as "data"; a table as pandas, `datasets` or the
    server of the Hub's datasets write it; or a single record.
    """
    if not isinstance(document, dict):
        return document if isinstance(document, list) else None
    if recognised(document):
        return [document]
    data, rows, names = document.get("data"), document.get("rows"), document.get("columns")
    if isinstance(data, list):
        if isinstance(names, list) and all(isinstance(row, list) for row in data):  # pandas, orient="split"
            return [dict(zip(names, row, strict=False)) for row in data]
        return data
    if "data" in document:
        return None
    if isinstance(rows, list) and rows and all(isinstance(row, dict) and "row" in row for row in rows):
        return [row["row"] for row in rows]  # the server of the Hub's datasets
    if document and all(
        isinstance(row, dict) and (name_of("question", row) or recognised(row)) for row in document.values()
    ):
        return list(document.values())  # pandas, orient="index", and documents by their names
    if all(isinstance(value_of(name, document), list | dict) for name in ("question", "context")):
        return _rows_of_columns({name: column for name, column in document.items() if isinstance(column, list | dict)})
    return [document]


def _rows_of_columns(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table that was written by columns: lists, or objects that pandas keys by row."""
    by_row = [dict(enumerate(column)) if isinstance(column, list) else column for column in columns.values()]
    if any(column.keys() != by_row[0].keys() for column in by_row):
        sizes = ", ".join(f"{name!r} with {len(column)}" for name, column in zip(columns, by_row, strict=True))
        raise UserError(
            f"the columns of a table must have the same rows as each other; received {shown(sizes)}: mend or leave out "
            "the columns that differ"
        )
    return [dict(zip(columns, (column[row] for column in by_row), strict=True)) for row in by_row[0]]
