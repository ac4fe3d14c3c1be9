"""Compare recipes of training by exact match and F1: with labels alone, and with a teacher.

The default is MiniLM, 8,000 random training examples, 1 epoch, batch size 16, learning rate 1e-4. A seed decides the
examples, their order, dropout and the fresh head. Each recipe runs with the same seeds, so that recipes are compared
seed by seed. All models are scored on the same questions. Each run is a process of its own and adds a line to a
journal; runs that the journal has are not repeated, so the benchmark can be done in pieces.

    python bench/quality.py SHARDS --teacher MODEL [--recipes plain,teacher] [--seeds 0,1,2] [--score 2000]
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
from functools import cache
from pathlib import Path
from typing import Any

from qa_fast.train.mix import fingerprints, open_mix
from qa_fast.train.teacher import teacher_key

PLAIN, TAUGHT = "plain", "teacher"
RECIPES = (PLAIN, TAUGHT)
ROOT = Path(__file__).parent.parent


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a folder with the splits train and validation")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--teacher", help="fine-tuned model with the same tokenizer, for the recipe 'teacher'")
    parser.add_argument("--recipes", help=f"among {', '.join(RECIPES)}; default: all that can run")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--examples", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="bfloat16", help="precision of the training")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--score", type=int, help="number of questions to score, the same for all; default: all")
    parser.add_argument("--score-engine", default="keras", help="engine that scores the models")
    parser.add_argument("--score-precision", default="float32", help="precision of that engine")
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "results" / "quality", help="journal and models")
    parser.add_argument("--runs", type=int, help="stop after this many runs")
    parser.add_argument("--table", action="store_true", help="print the table of the journal and run nothing")
    return parser.parse_args(arguments)


def train_arguments(asked: argparse.Namespace, recipe: str, seed: int, out: Path) -> list[str]:
    """Arguments of `qa-fast train`. Models are scored afterwards, so that the seed does not choose the questions."""
    named = {
        "--model": asked.model,
        "--out": out,
        "--epochs": asked.epochs,
        "--learning-rate": asked.learning_rate,
        "--batch-size": asked.batch_size,
        "--precision": asked.precision,
        "--max-examples": asked.examples,
        "--seed": seed,
        "--validation": "",
        "--checkpoint-every": 0,
    }
    if recipe == TAUGHT:
        named["--teacher"] = asked.teacher
    words = [str(word) for pair in named.items() for word in pair]
    return ["train", asked.shards, *words, "--json"]


def called(arguments: list[str]) -> dict[str, Any]:
    """Return what a `qa-fast` command prints as JSON; if the command fails, this program ends."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "qa_fast.cli", *arguments]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def settings(asked: argparse.Namespace, recipe: str) -> dict[str, Any]:
    """Return everything that two runs must share to be compared."""
    names = ("model", "examples", "epochs", "learning_rate", "batch_size", "precision")
    names += ("split", "score", "score_engine", "score_precision")
    shared = {name: getattr(asked, name) for name in names} | {"shards": _data(asked.shards, asked.split)}
    shared["backend"] = os.environ.get("KERAS_BACKEND", "tensorflow")
    return shared | {"teacher": _teacher(asked.teacher) if recipe == TAUGHT else None}


@cache
def _data(shards: str, split: str) -> list[dict[str, Any]]:
    return fingerprints(open_mix([shards]), split)


@cache
def _teacher(folder: str) -> dict[str, str | None]:
    return teacher_key(Path(folder))


def run(asked: argparse.Namespace, recipe: str, seed: int) -> dict[str, Any]:
    """Train once and score the model; return the journal's line. A run that was stopped starts again."""
    out = asked.work / f"{recipe}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    trained = called(train_arguments(asked, recipe, seed, out))
    seconds = time.perf_counter() - begin
    limit = ["--max-examples", str(asked.score), "--seed", "0"] if asked.score else []
    arguments = ["evaluate", asked.shards, str(out), "--split", asked.split, "--engine", asked.score_engine]
    scored = called([*arguments, "--precision", asked.score_precision, "--json", *limit])
    shutil.rmtree(out, ignore_errors=True)
    return {
        "recipe": recipe,
        "seed": seed,
        "exact_match": scored["exact_match"] if "exact_match" in scored else scored["exact"],
        "f1": scored["f1"],
        "loss": trained["history"]["losses"][-1] if trained["history"]["losses"] else None,
        "steps": trained["steps"],
        "seconds": round(seconds, 1),  # of the training, including the teacher's logits
        "settings": settings(asked, recipe),
    }


def journal(path: Path) -> list[dict[str, Any]]:
    """Return the runs of a journal, without a line that a kill cut short."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            runs.append(json.loads(line))
        except ValueError:
            continue
    return runs


def note(path: Path, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(entry) + "\n")


def table(runs: list[dict[str, Any]], recipes: list[str]) -> list[str]:
    """Return lines of a Markdown table: scores of each recipe, and how much its F1 exceeds the plain one's, by seed."""
    plain = {run["seed"]: run["f1"] for run in runs if run["recipe"] == PLAIN}
    lines = [
        "| recipe | runs | exact match | F1 | F1 above plain, seed by seed |",
        "|---|---|---|---|---|",
    ]
    for recipe in recipes:
        own = [run for run in runs if run["recipe"] == recipe]
        if not own:
            continue
        cells = [spread([run[name] for run in own]) for name in ("exact_match", "f1")]
        gains = [run["f1"] - plain[run["seed"]] for run in own if run["seed"] in plain]
        gained = spread(gains, sign="+") if gains and recipe != PLAIN else ""
        lines.append(f"| {recipe} | {len(own)} | {cells[0]} | {cells[1]} | {gained} |")
    return lines


def spread(values: list[float], sign: str = "") -> str:
    """Return "mean (lowest to highest, sd standard deviation of the sample)"."""
    mean = f"{statistics.mean(values):{sign}.2f}"
    if len(values) == 1:
        return mean
    low, high = min(values), max(values)
    return f"{mean} ({low:{sign}.2f} to {high:{sign}.2f}, sd {statistics.stdev(values):.2f})"


def main(arguments: list[str] | None = None) -> None:
    asked = options(arguments)
    usual = [recipe for recipe in RECIPES if asked.teacher or recipe != TAUGHT]
    recipes = asked.recipes.split(",") if asked.recipes else usual
    if not set(recipes) <= set(usual):
        sys.exit(f"--recipes must be among {', '.join(RECIPES)}, and 'teacher' needs --teacher; received {recipes}")
    path = asked.work / "runs.jsonl"
    left = asked.runs
    # Seed by seed: a benchmark that is stopped early has compared all recipes on the seeds that it finished.
    for seed, recipe in itertools.product(map(int, asked.seeds.split(",")), recipes):
        known = any(same(entry, asked, recipe, seed) for entry in journal(path))
        if asked.table or known or left == 0:
            continue
        entry = run(asked, recipe, seed)
        note(path, entry)
        scores = f"EM {entry['exact_match']:.2f}, F1 {entry['f1']:.2f}"
        print(f"{recipe}, seed {seed}: {scores}, {entry['seconds']:.0f} s", file=sys.stderr, flush=True)
        left = None if left is None else left - 1
    seeds = set(map(int, asked.seeds.split(",")))
    runs = [e for e in journal(path) if e["recipe"] in recipes and e["seed"] in seeds]
    print("\n".join(table([e for e in runs if same(e, asked, e["recipe"], e["seed"])], recipes)))


def same(entry: dict[str, Any], asked: argparse.Namespace, recipe: str, seed: int) -> bool:
    """Return whether a line of a journal belongs to this run."""
    return (entry["recipe"], entry["seed"], entry["settings"]) == (recipe, seed, settings(asked, recipe))


if __name__ == "__main__":
    main()
