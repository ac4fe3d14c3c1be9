"""Measures which candidates are worth showing as evidence, on questions whose answer stands in one place.

Each question of a sample of SQuAD's validation split has one place of its answer, apart from its exact ends. A rule is
good if a passage touches it, and if few passages do not; the last column is the exact F1 of the sets of passages, with
the first gold answer. The rules are those of `qa_fast/answer/evidence.py`: no less probable than no answer, at least a
share as probable as the best one, and both. The last row keeps bridges.

    python bench/evidence.py MODEL [--questions 400] [--seed 1]
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from unanswerable import articles_of

from qa_fast import Answerer
from qa_fast.answer import evidence
from qa_fast.answer.evidence import SHARE, evidence_of
from qa_fast.answer.options import AnswerOptions
from qa_fast.scoring.span_sets import span_set_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rows = [
        (qa["question"], paragraph["context"], [(a["answer_start"], a["text"]) for a in qa["answers"]])
        for article in articles_of("validation")
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    random.seed(asked.seed)
    rows = random.sample(rows, asked.questions)
    answerer = Answerer.from_pretrained(asked.model, "float32")
    # A threshold of 1 keeps all the candidates that evidence is chosen from.
    options = AnswerOptions(top_k=None, handle_impossible_answer=True, overlap_threshold=1.0)
    found = answerer.answer_pairs([(question, context) for question, context, _ in rows], options)
    print("| rule | passages for each question | questions with the answer | passages with the answer | exact F1 |")
    print("|---|---|---|---|---|")
    words = evidence.BRIDGE_WORDS
    for name, share, above in (
        ("the best one", 1.0, False),
        ("above no answer", 0.0, True),
        *((f"{share:g} of the best", share, False) for share in (SHARE / 10, SHARE / 2, SHARE, 2 * SHARE)),
        (f"above no answer and {SHARE:g} of the best", SHARE, True),
        (f"{SHARE:g} of the best, with bridges", SHARE, False),
    ):
        evidence.BRIDGE_WORDS = 1_000_000 if "bridges" in name else words
        touched, texts = [], []
        for (_, context, golds), answers in zip(rows, found, strict=True):
            assert not isinstance(answers, str)
            null = next(answer["score"] for answer in answers if not answer["answer"])
            spans = [answer for answer in answers if answer["answer"]]
            least = max(share * spans[0]["score"], null if above else 0.0)
            kept = evidence_of(context, [span for span in spans if span["score"] >= least])
            texts.append([passage["answer"] for passage in kept])
            touched.append(
                [any(span["start"] < at + len(text) and at < span["end"] for at, text in golds) for span in kept]
            )
        passages = np.mean([len(hits) for hits in touched])
        recall, precision = np.mean([any(hits) for hits in touched]), np.mean(np.concatenate(touched))
        exact = span_set_scores(texts, [[golds[0][1]] for _, _, golds in rows])["exact_f1"]
        print(f"| {name} | {passages:.2f} | {recall:.1%} | {precision:.1%} | {exact:.1f} |")


if __name__ == "__main__":
    main()
