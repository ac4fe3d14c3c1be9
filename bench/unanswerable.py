"""Measures how well a threshold for "no answer" works on questions that it was not chosen on.

The data is made from SQuAD v1.1. A question is asked about another paragraph of the same article that contains none of
its answers, which is a hard case, since the subject is right. Train and validation have each question once with its own
paragraph, and a share of them again with another paragraph. The validation articles are divided into two halves. The
threshold (by how much "no answer" must lead) with the best score on one half is used on the other half, and compared
with 0, the default, and with the best possible threshold.

    python bench/unanswerable.py --work unanswerable [--examples 6000] [--share 0.5] [--seed 0]

Options that it does not know are given to `qa-fast train`, such as `--batch-size 32`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from quality import called

from qa_fast.sources import resolve_source

Row = dict[str, Any]


def options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, shards and the model")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--examples", type=int, default=6000, help="answerable ones to train on")
    parser.add_argument("--score", type=int, default=1500, help="answerable ones of each half")
    parser.add_argument("--share", type=float, default=0.5, help="of questions that are asked again where none answers")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_known_args()


def articles_of(split: str) -> list[dict[str, Any]]:
    """SQuAD's articles as the official file nests them."""
    found: list[dict[str, Any]] = json.loads(resolve_source("squad").splits[split][0].read_text())["data"]
    return found


def rows_of(articles: list[dict[str, Any]], count: int, share: float, generator: np.random.Generator) -> list[Row]:
    """`count` random questions with their paragraphs, and a share of them again with another of the same article."""
    asked = [(article, own, qa) for article in articles for own in article["paragraphs"] for qa in own["qas"]]
    rows: list[Row] = []
    for at in generator.permutation(len(asked))[:count]:
        article, own, qa = asked[at]
        answers = {
            "text": [answer["text"] for answer in qa["answers"]],
            "answer_start": [answer["answer_start"] for answer in qa["answers"]],
        }
        rows.append({"id": qa["id"], "question": qa["question"], "context": own["context"], "answers": answers})
        if generator.random() >= share:
            continue
        texts = [text.lower() for text in answers["text"]]
        others = [
            paragraph["context"]
            for paragraph in article["paragraphs"]
            if paragraph is not own and not any(text in paragraph["context"].lower() for text in texts)
        ]
        if others:
            other = others[generator.integers(len(others))]
            none: Row = {"text": [], "answer_start": []}
            rows.append({"id": f"{qa['id']}-none", "question": qa["question"], "context": other, "answers": none})
    return rows


def featurized(folder: Path, file: str, rows: list[Row], model: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    shards = folder.with_name(f"{folder.name}-shards")
    called(["featurize", str(folder), "--out", str(shards), "--model", model, "--overwrite", "--json"])
    return shards


def main() -> None:
    asked, of_training = options()
    generator = np.random.default_rng(asked.seed)
    dev = articles_of("validation")
    order = generator.permutation(len(dev))
    halves = {"A": [dev[at] for at in order[::2]], "B": [dev[at] for at in order[1::2]]}
    rows = rows_of(articles_of("train"), asked.examples, asked.share, generator)
    shards = featurized(asked.work / "train", "train.jsonl", rows, asked.model)
    model = asked.work / "model"
    command = ["train", str(shards), "--model", asked.model, "--out", str(model), "--validation", "", "--json"]
    command += ["--epochs", "1", "--learning-rate", "1e-4", "--seed", str(asked.seed), "--overwrite"]
    called([*command, *of_training])
    scored = {
        half: featurized(
            asked.work / half, "validation.jsonl", rows_of(articles, asked.score, 1.0, generator), asked.model
        )
        for half, articles in halves.items()
    }

    def scores(half: str, threshold: float) -> dict[str, Any]:
        arguments = ["evaluate", str(scored[half]), str(model), "--null-threshold", str(threshold), "--json"]
        return called(arguments)

    plain = {half: scores(half, 0.0) for half in scored}
    print(f"{len(rows):,} to train on, {sum(not row['answers']['text'] for row in rows):,} of them unanswerable\n")
    print("| half | threshold | from | exact match | F1 | F1, answerable | F1, unanswerable |")
    print("|---|---|---|---|---|---|---|")
    for half, other in (("A", "B"), ("B", "A")):
        chosen = float(plain[other]["oracle"]["best_f1_null_threshold"])
        best = float(plain[half]["oracle"]["best_f1_null_threshold"])
        for threshold, origin in ((0.0, "no choice"), (chosen, f"half {other}"), (best, "itself, the best")):
            found = plain[half] if threshold == 0.0 else scores(half, threshold)
            cells = [found[name] for name in ("exact", "f1", "HasAns_f1", "NoAns_f1")]
            figures = " | ".join(f"{cell:.2f}" for cell in cells)
            print(f"| {half} | {threshold:.2f} | {origin} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
