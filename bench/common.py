"""Parts that the benchmarks share: the real data, the machine's description, whole processes measured from outside."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qa_fast.sources import resolve_source
from qa_fast.sources.read import read_examples

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "numba", "pyarrow", "tokenizers", "transformers", "datasets")
# How often each thing is timed; CI turns it down for the slow reference.
ROUNDS = int(os.environ.get("QA_FAST_BENCH_ROUNDS", "5"))
REFERENCE_ROUNDS = int(os.environ.get("QA_FAST_BENCH_REFERENCE_ROUNDS", str(ROUNDS)))


def squad_json() -> dict[str, Path]:
    """The official files of SQuAD v1.1, by split."""
    return {split: paths[0] for split, paths in resolve_source("squad").splits.items()}


def squad_table() -> pa.Table:
    """SQuAD's train split, as `datasets` and the Hub's Parquet files hold it."""
    tables = [table for table, _ in read_examples(squad_json()["train"], {})]
    table = pa.concat_tables(tables)
    return table.set_column(2, "context", table["context"].cast(pa.string()))


def squad_parquet(folder: Path) -> Path:
    """SQuAD's train split as a Parquet file in the Hub's layout: zstd pages, row groups of 10,000."""
    path = folder / "train-00000-of-00001.parquet"
    pq.write_table(squad_table(), path, compression="zstd", row_group_size=10_000)
    return path


def squad_dataset() -> Any:
    """SQuAD's train split as a `datasets.Dataset`, in memory."""
    from datasets import Dataset

    return Dataset(squad_table())


def machine() -> str:
    """Machine and versions in a line."""
    model = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} cores, {model}; Python {platform.python_version()}, {packages}"


@dataclass(frozen=True)
class Measured:
    """A whole process: wall seconds and peak memory in MB, of itself or the largest of its children."""

    seconds: float
    peak_mb: float
    output: str


def whole_process(command: list[str], env: dict[str, str] | None = None) -> Measured:
    """Run a command to its end and measure it from outside."""
    watcher = (
        "import json, resource, subprocess, sys, time\n"
        "begun = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "seconds = time.perf_counter() - begun\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024\n"
        "print(json.dumps([done.returncode, seconds, peak, done.stdout, done.stderr]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watcher, *command], capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    code, seconds, peak, output, errors = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)} failed: {errors[-2000:]}")
    return Measured(seconds, peak, output)


def bandwidths(folder: Path) -> tuple[float, float]:
    """Bytes a second: read and written by a copy in memory, and written to a new file as the shards are."""
    size = 1 << 28
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    memory = 2 * size / min(times(lambda: np.copyto(target, source), 5))
    path = folder / "qa-fast-bandwidth"

    def write() -> None:
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for begin in range(0, size, 1 << 22):
                file.write(source[begin : begin + (1 << 22)].data)

    try:
        return memory, size / min(times(write, 3))
    finally:
        path.unlink(missing_ok=True)


def own_peak_mb() -> float:
    """This process's peak memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def times(work: Callable[[], Any], rounds: int = ROUNDS) -> list[float]:
    """Wall seconds of each of `rounds` calls."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return seconds


def spread(seconds: list[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(seconds):8.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def save(topic: str, value: Any) -> None:
    """Keep a bench's figures for the README, not under version control."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{topic}.json").write_text(json.dumps(value, indent=2) + "\n")


def print_table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A Markdown table on standard output, so that it can be copied into a README as it is."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    line = "| " + " | ".join("{:<%d}" % width for width in widths) + " |"  # noqa: UP031
    print(f"\n{title}\n")
    print(line.format(*header))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line.format(*row))
    sys.stdout.flush()
