"""Measures how well a threshold for "no answer" works on questions that it was not chosen on.

The data is made from SQuAD v1.1. A question is asked about another paragraph of the same article that contains none of
its answers, which is a hard case, since the subject is right. Train and validation have each question once with its own
paragraph, and a share of them again with another paragraph. The validation articles are divided into two halves. The
threshold (by how much "no answer" must lead) with the best score on one half is used on the other half, and compared
with 0, the default, and with the best possible threshold. Started again, it continues the training.

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

from qa_fast import evaluate
from qa_fast.scoring.evaluation import best_texts
from qa_fast.scoring.metrics import squad_v2
from qa_fast.scoring.result import EvaluationResult
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
    if not (model / "training" / "metrics.json").is_file():
        command = ["train", str(shards), "--model", asked.model, "--out", str(model), "--validation", "", "--json"]
        command += ["--epochs", "1", "--learning-rate", "1e-4", "--seed", str(asked.seed)]
        command.append("--resume" if (model / "training" / "checkpoints").is_dir() else "--overwrite")
        called([*command, *of_training])
    results = {}
    for half, articles in halves.items():
        asked_twice = rows_of(articles, asked.score, 1.0, generator)
        results[half] = evaluate(featurized(asked.work / half, "validation.jsonl", asked_twice, asked.model), model)

    none = sum(not row["answers"]["text"] for row in rows)
    print(f"{len(rows):,} to train on, {none:,} of them unanswerable; {results['A'].engine} {results['A'].precision}\n")
    print("| half | threshold | from | exact match | F1 | F1, answerable | F1, unanswerable |")
    print("|---|---|---|---|---|---|---|")
    best = {half: float(result.metrics["oracle"]["best_f1_null_threshold"]) for half, result in results.items()}
    for half, other in (("A", "B"), ("B", "A")):
        choices = ((0.0, "no choice"), (best[other], f"half {other}"), (best[half], "itself, the best"))
        for threshold, origin in choices:
            print_row(half, threshold, origin, scores([(results[half], threshold)]))
    zero = [(result, 0.0) for result in results.values()]
    print_row("both", 0.0, "no choice", scores(zero))
    crossed = [(results["A"], best["B"]), (results["B"], best["A"])]
    print_row("both", None, "the other half", scores(crossed))


def scores(read: list[tuple[EvaluationResult, float]]) -> list[float]:
    """Return exact match, F1, and F1 of the answerable and the others over some results, each with its threshold."""
    predictions: list[str] = []
    golds: list[list[str]] = []
    for result, threshold in read:
        predictions += best_texts(result.spans, result.contexts, result.context_index, threshold)
        golds += result.golds.answers
    found = squad_v2(predictions, golds)
    return [found[name] for name in ("exact", "f1", "HasAns_f1", "NoAns_f1")]


def print_row(half: str, threshold: float | None, origin: str, figures: list[float]) -> None:
    chosen = "" if threshold is None else f"{threshold:.2f}"
    print(f"| {half} | {chosen} | {origin} | {' | '.join(f'{figure:.2f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
