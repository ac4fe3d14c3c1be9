"""Measures how far a calibration carries over to questions that it was not fitted on.

The questions of a split of SQuAD are scored once. Then the articles are divided into two halves many times; each time
the calibration, and the threshold of no answer if there are questions without an answer, are fitted on one half and
measured on the other. The table has the mean over the divisions and the least and the largest value. The calibration of
the first division is also measured on other shards, with intervals from a bootstrap of their documents.

    python bench/calibration.py MODEL SHARDS [OTHER_SHARDS ...] [--divisions 20] [--engine openvino]

Shards with questions without an answer come from bench/unanswerable.py.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
from unanswerable import articles_of

import qa_fast
from qa_fast.report.calibrate import NAMES, answered, figures, figures_of, fitted_rules, scores_among
from qa_fast.report.risk import confidence_of


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("shards", help="shards of SQuAD's validation split, or made from it")
    parser.add_argument("others", nargs="*", help="shards of other questions")
    parser.add_argument("--divisions", type=int, default=20)
    parser.add_argument("--engine", default="auto")
    return parser.parse_args()


def row(name: str, cells: list[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    asked = options()
    rules = {"precision": "float32", "engine": asked.engine}
    scored = qa_fast.evaluate(asked.shards, asked.model, **rules)
    scored = dataclasses.replace(scored, rules=dataclasses.replace(scored.rules, calibration=None))
    article_of = {
        qa["id"]: number
        for number, article in enumerate(articles_of("validation"))
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }
    articles = np.array([article_of[name.removesuffix("-none")] for name in scored.ids])
    found: dict[str, list[np.ndarray]] = {"before": [], "after": []}
    scores: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    fitted = []
    for seed in range(asked.divisions):
        order = np.random.default_rng(seed).permutation(articles.max() + 1)
        first = np.isin(articles, order[::2])
        fitted.append(fitted_rules(scored, first, asked.shards))
        for name, result in (("before", answered(scored, scored.rules)), ("after", answered(scored, fitted[-1]))):
            exact = result.scores_of(result.predictions)[0]
            found[name].append(figures_of(confidence_of(result)[~first], exact[~first]))
            if not all(result.golds.answers):
                scores[name].append(scores_among(result, ~first))
    print(f"{len(scored.ids):,} questions, {asked.divisions} divisions of the articles: mean (least to largest)\n")
    print(f"| | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}")
    for name, values in found.items():
        columns = np.array(values).T
        row(name, [f"{column.mean():.4f} ({column.min():.3f} to {column.max():.3f})" for column in columns])
    print(f"\nECE at most 0.03 in {np.mean(np.array(found['after'])[:, 0] <= 0.03):.0%} of the divisions")
    for name, several in scores.items():
        if several:
            print(f"{name}: " + ", ".join(f"{key} {np.mean([one[key] for one in several]):.2f}" for key in several[0]))
    print("thresholds:", ", ".join(f"{each.null_threshold:.2f}" for each in fitted))
    for other in asked.others:
        result = qa_fast.evaluate(other, asked.model, **rules)
        every = np.ones(len(result.ids), bool)
        print(f"\n{other}: {len(result.ids):,} questions (95 % of a bootstrap)\n")
        print(f"| | {' | '.join(NAMES)} |\n|---|{'---|' * len(NAMES)}")
        for name, rule in (("before", scored.rules), ("after", fitted[0])):
            measured = figures(answered(result, rule), every, 0)
            cells = zip(measured.values, measured.intervals, strict=True)
            row(name, [f"{value:.4f} ({low:.3f} to {high:.3f})" for value, (low, high) in cells])


if __name__ == "__main__":
    main()
