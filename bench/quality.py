"""What makes a model better than the plain recipe? The same run by recipe and seed, exact match and F1 of each.

MiniLM, 8,000 random train examples, 1 epoch, batch 16, learning rate 1e-4: plain, averaged weights (ema, swa), teacher.
A seed decides examples, order, dropout and the fresh head, the same for each recipe, so that recipes are compared seed
by seed. Every model is scored on the same questions, all of the split or a choice of them, in float32. Runs are
processes of their own, and each outcome is a line of a journal: what is there is not run again, so this can be done in
pieces.

    python bench/quality.py SHARDS --teacher MODEL [--recipes plain,ema,swa,teacher] [--seeds 0,1,2] [--score 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RECIPES: dict[str, list[str]] = {
    "plain": [],
    "ema": ["--average", "ema"],
    "swa": ["--average", "swa"],
    "teacher": [],
    "teacher+ema": ["--average", "ema"],
}
ROOT = Path(__file__).parent.parent


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="a folder with train and validation")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--teacher", help="fine-tuned model of the same tokenizer, for the recipes that have one")
    parser.add_argument("--recipes", help=f"of {', '.join(RECIPES)}; all but teacher+ema, or those without a teacher")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--examples", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--score", type=int, help="questions to score, the same for all; all of them if left out")
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "results" / "quality", help="journal and models")
    parser.add_argument("--runs", type=int, help="stop after so many runs")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    return parser.parse_args(arguments)


def command(asked: argparse.Namespace, recipe: str, seed: int, out: Path) -> list[str]:
    """The arguments of `qa-fast` that train one model; scored afterwards, so that no seed chooses the questions."""
    arguments = ["train", asked.shards, "--model", asked.model, "--out", str(out), "--validation", "", "--json"]
    arguments += ["--max-examples", str(asked.examples), "--epochs", str(asked.epochs), "--seed", str(seed)]
    arguments += ["--learning-rate", str(asked.learning_rate), "--batch-size", str(asked.batch_size)]
    arguments += RECIPES[recipe]
    return arguments + (["--teacher", asked.teacher] if recipe.startswith("teacher") else [])


def called(arguments: list[str]) -> dict[str, Any]:
    """What a `qa-fast` command prints as JSON; its errors end this program."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "qa_fast.cli", *arguments],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"qa-fast {' '.join(arguments)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def settings(asked: argparse.Namespace, recipe: str) -> dict[str, Any]:
    """What must be the same for two runs to be compared."""
    names = ("model", "examples", "epochs", "learning_rate", "batch_size", "split", "score")
    found = {name: getattr(asked, name) for name in names} | {"shards": Path(asked.shards).name}
    found["backend"] = os.environ.get("KERAS_BACKEND", "tensorflow")
    return found | {"teacher": Path(asked.teacher).name if recipe.startswith("teacher") else None}


def run(asked: argparse.Namespace, recipe: str, seed: int) -> dict[str, Any]:
    """Train and score one model; half-done ones of an earlier call are begun anew."""
    out = asked.work / f"{recipe}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    trained = called(command(asked, recipe, seed, out))
    limit = ["--max-examples", str(asked.score), "--seed", "0"] if asked.score else []
    arguments = ["evaluate", asked.shards, str(out), "--split", asked.split, "--engine", "keras"]
    scored = called([*arguments, "--precision", "float32", "--json", *limit])
    shutil.rmtree(out, ignore_errors=True)
    return {
        "recipe": recipe,
        "seed": seed,
        "exact_match": scored["exact_match"] if "exact_match" in scored else scored["exact"],
        "f1": scored["f1"],
        "loss": trained["history"]["losses"][-1] if trained["history"]["losses"] else None,
        "steps": trained["steps"],
        "seconds": round(time.perf_counter() - begin, 1),
        "precision": trained["precision"]["value"],
        "settings": settings(asked, recipe),
    }


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
        "| recipe | runs | exact match | F1 | F1 above plain, seed by seed | seconds a run |",
        "|---|---|---|---|---|---|",
    ]
    for recipe in recipes:
        here = [run for run in runs if run["recipe"] == recipe]
        if not here:
            continue
        cells = [spread([run[name] for run in here]) for name in ("exact_match", "f1")]
        gains = [run["f1"] - plain[run["seed"]] for run in here if run["seed"] in plain]
        gained = spread(gains, sign="+") if gains and recipe != "plain" else ""
        seconds = statistics.mean(run["seconds"] for run in here)
        lines.append(f"| {recipe} | {len(here)} | {cells[0]} | {cells[1]} | {gained} | {seconds:.0f} |")
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
    usual = [name for name in RECIPES if name != "teacher+ema" and (asked.teacher or name != "teacher")]
    recipes = asked.recipes.split(",") if asked.recipes else usual
    unknown = [name for name in recipes if name not in RECIPES]
    if unknown or (not asked.teacher and any(name.startswith("teacher") for name in recipes)):
        sys.exit(f"--recipes are of {', '.join(RECIPES)}, and those with a teacher need --teacher; received {recipes}")
    path = asked.work / "runs.jsonl"
    left = asked.runs
    # Seed by seed: a bench that is stopped early has compared all recipes on the seeds that it had.
    for seed in map(int, asked.seeds.split(",")):
        for recipe in recipes:
            there = any(same(entry, asked, recipe, seed) for entry in journal(path))
            if asked.table or there or left == 0:
                continue
            entry = run(asked, recipe, seed)
            note(path, entry)
            left = None if left is None else left - 1
            scores = f"EM {entry['exact_match']:.2f}, F1 {entry['f1']:.2f}"
            print(f"{recipe}, seed {seed}: {scores}, {entry['seconds']:.0f} s", file=sys.stderr, flush=True)
    seeds = set(map(int, asked.seeds.split(",")))
    runs = [e for e in journal(path) if e["seed"] in seeds and same(e, asked, e["recipe"], e["seed"])]
    print("\n".join(table(runs, recipes)))


def same(entry: dict[str, Any], asked: argparse.Namespace, recipe: str, seed: int) -> bool:
    """Whether a journal's line is of this run."""
    return (entry["recipe"], entry["seed"], entry["settings"]) == (recipe, seed, settings(asked, recipe))


if __name__ == "__main__":
    main()
