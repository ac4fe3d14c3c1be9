"""Sample data of our own, in the layouts that people have, and the files it is kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.tokenizers_for_tests import save_folder, small_tokenizer

# (context, [(id, question, [answers])]); the position of an answer is looked up, so the texts can be edited freely.
DOCUMENTS: list[tuple[str, list[tuple[str, str, list[str]]]]] = [
    (
        "The harbour of Lindholm was dug in 1874, when nine boats were all that the village owned. Ane Skou, a widow, "
        "gave 2,400 crowns for it. The keepers' log-books, seventeen of them, are kept in the school.",
        [
            ("en-1", "When was the harbour of Lindholm dug?", ["1874", "in 1874"]),
            ("en-2", "Who paid for the harbour?", ["Ane Skou"]),
            ("en-3", "How many log-books are there?", ["seventeen"]),
        ],
    ),
    (
        "Der Leuchtturm steht südlich der Mühle; seine Wärterin schrieb täglich über Wind und Wellen. Größere Schiffe "
        "ankerten draußen vor der Düne.",
        [
            ("de-1", "Wo steht der Leuchtturm?", ["südlich der Mühle"]),
            ("de-2", "Worüber schrieb die Wärterin?", ["Wind und Wellen", "über Wind und Wellen"]),
        ],
    ),
    ("这座港口建于一八七四年，当时全村只有九条船。灯塔在南边。", [("zh-1", "灯塔在哪里？", ["南边"])]),
    (
        " \u00a0The ferry 🚢 leaves at 7:15; the astronaut 👩‍🚀 came with the café's last n\u0303andu\u0301 feathers.",
        [
            ("mix-1", "When does the ferry 🚢 leave?", ["7:15"]),
            ("mix-2", "Who came with feathers?", ["the astronaut 👩‍🚀"]),
        ],
    ),
]
# A second set, for a split of its own.
OTHER_DOCUMENTS: list[tuple[str, list[tuple[str, str, list[str]]]]] = [
    (
        "Приморский посёлок вырос вокруг маяка, а школа открылась лишь в 1902 году.",
        [("ru-1", "Когда открылась школа?", ["1902"])],
    ),
    ("The bell rings twice in fog.", [("en-9", "How often does the bell ring in fog?", ["twice"])]),
]
QUESTIONS = sum(len(questions) for _, questions in DOCUMENTS)


def rows(documents: list[tuple[str, list[tuple[str, str, list[str]]]]] = DOCUMENTS) -> list[dict[str, Any]]:
    """Flat rows: answers as the Hub has them, a dict of lists."""
    return [
        {
            "id": row_id,
            "question": question,
            "context": context,
            "answers": {"text": answers, "answer_start": [context.index(answer) for answer in answers]},
        }
        for context, questions in documents
        for row_id, question, answers in questions
    ]


def listed(answers: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Answers as SQuAD's own files have them, a list of dicts."""
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def squad(documents: list[tuple[str, list[tuple[str, str, list[str]]]]] = DOCUMENTS) -> dict[str, Any]:
    """The official nested layout, version 1.1: one article, one paragraph a document."""
    by_id = {row["id"]: row for row in rows(documents)}
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": i, "question": question, "answers": listed(by_id[i]["answers"])} for i, question, _ in questions
            ],
        }
        for context, questions in documents
    ]
    return {"version": "1.1", "data": [{"title": "Sample", "paragraphs": paragraphs}]}


def squad_v2(documents: list[tuple[str, list[tuple[str, str, list[str]]]]] = DOCUMENTS) -> dict[str, Any]:
    """Version 2: as `squad`, and each document has a question that it does not answer."""
    document = squad(documents)
    document["version"] = "v2.0"
    for number, paragraph in enumerate(document["data"][0]["paragraphs"]):
        for question in paragraph["qas"]:
            question["is_impossible"] = False
        plausible = [{"text": paragraph["context"].strip()[:3], "answer_start": 0}]
        paragraph["qas"].append(
            {
                "id": f"none-{number}",
                "question": "What did the gulls say?",
                "answers": [],
                "plausible_answers": plausible,
                "is_impossible": True,
            }
        )
    return document


def table(some: list[dict[str, Any]] | None = None) -> pa.Table:
    """Flat rows as an Arrow table of the Hub's types."""
    return pa.Table.from_pylist(rows() if some is None else some)


def write(path: Path, value: Any) -> Path:
    """Write a value as JSON, or a list of rows as JSON lines where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def model_folder(folder: Path) -> Path:
    """A model folder with a small WordPiece tokenizer: enough to featurize, and made without a network."""
    return save_folder(small_tokenizer("wordpiece"), folder)
