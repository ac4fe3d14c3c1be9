"""Measures what a model learns from few annotated questions, the case of most users, and from which start.

Questions for training come from a few of SQuAD's dev articles, and other dev articles are scored, always the same
questions. So a model that was trained on SQuAD's train split has seen neither. With --unanswerable, a quarter of the
questions is asked about another paragraph of its article, which does not answer it. Everything that is not given is
left to the defaults of `qa-fast train`, and nothing is scored during training. Options are compared with --swap, which
trains on the articles that are scored otherwise and scores the others, so that nothing is chosen on the questions of
the table. Each run adds a line to a journal; runs that the journal has are not repeated, so the benchmark can be done
in pieces.

    python bench/few_questions.py --squad-model MODEL [--sizes 50,150,500,1500] [--seeds 0,1,2] [--unanswerable]
                                  [--starts bare,squad,frozen] [--swap] [--options "epochs=10 batch_size=8"] [--table]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from quality import ROOT, journal, note, spread
from unanswerable import Row, articles_of, featurized, rows_of

import qa_fast
from qa_fast.scoring.intervals import middle_95
from qa_fast.train import train
from qa_fast.train.config import TrainConfig

# Where training starts from. The frozen one leaves the embeddings and the first half of the blocks as they are.
STARTS = ("unadapted", "bare", "squad", "frozen")
FROZEN_BLOCKS = 3
SCORED_ARTICLES = 24
RESAMPLES = 2000


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
    parser.add_argument("--precision", default="bfloat16", help="precision of the training; auto measures before each")
    parser.add_argument("--score", type=int, default=1000, help="questions to score")
    parser.add_argument(
        "--options", action="append", help='fields of `TrainConfig`, such as "epochs=10 batch_size=8"; may be repeated'
    )
    parser.add_argument(
        "--swap", action="store_true", help="train on the articles that are scored otherwise, and score the others"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "results" / "few", help="journal and data")
    parser.add_argument("--table", action="store_true", help="print the table of the journal and run nothing")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


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


def scored(shards: Path, model: Path | str) -> dict[str, Any]:
    """Exact match and F1 in percent, of unanswerable data also of its two parts, and the F1 of each question."""
    found = qa_fast.evaluate(shards, model)
    parts = {name: found.metrics[name] for name in ("HasAns_f1", "NoAns_f1") if name in found.metrics}
    each = found.scores_of(found.predictions)[1]
    return {"exact_match": found.exact_match, "f1": found.f1} | parts | {"each": each.round(4).tolist()}


def run(
    asked: argparse.Namespace, start: str, count: int, seed: int, options: str, pool: list[Any], shards: Path
) -> dict[str, Any]:
    """Train once and score the model; a run that was stopped starts again."""
    if start == "unadapted":
        return {"steps": 0, "seconds": 0.0} | scored(shards, asked.squad_model)
    folder = asked.work / f"{start}-{count}-{seed}"
    model = folder.with_name(f"{folder.name}-model")
    data = featurized(folder, "train.jsonl", training_rows(pool, count, asked.unanswerable, seed), asked.bare_model)
    config = TrainConfig(
        model=asked.bare_model if start == "bare" else asked.squad_model,
        freeze=str(FROZEN_BLOCKS) if start == "frozen" else None,
        out=str(model),
        overwrite=True,
        validation="",
        checkpoint_every=0,
        precision=asked.precision,
        seed=seed,
        **{name: json.loads(value) for name, value in (pair.split("=") for pair in options.split())},
    )
    begun = time.perf_counter()
    trained = train(data, config)
    seconds = round(time.perf_counter() - begun, 1)
    found = {"steps": trained.steps, "seconds": seconds} | scored(shards, model)
    keras.backend.clear_session()
    gc.collect()
    for path in (folder, data, model):
        shutil.rmtree(path, ignore_errors=True)
    return found


def key(asked: argparse.Namespace, start: str, count: int, seed: int, options: str) -> dict[str, Any]:
    """Return everything that decides a run."""
    own = {"start": start, "count": count, "seed": seed, "options": options}
    return {
        name: getattr(asked, name)
        for name in ("bare_model", "squad_model", "unanswerable", "precision", "score", "swap")
    } | own


def interval(scores: npt.NDArray[np.float64], sign: str = "") -> str:
    """Return the mean of scores [seeds, questions] and its 95 % interval, by drawing seeds and questions anew."""
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        seeds, questions = (generator.integers(size, size=size) for size in scores.shape)
        means.append(scores[seeds][:, questions].mean())
    low, high = middle_95(np.array(means))
    return f"{scores.mean():{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def table(runs: list[dict[str, Any]], unanswerable: bool) -> list[str]:
    """Return lines of a Markdown table, one for each size, start and options; means over the seeds."""
    parts = ["HasAns_f1", "NoAns_f1"] if unanswerable else []
    lines = ["| questions | start | options | seeds | steps | seconds | exact match | F1 | F1 gained |"]
    lines[0] += " F1, answerable | F1, unanswerable |" if parts else ""
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    before = 100 * np.array(next(run for run in runs if run["key"]["start"] == "unadapted")["each"])
    names = ("count", "start", "options")
    for group in dict.fromkeys(tuple(run["key"][name] for name in names) for run in runs):
        own = [run for run in runs if tuple(run["key"][name] for name in names) == group]
        each = 100 * np.array([run["each"] for run in own])
        cells = [*group, len(own), own[0]["steps"], f"{np.median([run['seconds'] for run in own]):.0f}"]
        cells += [f"{np.mean([run['exact_match'] for run in own]):.2f}", interval(each), interval(each - before, "+")]
        cells += [spread([run[name] for run in own]) for name in parts]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    asked = options()
    starts, sizes, seeds = asked.starts.split(","), numbers(asked.sizes), numbers(asked.seeds)
    if not set(starts) <= set(STARTS):
        sys.exit(f"--starts must be among {', '.join(STARTS)}; received {asked.starts}")
    path = asked.work / "runs.jsonl"
    dev = articles_of("validation")
    order = np.random.default_rng(0).permutation(len(dev))
    held = [dev[at] for at in order[:SCORED_ARTICLES]]
    pool = [dev[at] for at in order[SCORED_ARTICLES:]]
    if asked.swap:
        held, pool = pool, held
    wished = [key(asked, "unadapted", 0, 0, "")]
    # Seed by seed: a benchmark that is stopped early has compared everything on the seeds that it finished.
    wished += [
        key(asked, start, size, seed, given)
        for seed, size, start, given in itertools.product(seeds, sizes, starts, asked.options or [""])
    ]
    known = [entry["key"] for entry in journal(path)]
    missing = [] if asked.table else [one for one in wished if one not in known]
    shards = asked.work / f"scored-{'v2' if asked.unanswerable else 'v1'}{'-swapped' if asked.swap else ''}"
    if missing:
        rows = questions(held, asked.score, asked.unanswerable, np.random.default_rng(0))
        shards = featurized(shards, "validation.jsonl", rows, asked.bare_model)
    for one in missing:
        chosen = (one[name] for name in ("start", "count", "seed", "options"))
        entry = {"key": one} | run(asked, *chosen, pool, shards)
        note(path, entry)
        print(json.dumps(entry | {"each": ""}), file=sys.stderr, flush=True)
    runs = {json.dumps(entry["key"]): entry for entry in journal(path)}
    print("\n".join(table([runs[json.dumps(one)] for one in wished if json.dumps(one) in runs], asked.unanswerable)))


if __name__ == "__main__":
    main()
