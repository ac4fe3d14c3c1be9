"""Recognises forms of files that people bring and that are not read, to say what they are and what can be done."""

from __future__ import annotations

import codecs
import fnmatch
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from qa_fast.errors import UserError

FORMS_READ = (
    "read are SQuAD JSON, MRQA, CMRC, Label Studio's and Prodigy's JSON, and rows of question, context and answers as "
    "JSON, JSON lines, CSV, TSV, Parquet or Arrow"
)

# How texts begin -> what they are, and what to do.
_BEGINNINGS: tuple[tuple[str, str, str], ...] = (
    (r"version https://git-lfs\.github\.com/", "a pointer of Git LFS and not the file itself", "run 'git lfs pull'"),
    (r"(?i)\s*<!doctype html|\s*<html", "a web page", "fetch the raw file instead of the page that shows it"),
    (r"\s*<\?xml[^>]*>\s*<xmi:XMI|\s*<xmi:XMI", "a UIMA CAS as XMI (INCEpTION)", "write rows with its cas library"),
    (r"\s*<(\?xml|[A-Za-z])", "XML", "convert it"),
    (r"#FORMAT=WebAnno|# (webanno|de\.tudarmstadt)\.", "WebAnno TSV (INCEpTION), which has no questions", "convert it"),
    (r"[TREAN#]\d+\t\w+ ", "brat's standoff annotations, which have no questions", "convert them"),
    (r"-DOCSTART-", "CoNLL, which has no questions", "convert it"),
)  # fmt: skip
_PATTERNS = [(re.compile(beginning.encode("latin-1")), what, advice) for beginning, what, advice in _BEGINNINGS]

_ROWS = "write rows of question, context and answers"
_PASSAGE = "write rows with one passage each, and the answers that stand in it"
_SPANS = "only spans of the context can be answers"
_MRQA = "take the version of it in MRQA's form, which is read"
# The keys of a record, in which * stands for any text -> what it is, and what to do. The first entry whose keys all
# occur is taken.
_RECORDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("document_plaintext", "question_text"), "TyDi QA's primary task, whose answers are bytes of a whole article",
     "take its gold passage task, whose form of SQuAD is read"),
    (("long_answer_candidates",), "Natural Questions, whose answers are tokens of a web page", _MRQA),
    (("document_tokens", "question_text"), "Natural Questions, whose answers are tokens of a web page", _MRQA),
    (("supporting_facts",), "HotpotQA, whose context is a list of documents", _MRQA),
    (("QuestionId", "SearchResults"), "TriviaQA, whose documents are in other files", _MRQA),
    (("Data", "Domain"), "TriviaQA, whose documents are in other files", _MRQA),
    (("question_id", "entity_pages"), "TriviaQA with lists of documents", _MRQA),
    (("storyId", "questions"), "NewsQA", _MRQA),
    (("story_id", "answer_char_ranges"), "NewsQA without its stories", _MRQA),
    (("story_id", "answer_token_ranges"), "NewsQA, whose answers are ranges of tokens", _MRQA),
    (("human_ans_spans", "human_ans_indices"), "SubjQA", f"{_ROWS}, with none for ANSWERNOTFOUND"),
    (("full_text", "qas"), "QASPER, whose context is a list of sections", _ROWS),
    (("documents", "fact_or_opinion"), "DuReader, whose context is a list of documents", _ROWS),
    (("positive_ctxs",), "data for retrieval (DPR), whose contexts are lists of passages", _PASSAGE),
    (("retrieved_contexts",), "data to evaluate generated answers (RAGAS)", _PASSAGE),
    (("contexts", "ground_truth"), "data to evaluate generated answers (RAGAS)", _PASSAGE),
    (("CONTEXTS", "final_decision"), "PubMedQA, whose answers are yes, no or maybe", _SPANS),
    (("is_correct_answer", "query"), "labels of Haystack", "export them in SQuAD's form"),
    (("QnaId", "Answer"), "a list of frequent questions (QnA Maker), which have no documents",
     "answers must be spans of a context"),
    (("sentence", "label"), "pairs of question and sentence with a label (QNLI)", _SPANS),
    (("Sentence", "Label"), "pairs of question and sentence with a label (WikiQA)", _SPANS),
    (("data_row", "projects"), "an export of Labelbox", _ROWS),
    (("*.responses.status",), "an export of Argilla", _ROWS),
    (("story", "questions"), "CoQA, whose questions belong to a conversation", _ROWS),
    (("passage", "qa_pairs"), "DROP, whose answers may be numbers", "write rows of those with spans"),
    (("passages", "query"), "MS MARCO, whose context is a list of passages", _PASSAGE),
    (("passage", "qas"), "ReCoRD, whose questions have a gap", _ROWS),
    (("article", "options"), "multiple choice (RACE)", _SPANS),
    (("choices", "answerKey"), "multiple choice", _SPANS),
    (("%FEATURE_STRUCTURES",), "a UIMA CAS as JSON (INCEpTION)", "write rows with its cas library"),
    (("_referenced_fss",), "a UIMA CAS as JSON (INCEpTION)", "write rows with its cas library"),
    (("train", "validation"), "several splits in one file", "save each split as a file that is named by it"),
    (("train", "test"), "several splits in one file", "save each split as a file that is named by it"),
)  # fmt: skip
# The same for records that have no question.
_WITHOUT_QUESTION: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("version", "data"), "a SQuAD document within a list or a line", "write each to a file of its own"),
    (("data", "predictions"), "tasks of Label Studio without annotations", "export the annotated tasks"),
    (("_task_hash",), "an export of Prodigy, whose spans have no questions", _ROWS),
    (("fields", "responses"), "an export of Argilla", _ROWS),
    (("classes", "annotations"), "labels of entities without questions", _ROWS),
    (("text", "entities"), "an export of Doccano or of another tool for entities, without questions", _ROWS),
    (("text", "label"), "an export of Doccano or of another tool for labels, without questions", _ROWS),
    (("text", "labels"), "an export of Doccano or of another tool for labels, without questions", _ROWS),
    (("text", "annotations"), "labels of entities without questions", _ROWS),
    (("examples", "relations"), "an export of LightTag, whose labels have no questions", _ROWS),
    (("documentName", "tokens"), "an export of UBIAI, whose labels have no questions", _ROWS),
    (("source", "*-metadata"), "a manifest of SageMaker Ground Truth, whose labels have no questions", _ROWS),
    (("title", "paragraphs"), "documents without questions (cdQA)", _ROWS),
    (("questions",), "questions in a list of another form, such as that of BioASQ, DuoRC or QuAC's rows", _ROWS),
    (("conversations",), "chats for tuning language models", _ROWS),
    (("messages",), "chats for tuning language models", _ROWS),
    (("prompt", "completion"), "prompts for tuning language models", _ROWS),
    (("input_text", "target_text"), "prompts for tuning language models", _ROWS),
)  # fmt: skip


def refuse_bytes(head: bytes, where: str) -> None:
    """Refuse a file by its first bytes, of which 1 KiB is enough.

    Raises:
        UserError: It is of a known form that is not read.
    """
    for pattern, what, advice in _PATTERNS:
        if pattern.match(head.removeprefix(codecs.BOM_UTF8)):
            _refuse(where, what, advice)


def refuse_text(head: bytes, where: str) -> None:
    """Refuse text that begins as no JSON does, and is no table.

    Raises:
        UserError: It is such a text.
    """
    if re.match(rb"\s*(?!true|false|null|NaN|Infinity)([A-Za-z#*]|- )", head.removeprefix(codecs.BOM_UTF8)):
        _refuse(where, "text that is neither JSON nor a table with the names of its columns in the first line", _ROWS)


def refuse_record(record: Mapping[str, Any], where: str, has_question: bool) -> None:
    """Refuse a file by the keys of its first record.

    Args:
        record: The record, which lacks a question or a context that is text.
        where: The file, for the message.
        has_question: Whether it has a question.

    Raises:
        UserError: It is of a known form that is not read.
    """
    if isinstance(record.get("answer"), bool):
        _refuse(where, "yes-or-no questions (BoolQ)", _SPANS)
    for keys, what, advice in (*_RECORDS, *(() if has_question else _WITHOUT_QUESTION)):
        if all(fnmatch.filter(record, key) for key in keys):
            _refuse(where, what, advice)


def _refuse(where: str, what: str, advice: str) -> NoReturn:
    raise UserError(f"{where} is {what}: {advice} ({FORMS_READ})")
