"""Measures `qa-fast answer` and `qa-fast serve` as whole processes: time, memory, and size of the installation.

    python bench/cold.py MODEL [--light-python VENV/bin/python] [--runs 5] [--engine auto] [--precision auto]

Seconds are from the start of a process to its end (answer), or to the first answer over loopback (serve, which warms up
before it listens). Files are in the cache of the system: the first run of each is not counted. `--light-python` is the
interpreter of another environment, such as one with only `qa-fast[serve]` and no TensorFlow; both are timed in turns.
Each runs the package that `python -m qa_fast.cli` finds, which is the working tree if started from its top.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request

import common
from families import processor
from serve_load import Server

QUESTION = "Who paid for the new bell?"
CONTEXT = (
    "The old bell of Lindholm cracked in the winter of 1893. A new one was cast the year after and paid for by Ane "
    "Skou, a shipowner's widow, on the one condition that it be rung whenever a boat was late."
)
# Megabytes on disk as `du` counts them, a file with several links once, and the packages that were asked about.
LOOK = """
import importlib.util, json, os, sysconfig
seen = {}
for top in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
    for folder, _, names in os.walk(top):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
engines = [name for name in ("tensorflow", "jax", "torch", "onnxruntime", "openvino") if importlib.util.find_spec(name)]
print(json.dumps([sum(seen.values()) / 1e6, engines]))
"""


def answered(python: str, model: str, options: list[str]) -> common.Measured:
    """`qa-fast answer`, from start to end."""
    command = [python, "-m", "qa_fast.cli", "answer", model, "--question", QUESTION, "--context", CONTEXT, "--json"]
    run = common.whole_process([*command, *options])
    assert "answer" in json.loads(run.output), run.output
    return run


def served(python: str, model: str, options: list[str]) -> tuple[float, float]:
    """`qa-fast serve`: seconds to its first answer, and the memory that it then holds, in MB."""
    body = json.dumps({"inputs": {"question": QUESTION, "context": CONTEXT}}).encode()
    begun = time.perf_counter()
    server = Server(model, *options, python=python)
    try:
        request = urllib.request.Request(
            f"http://{server.host}:{server.port}/", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            found = json.load(response)
        assert "answer" in (found[0] if isinstance(found, list) else found), found
        return time.perf_counter() - begun, server.resident_mb()
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder with a trained head")
    parser.add_argument("--light-python", help="interpreter of an environment without TensorFlow")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    asked = parser.parse_args()
    options = ["--engine", asked.engine, "--precision", asked.precision]
    pythons = [sys.executable, *([asked.light_python] if asked.light_python else [])]
    answers: dict[str, list[common.Measured]] = {python: [] for python in pythons}
    servers: dict[str, list[tuple[float, float]]] = {python: [] for python in pythons}
    for turn in range(1 + asked.runs):
        for python in pythons:
            one, other = answered(python, asked.model, options), served(python, asked.model, options)
            if turn:
                answers[python].append(one)
                servers[python].append(other)
    rows = []
    for python in pythons:
        looked = subprocess.run([python, "-c", LOOK], capture_output=True, text=True, check=True)
        size, engines = json.loads(looked.stdout)
        rows.append(
            (
                "this one" if python == sys.executable else "light",
                ", ".join(engines),
                f"{size:,.0f}",
                common.spread([run.seconds for run in answers[python]]).strip(),
                f"{statistics.median(run.peak_mb for run in answers[python]):,.0f}",
                common.spread([seconds for seconds, _ in servers[python]]).strip(),
                f"{statistics.median(resident for _, resident in servers[python]):,.0f}",
            )
        )
    header = (
        "environment",
        "it has",
        "site-packages, MB",
        "answer, s",
        "peak, MB",
        "serve to the first answer, s",
        "resident then, MB",
    )
    common.print_table(f"{processor()}; medians of {asked.runs} (least to most)", header, rows)


if __name__ == "__main__":
    main()
