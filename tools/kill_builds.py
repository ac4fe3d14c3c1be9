"""Kill featurizing at random moments, again and again, and see that what comes of it in the end is an unbroken run's.

    python tools/kill_builds.py --kills 30 --engine local
    python tools/kill_builds.py --kills 30 --engine ray      # the driver, or one of its workers, in turn by chance

Each run goes on from where the last one was killed, until one gets to its end; then the folder is compared, byte by
byte, with an unbroken run's, and the next begins anew. Whenever a run was killed, the folder must not be trusted. The
source is made here: ids that repeat, rows that are rejected, files of three kinds. Prints one table; ends with 1 if
anything differs.
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

# A small source of many blocks: what a build is stopped in the middle of is then mostly a block, not the start-up.
RUN = """
import sys
from qa_fast.sources import pieces
pieces.BLOCK_BYTES = 40_000
from qa_fast.builder.job import build_shards
from qa_fast.schema import FeatureConfig
build_shards(sys.argv[1], sys.argv[2], sys.argv[3], FeatureConfig(64, 16), workers=2, engine=sys.argv[4])
"""


def make_source(folder: Path, copies: int) -> None:
    """Files of three kinds, with ids that repeat across blocks and rows that are rejected."""
    rows = [{**row, "id": f"{row['id']}-{i}"} for i in range(copies) for row in sample.rows()]
    for at in range(0, len(rows), 97):
        rows[at] = {**rows[at], "question": ""}
    rows += rows[:50]
    sample.write(folder / "train-1.jsonl", rows)
    sample.write(folder / "train-2.json", [{**row, "id": f"b-{row['id']}"} for row in rows])
    sample.write(folder / "dev.json", sample.squad_v2())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def start(source: Path, out: Path, model: Path, engine: str) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    command = [sys.executable, "-c", RUN, str(source), str(out), str(model), engine]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet, start_new_session=True)


def kill(run: subprocess.Popen[bytes], chance: random.Random, engine: str) -> str:
    """Kill the driver with all that it started, or one worker of Ray's alone; says which."""
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
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--copies", type=int, default=2500, help="times the sample's questions are repeated")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counted = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_source(work / "source", options.copies)
        model = sample.model_folder(work / "model")
        began = time.monotonic()
        if start(work / "source", work / "whole", model, options.engine).wait():
            sys.exit("the unbroken run failed")
        whole, seconds = contents(work / "whole"), time.monotonic() - began
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
                    counted["killed behind the index"] += 1
                    vouched = json.loads((out / "qa_fast.json").read_bytes())
                    for split, about in vouched["splits"].items():
                        for file in about["shards"]:
                            counted["wrong"] += (
                                contents(out).get(f"{split}/{file['file']}") != whole[f"{split}/{file['file']}"]
                            )
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
    print(f"engine {options.engine}, {blocks} shards, an unbroken run takes {seconds:.1f} s, seed {options.seed}")
    for what in sorted(counted.keys() | {"wrong"}):
        print(f"{what:32} {counted[what]:6}")
    sys.exit(bool(counted["wrong"]))


if __name__ == "__main__":
    main()
