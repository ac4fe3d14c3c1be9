"""Recognises forms of files that people bring and that are not read, to say what they are and what can be done."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from qa_fast.errors import UserError

FORMS_READ = (
    "read are SQuAD JSON, MRQA, CMRC, Label Studio's JSON, and rows of question, context and answers as JSON, "
    "JSON lines, CSV, TSV, Parquet or Arrow"
)

# How texts begin -> what they are, and what to do.
_BEGINNINGS: tuple[tuple[str, str, str], ...] = (
    (r"version https://git-lfs\.github\.com/", "a pointer of Git LFS and not the file itself", "run 'git lfs pull'"),
    (r"(?i)\s*<!doctype html|\s*<html", "a web page", "fetch the raw file instead of the page that shows it"),
    (r"\s*<\?xml[^>]*>\s*<xmi:XMI|\s*<xmi:XMI", "a UIMA CAS as XMI (INCEpTION)", "write rows with its cas library"),
    (r"\s*<(\?xml|[A-Za-z])", "XML", "convert it"),
    (r"#FORMAT=WebAnno", "WebAnno TSV (INCEpTION), which has no questions", "convert it"),
    (r"[TREAN#]\d+\t\w+ ", "brat's standoff annotations, which have no questions", "convert them"),
    (r"-DOCSTART-", "CoNLL, which has no questions", "convert it"),
)  # fmt: skip
_PATTERNS = [(re.compile(beginning.encode("latin-1")), what, advice) for beginning, what, advice in _BEGINNINGS]

_ROWS = "write rows of question, context and answers"
_MRQA = "take the version of it in MRQA's form, which is read"
# The keys of a record -> what it is, and what to do. The first entry whose keys all occur is taken.
_RECORDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("long_answer_candidates",), "Natural Questions, whose answers are tokens of a web page", _MRQA),
    (("document_tokens", "question_text"), "Natural Questions, whose answers are tokens of a web page", _MRQA),
    (("supporting_facts",), "HotpotQA, whose context is a list of documents", _MRQA),
    (("QuestionId", "SearchResults"), "TriviaQA, whose documents are in other files", _MRQA),
    (("Data", "Domain"), "TriviaQA, whose documents are in other files", _MRQA),
    (("question_id", "entity_pages"), "TriviaQA with lists of documents", _MRQA),
    (("storyId", "questions"), "NewsQA", _MRQA),
    (("story_id", "answer_char_ranges"), "NewsQA without its stories", _MRQA),
    (("story", "questions"), "CoQA, whose questions belong to a conversation", _ROWS),
    (("passage", "qa_pairs"), "DROP, whose answers may be numbers", "write rows of those with spans"),
    (("passages", "query"), "MS MARCO, whose context is a list of passages", "write rows with one passage each"),
    (("passage", "qas"), "ReCoRD, whose questions have a gap", _ROWS),
    (("article", "options"), "multiple choice (RACE)", "only spans of the context can be answers"),
    (("choices", "answerKey"), "multiple choice", "only spans of the context can be answers"),
    (("%FEATURE_STRUCTURES",), "a UIMA CAS as JSON (INCEpTION)", "write rows with its cas library"),
    (("train", "validation"), "several splits in one file", "save each split as a file that is named by it"),
    (("train", "test"), "several splits in one file", "save each split as a file that is named by it"),
)  # fmt: skip
# The same for records that have no question.
_WITHOUT_QUESTION: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("_task_hash",), "an export of Prodigy, whose spans have no questions", _ROWS),
    (("fields", "responses"), "an export of Argilla", _ROWS),
    (("classes", "annotations"), "labels of entities without questions", _ROWS),
    (("text", "entities"), "an export of Doccano or of another tool for entities, without questions", _ROWS),
    (("text", "label"), "an export of Doccano or of another tool for labels, without questions", _ROWS),
    (("text", "labels"), "an export of Doccano or of another tool for labels, without questions", _ROWS),
    (("messages",), "chats for tuning language models", _ROWS),
    (("prompt", "completion"), "prompts for tuning language models", _ROWS),
)  # fmt: skip


def refuse_bytes(head: bytes, where: str) -> None:
    """Refuse a file by its first bytes, of which 1 KiB is enough.

    Raises:
        UserError: It is of a known form that is not read.
    """
    for pattern, what, advice in _PATTERNS:
        if pattern.match(head.removeprefix(codecs.BOM_UTF8)):
            _refuse(where, what, advice)


def refuse_record(record: Mapping[str, Any], where: str, has_question: bool) -> None:
    """Refuse a file by the keys of its first record.

    Args:
        record: The record, which lacks a question or a context that is text.
        where: The file, for the message.
        has_question: Whether it has a question.

    Raises:
        UserError: It is of a known form that is not read.
    """
    for keys, what, advice in (*_RECORDS, *(() if has_question else _WITHOUT_QUESTION)):
        if all(key in record for key in keys):
            _refuse(where, what, advice)


def _refuse(where: str, what: str, advice: str) -> NoReturn:
    raise UserError(f"{where} is {what}: {advice} ({FORMS_READ})")
