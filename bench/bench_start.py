"""Measures the least that `qa-fast featurize` costs as a whole process: its `--help`, and one question."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common

COMMAND = [sys.executable, "-m", "qa_fast.cli", "featurize"]


def measure(name: str, arguments: list[str], out: Path) -> None:
    seconds = []
    for _ in range(common.ROUNDS + 1):
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - begun)
    # The first run reads files from the disk, and may compile kernels.
    print(f"\nqa-fast featurize, {name}: {statistics.median(seconds[1:]):.2f} s (median of {common.ROUNDS})")


def test_help(tmp_path: Path) -> None:
    measure("--help", ["--help"], tmp_path / "out")


def test_one_question(tmp_path: Path) -> None:
    answers = [{"text": "in the hills", "answer_start": 16}]
    questions = [{"id": "1", "question": "Where does the river rise?", "answers": answers}]
    paragraphs = [{"context": "The river rises in the hills and flows to the sea.", "qas": questions}]
    source = tmp_path / "one.json"
    source.write_text(json.dumps({"data": [{"title": "Rivers", "paragraphs": paragraphs}]}))
    measure("one question", [str(source), "--out", str(tmp_path / "out"), "--quiet"], tmp_path / "out")
