"""Kills featurizing at random moments, and checks that the final folder equals that of an uninterrupted run.

    python tools/kill_builds.py --kills 30 --engine local
    python tools/kill_builds.py --kills 30 --engine ray      # kills the driver or a worker, at random

Each run continues the one that was killed before it, until one finishes. Then the folder is compared byte by byte with
that of an uninterrupted run, and the next run starts from nothing. After each kill, an index may list only files that
are whole. The source is generated: it has repeated ids, rejected rows and files of three kinds. Prints one table; the
exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import sample  # noqa: E402

# Small blocks, so that most builds are killed within a block and not during the start.
RUN = """
import sys
from qa_fast.sources import pieces
pieces.BLOCK_BYTES = 40_000
from qa_fast.builder.job import build_shards
from qa_fast.schema import FeatureConfig
build_shards(sys.argv[1], sys.argv[2], sys.argv[3], FeatureConfig(64, 16), workers=2, engine=sys.argv[4])
"""


def make_source(folder: Path, copies: int) -> None:
    """Write files of three kinds, with ids that repeat across blocks and rows that are rejected."""
    rows = [{**row, "id": f"{row['id']}-{i}"} for i in range(copies) for row in sample.rows()]
    for at in range(0, len(rows), 97):
        rows[at] = {**rows[at], "question": ""}
    rows += rows[:50]
    sample.write(folder / "train-1.jsonl", rows)
    sample.write(folder / "train-2.json", [{**row, "id": f"b-{row['id']}"} for row in rows])
    sample.write(folder / "dev.json", sample.squad_v2())


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder and its subfolders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def start(source: Path, out: Path, model: Path, engine: str) -> subprocess.Popen[bytes]:
    """Start a run in its own process group."""
    command = [sys.executable, "-c", RUN, str(source), str(out), str(model), engine]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet, start_new_session=True)


def kill(run: subprocess.Popen[bytes], chance: random.Random, engine: str) -> str:
    """Kill the driver with all its child processes, or only one worker of Ray, and return which."""
    process = psutil.Process(run.pid)
    below = process.children(recursive=True)
    workers = [child for child in below if child.is_running() and "MapWorker" in " ".join(child.cmdline()[:1])]
    if engine == "ray" and workers and chance.random() < 0.5:
        chance.choice(workers).kill()
        return "a worker"
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    for child in below:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(below, timeout=20)
    return "the driver"


def main() -> None:
    """Kill runs, continue them, and compare the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--copies", type=int, default=2500, help="number of copies of the sample's questions")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counted = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_source(work / "source", options.copies)
        model = sample.model_folder(work / "model")
        started = time.monotonic()
        if start(work / "source", work / "whole", model, options.engine).wait():
            sys.exit("the uninterrupted run failed")
        whole, seconds = contents(work / "whole"), time.monotonic() - started
        out = work / "out"
        while counted["kills"] < options.kills:
            run = start(work / "source", out, model, options.engine)
            ends = time.monotonic() + chance.uniform(0.02, 1.0) * seconds
            while run.poll() is None and time.monotonic() < ends:
                time.sleep(0.005)
            if run.poll() is None:
                killed = kill(run, chance, options.engine)
                counted["kills"] += 1
                counted[f"kills of {killed}"] += 1
                if killed == "a worker":
                    run.wait()
                elif (out / "qa_fast.json").exists():
                    counted["kills after the index"] += 1
                    index = json.loads((out / "qa_fast.json").read_bytes())
                    for split, facts in index["splits"].items():
                        for name in (f"{split}/{file['file']}" for file in facts["shards"]):
                            counted["wrong"] += contents(out).get(name) != whole[name]
                counted["shards that a killed run left"] += len(list(out.glob("*/data-*.arrow")))
            if run.returncode == 0:
                counted["whole folders"] += 1
                counted["wrong"] += contents(out) != whole
                shutil.rmtree(out)
        if out.exists():
            counted["wrong"] += bool(start(work / "source", out, model, options.engine).wait())
            counted["whole folders"] += 1
            counted["wrong"] += contents(out) != whole
        blocks = len([file for file in whole if "/data-" in file])
    print(f"engine {options.engine}, {blocks} shards, an uninterrupted run takes {seconds:.1f} s, seed {options.seed}")
    for name in sorted(counted.keys() | {"wrong"}):
        print(f"{name:32} {counted[name]:6}")
    sys.exit(bool(counted["wrong"]))


if __name__ == "__main__":
    main()
