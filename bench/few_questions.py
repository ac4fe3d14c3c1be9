"""Measures what a model learns from few annotated questions, the case of most users, and from which start.

Questions for training come from a few of SQuAD's dev articles, and other dev articles are scored, always the same
questions. So a model that was trained on SQuAD's train split has seen neither. With --unanswerable, a quarter of the
questions is asked about another paragraph of its article, which does not answer it. Everything that is not given is
left to the defaults of `qa-fast train`, and nothing is chosen on the questions that are scored. Each run adds a line to
a journal; runs that the journal has are not repeated, so the benchmark can be done in pieces.

    python bench/few_questions.py --squad-model MODEL [--sizes 50,150,500,1500] [--seeds 0,1,2] [--unanswerable]
                                  [--starts bare,squad,frozen] [--options "--epochs 10"] [--table]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from quality import ROOT, called, journal, note, spread
from unanswerable import Row, articles_of, featurized, rows_of

# Where training starts from. The frozen one leaves the embeddings and the first half of the blocks as they are.
STARTS = ("unadapted", "bare", "squad", "frozen")
FROZEN_BLOCKS = 3
SCORED_ARTICLES = 24


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--squad-model", required=True, help="folder of a model that was trained on SQuAD's train split"
    )
    parser.add_argument("--bare-model", default="minilm", help="encoder without a question-answering head")
    parser.add_argument("--sizes", default="50,150,500,1500", help="numbers of questions to train on")
    parser.add_argument("--starts", default=",".join(STARTS[1:]))
    parser.add_argument(
        "--seeds", default="0,1,2", help="a seed decides the training questions, their order and dropout"
    )
    parser.add_argument("--unanswerable", action="store_true", help="a quarter of the questions has no answer")
    parser.add_argument("--score", type=int, default=1000, help="questions to score")
    parser.add_argument("--options", default="", help="further options of `qa-fast train`")
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "results" / "few", help="journal and data")
    parser.add_argument("--table", action="store_true", help="print the table of the journal and run nothing")
    return parser.parse_args()


def questions(
    articles: list[dict[str, Any]], count: int, unanswerable: bool, generator: np.random.Generator
) -> list[Row]:
    """`count` questions, a quarter of them unanswerable if wished.

    `rows_of` gives every question with its own paragraph and with another one. The unanswerable ones are taken from the
    end, so that no question is there twice.
    """
    if not unanswerable:
        return rows_of(articles, count, 0.0, generator)
    rows = rows_of(articles, count, 1.0, generator)
    answered = [row for row in rows if row["answers"]["text"]]
    copies = [row for row in rows if not row["answers"]["text"]]
    none = count // 4
    return answered[: count - none] + copies[-none:]


def training_rows(articles: list[dict[str, Any]], count: int, unanswerable: bool, seed: int) -> list[Row]:
    """Questions from as few articles as a user would annotate: four, and one for each 75 questions of larger sets."""
    generator = np.random.default_rng((seed, count))
    few = [articles[at] for at in generator.permutation(len(articles))[: max(4, math.ceil(count / 75))]]
    return questions(few, count, unanswerable, generator)


def scored(asked: argparse.Namespace, shards: Path, model: Path | str) -> dict[str, Any]:
    """Exact match and F1 in percent; of unanswerable data also of its two parts."""
    found = called(["evaluate", str(shards), str(model), "--json"])
    kept = {"exact_match": found.get("exact_match", found.get("exact")), "f1": found["f1"]}
    return kept | {name: found[name] for name in ("HasAns_f1", "NoAns_f1") if name in found}


def run(asked: argparse.Namespace, start: str, count: int, seed: int, pool: list[Any], shards: Path) -> dict[str, Any]:
    """Train once and score the model; a run that was stopped starts again."""
    if start == "unadapted":
        return {"windows": 0, "seconds": 0.0} | scored(asked, shards, asked.squad_model)
    folder = asked.work / f"{start}-{count}-{seed}"
    model = folder.with_name(f"{folder.name}-model")
    rows = training_rows(pool, count, asked.unanswerable, seed)
    data = featurized(folder, "train.jsonl", rows, asked.bare_model)
    command = [
        "train",
        str(data),
        "--out",
        str(model),
        "--overwrite",
        "--validation",
        "",
        "--seed",
        str(seed),
        "--json",
    ]
    command += ["--model", asked.bare_model if start == "bare" else asked.squad_model]
    command += ["--freeze", str(FROZEN_BLOCKS)] if start == "frozen" else []
    begun = time.perf_counter()
    trained = called([*command, *asked.options.split()])
    seconds = round(time.perf_counter() - begun, 1)
    found = {"steps": trained["steps"], "seconds": seconds} | scored(asked, shards, model)
    for path in (folder, data, model):
        shutil.rmtree(path, ignore_errors=True)
    return found


def key(asked: argparse.Namespace, start: str, count: int, seed: int) -> dict[str, Any]:
    """Return everything that decides a run."""
    names = ("bare_model", "squad_model", "unanswerable", "score", "options")
    return {name: getattr(asked, name) for name in names} | {"start": start, "count": count, "seed": seed}


def table(runs: list[dict[str, Any]], starts: list[str], sizes: list[int]) -> list[str]:
    """Return lines of a Markdown table: mean, extremes and standard deviation over the seeds."""
    lines = ["| questions | start | runs | exact match | F1 | F1, answerable | F1, unanswerable | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for count, start in [(0, "unadapted"), *itertools.product(sizes, starts)]:
        own = [run for run in runs if (run["key"]["count"], run["key"]["start"]) == (count, start)]
        if not own:
            continue
        names = [name for name in ("exact_match", "f1", "HasAns_f1", "NoAns_f1") if name in own[0]]
        cells = [spread([run[name] for run in own]) for name in names] + [""] * (4 - len(names))
        seconds = spread([run["seconds"] for run in own]) if start != "unadapted" else ""
        lines.append(f"| {count:,} | {start} | {len(own)} | {' | '.join(cells)} | {seconds} |")
    return lines


def main() -> None:
    asked = options()
    starts, sizes = asked.starts.split(","), [int(size) for size in asked.sizes.split(",")]
    if not set(starts) <= set(STARTS):
        sys.exit(f"--starts must be among {', '.join(STARTS)}; received {asked.starts}")
    path = asked.work / "runs.jsonl"
    dev = articles_of("validation")
    order = np.random.default_rng(0).permutation(len(dev))
    held = [dev[at] for at in order[:SCORED_ARTICLES]]
    pool = [dev[at] for at in order[SCORED_ARTICLES:]]
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    wished = [key(asked, "unadapted", 0, 0)]
    wished += [key(asked, start, size, seed) for seed, size, start in itertools.product(seeds, sizes, starts)]
    shards = asked.work / f"scored-{'v2' if asked.unanswerable else 'v1'}"
    if not asked.table:
        rows = questions(held, asked.score, asked.unanswerable, np.random.default_rng(0))
        shards = featurized(shards, "validation.jsonl", rows, asked.bare_model)
    for one in wished:
        if asked.table or any(entry["key"] == one for entry in journal(path)):
            continue
        entry = {"key": one} | run(asked, one["start"], one["count"], one["seed"], pool, shards)
        note(path, entry)
        print(json.dumps(entry), file=sys.stderr, flush=True)
    runs = [entry for entry in journal(path) if entry["key"] in wished]
    print("\n".join(table(runs, starts, sizes)))


if __name__ == "__main__":
    main()
