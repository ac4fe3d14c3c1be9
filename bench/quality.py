"""What makes a model better than the plain recipe? The same run by recipe and seed, exact match and F1 of each.

MiniLM, 8,000 random train examples, 1 epoch, batch 16, learning rate 1e-4: with and without a teacher, and of either
the weights as trained and averaged (ema, swa). A seed decides examples, order, dropout and the fresh head, the same for
each recipe, so that recipes are compared seed by seed. Averages are of the very run that they stand beside
(`averaged_run.py`). Every model is scored on the same questions, all of the split or a choice of them. Runs are
processes of their own, and each outcome is a line of a journal: what is there is not run again, so this can be done in
pieces.

    python bench/quality.py SHARDS --teacher MODEL [--recipes plain,ema,swa,teacher] [--seeds 0,1,2] [--score 2000]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from qa_fast.train.sweep import data_of
from qa_fast.train.teacher import teacher_key

# A run, with a teacher or without, and which of its weights.
RECIPES: dict[str, tuple[bool, str]] = {
    "plain": (False, "plain"),
    "ema": (False, "ema"),
    "swa": (False, "swa"),
    "teacher": (True, "plain"),
    "teacher+ema": (True, "ema"),
    "teacher+swa": (True, "swa"),
}
ROOT = Path(__file__).parent.parent


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a folder with train and validation")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--teacher", help="fine-tuned model of the same tokenizer, for the recipes that have one")
    parser.add_argument("--recipes", help=f"of {', '.join(RECIPES)}; all, or those without a teacher")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--examples", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="bfloat16", help="of the training")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--score", type=int, help="questions to score, the same for all; all of them if left out")
    parser.add_argument("--score-engine", default="keras", help="that reads the models when they are scored")
    parser.add_argument("--score-precision", default="float32", help="of that engine")
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "results" / "quality", help="journal and models")
    parser.add_argument("--runs", type=int, help="stop after so many runs")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    return parser.parse_args(arguments)


def train_options(asked: argparse.Namespace, taught: bool, seed: int) -> dict[str, Any]:
    """Of `TrainConfig`; models are scored afterwards, so that no seed chooses the questions."""
    names = ("model", "epochs", "learning_rate", "batch_size", "precision")
    found = {name: getattr(asked, name) for name in names} | {"max_examples": asked.examples, "seed": seed}
    return found | {"validation": "", "checkpoint_every": 0, "teacher": asked.teacher if taught else None}


def printed(*arguments: str) -> dict[str, Any]:
    """What a Python program prints last, as JSON; its errors end this one."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def called(arguments: list[str]) -> dict[str, Any]:
    """What a `qa-fast` command prints as JSON."""
    return printed("-m", "qa_fast.cli", *arguments)


def settings(asked: argparse.Namespace, recipe: str) -> dict[str, Any]:
    """What must be the same for two runs to be compared."""
    names = ("model", "examples", "epochs", "learning_rate", "batch_size", "precision")
    names += ("split", "score", "score_engine", "score_precision")
    found = {name: getattr(asked, name) for name in names} | {"shards": _data(asked.shards, asked.split)}
    found["backend"] = os.environ.get("KERAS_BACKEND", "tensorflow")
    return found | {"teacher": _teacher(asked.teacher) if RECIPES[recipe][0] and asked.teacher else None}


@cache
def _data(shards: str, split: str) -> list[dict[str, Any]]:
    return data_of([shards], split)


@cache
def _teacher(folder: str) -> dict[str, str | None]:
    return teacher_key(Path(folder))


def run(asked: argparse.Namespace, taught: bool, seed: int, recipes: list[str]) -> Iterator[dict[str, Any]]:
    """Train once and score what recipes ask of it; half-done runs of an earlier call are begun anew."""
    out = asked.work / f"{'taught' if taught else 'plain'}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    config = json.dumps(train_options(asked, taught, seed))
    trained = printed(str(ROOT / "bench" / "averaged_run.py"), asked.shards, "--out", str(out), "--config", config)
    seconds = time.perf_counter() - begin
    for recipe in recipes:
        limit = ["--max-examples", str(asked.score), "--seed", "0"] if asked.score else []
        arguments = ["evaluate", asked.shards, str(out / RECIPES[recipe][1]), "--split", asked.split]
        arguments += ["--engine", asked.score_engine, "--precision", asked.score_precision, "--json", *limit]
        scored = called(arguments)
        yield {
            "recipe": recipe,
            "seed": seed,
            "exact_match": scored["exact_match"] if "exact_match" in scored else scored["exact"],
            "f1": scored["f1"],
            "loss": trained["history"]["losses"][-1] if trained["history"]["losses"] else None,
            "steps": trained["steps"],
            "seconds": round(seconds, 1),  # of the run that all its recipes share, and of a teacher's reading
            "settings": settings(asked, recipe),
        }
    shutil.rmtree(out, ignore_errors=True)


def journal(path: Path) -> list[dict[str, Any]]:
    """The runs of a journal; a line that was cut short is none."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def note(path: Path, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(entry) + "\n")


def table(runs: list[dict[str, Any]], recipes: list[str]) -> list[str]:
    """Lines of Markdown: of each recipe mean, lowest to highest and standard deviation, and F1 beside plain's seeds."""
    plain = {run["seed"]: run["f1"] for run in runs if run["recipe"] == "plain"}
    lines = [
        "| recipe | runs | exact match | F1 | F1 above plain, seed by seed |",
        "|---|---|---|---|---|",
    ]
    for recipe in recipes:
        here = [run for run in runs if run["recipe"] == recipe]
        if not here:
            continue
        cells = [spread([run[name] for run in here]) for name in ("exact_match", "f1")]
        gains = [run["f1"] - plain[run["seed"]] for run in here if run["seed"] in plain]
        gained = spread(gains, sign="+") if gains and recipe != "plain" else ""
        lines.append(f"| {recipe} | {len(here)} | {cells[0]} | {cells[1]} | {gained} |")
    return lines


def spread(values: list[float], sign: str = "") -> str:
    """Mean (lowest to highest, sd standard deviation of the sample)."""
    told = f"{statistics.mean(values):{sign}.2f}"
    if len(values) == 1:
        return told
    low, high = min(values), max(values)
    return f"{told} ({low:{sign}.2f} to {high:{sign}.2f}, sd {statistics.stdev(values):.2f})"


def main(arguments: list[str] | None = None) -> None:
    asked = options(arguments)
    usual = [name for name, (taught, _) in RECIPES.items() if asked.teacher or not taught]
    recipes = asked.recipes.split(",") if asked.recipes else usual
    unknown = [name for name in recipes if name not in RECIPES]
    if unknown or (not asked.teacher and any(RECIPES[name][0] for name in recipes)):
        sys.exit(f"--recipes are of {', '.join(RECIPES)}, and those with a teacher need --teacher; received {recipes}")
    path = asked.work / "runs.jsonl"
    left = asked.runs
    # Seed by seed: a bench that is stopped early has compared all recipes on the seeds that it had.
    for seed, taught in itertools.product(map(int, asked.seeds.split(",")), (False, True)):
        there = {entry["recipe"] for entry in journal(path) if same(entry, asked, entry["recipe"], seed)}
        todo = [recipe for recipe in recipes if RECIPES[recipe][0] == taught and recipe not in there]
        if asked.table or not todo or left == 0:
            continue
        for entry in run(asked, taught, seed, todo):
            note(path, entry)
            scores = f"EM {entry['exact_match']:.2f}, F1 {entry['f1']:.2f}"
            print(f"{entry['recipe']}, seed {seed}: {scores}, {entry['seconds']:.0f} s", file=sys.stderr, flush=True)
        left = None if left is None else left - 1
    seeds = set(map(int, asked.seeds.split(",")))
    runs = [e for e in journal(path) if e["seed"] in seeds and same(e, asked, e["recipe"], e["seed"])]
    print("\n".join(table(runs, recipes)))


def same(entry: dict[str, Any], asked: argparse.Namespace, recipe: str, seed: int) -> bool:
    """Whether a journal's line is of this run."""
    return (entry["recipe"], entry["seed"], entry["settings"]) == (recipe, seed, settings(asked, recipe))


if __name__ == "__main__":
    main()
