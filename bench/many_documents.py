"""Measures answers to SQuAD's dev questions that are searched in all 2,067 paragraphs, not asked of their own.

    python bench/many_documents.py MODEL [--first 1,5,10,20,50] [--questions 300] [--articles] [--longest 1200]

BM25 chooses passages, and the model reads them. The table shows, for each number of passages, in how many of all
questions they hold a gold answer at its place (recall) and how many characters they have; and for a random sample of
questions, exact match and F1 of the best answer and the time from question to answer. The last row reads each
question's own paragraph alone, which is what the reading of a perfect search would score. With --articles the
documents are the 48 articles, and a high --longest searches them as a whole.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import common
import numpy as np
from families import processor

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.passages import PASSAGE_LENGTH, PassageIndex
from qa_fast.scoring.metrics import squad_v1


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--first", default="1,5,10,20,50", help="numbers of passages")
    parser.add_argument("--questions", type=int, default=300, help="random ones that are answered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--articles", action="store_true", help="one document for each article")
    parser.add_argument("--longest", type=int, default=PASSAGE_LENGTH, help="characters of a passage")
    return parser.parse_args()


def corpus(articles: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """The documents; and the questions, each with its document, its paragraph and the places of its answers."""
    documents: list[str] = []
    questions = []
    for article in json.loads(common.squad_json()["validation"].read_text())["data"]:
        for number, paragraph in enumerate(article["paragraphs"]):
            if number and articles:
                documents[-1] += "\n\n"
            else:
                documents.append("")
            begin = len(documents[-1])
            documents[-1] += paragraph["context"]
            for qa in paragraph["qas"]:
                places = [(begin + gold["answer_start"], len(gold["text"])) for gold in qa["answers"]]
                asked = {"text": qa["question"], "document": len(documents) - 1, "paragraph": paragraph["context"]}
                questions.append({**asked, "places": places, "golds": [gold["text"] for gold in qa["answers"]]})
    return documents, questions


def place_of(question: dict[str, Any], index: PassageIndex) -> tuple[float, np.ndarray]:
    """The rank, from 0, of the first passage with a gold answer; and the lengths of all passages, best first."""
    passages = index.best(question["text"], len(index.passages))
    rank = next(
        (
            rank
            for rank, (document, start, end, _) in enumerate(passages)
            if document == question["document"]
            and any(start <= begin and begin + length <= end for begin, length in question["places"])
        ),
        np.inf,
    )
    return rank, np.array([passage.end - passage.start for passage in passages])


def main() -> None:
    asked = options()
    counts = [int(count) for count in asked.first.split(",")]
    documents, questions = corpus(asked.articles)
    begun = time.perf_counter()
    index = PassageIndex(documents, asked.longest)
    print(
        f"{len(documents):,} documents, {len(index.passages):,} passages, indexed in "
        f"{time.perf_counter() - begun:.1f} s; {len(questions):,} questions\n{processor()}",
        flush=True,
    )
    places = [place_of(question, index) for question in questions]
    ranks = np.array([rank for rank, _ in places])
    sample = [
        questions[row] for row in np.random.default_rng(asked.seed).permutation(len(questions))[: asked.questions]
    ]
    golds = [question["golds"] for question in sample]
    answerer = Answerer.from_pretrained(asked.model, engine=asked.engine) if sample else None

    def answered(count: int | None) -> list[str]:
        """Exact match, F1 and median milliseconds of a question, for the table."""
        if answerer is None:
            return ["", "", ""]
        found, seconds = [], []
        for question in sample:
            begun = time.perf_counter()
            if count is None:
                best = answerer.rank(question["text"], [question["paragraph"]], top_k=1)
            else:
                best = answerer.rank(question["text"], index, top_k=1, first=count)
            seconds.append(time.perf_counter() - begun)
            found.append(best[0]["answer"] if best else "")
        scores = squad_v1(found, golds)
        return [f"{scores['exact_match']:.1f}", f"{scores['f1']:.1f}", f"{1000 * np.median(seconds):,.0f}"]

    rows = []
    for count in counts:
        characters = np.mean([lengths[:count].sum() for _, lengths in places])
        recall = 100 * (ranks < count).mean()
        rows.append((f"{count:,}", f"{recall:.1f}", f"{characters:,.0f}", *answered(count)))
    rows.append(("own paragraph", "", "", *answered(None)))
    header = ("passages read", "recall, %", "characters", "exact match", "F1", "ms a question")
    common.print_table(f"{len(sample):,} questions answered, seed {asked.seed}", header, rows)


if __name__ == "__main__":
    main()
