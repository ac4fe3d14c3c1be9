"""Measures `qa-fast featurize --help` as a whole process: the least cost of any start of the command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import common


def test_help() -> None:
    command = [sys.executable, "-m", "qa_fast.cli", "featurize", "--help"]
    seconds = []
    for _ in range(common.ROUNDS + 1):
        begun = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - begun)
    # The first run reads files from the disk.
    print(f"\nqa-fast featurize --help: {statistics.median(seconds[1:]):.2f} s (median of {common.ROUNDS})")
