"""The featurizer against the reference, on the same rows of SQuAD v1.1 train, in one run.

    pytest bench/bench_featurize.py            floors are asserted, a table is printed
    QA_FAST_BENCH_ROUNDS=5 …_REFERENCE_ROUNDS=1  how often each is timed

The reference is `bench/reference.py`: the transformers tokenizer under `datasets.map`, three processes. Its time is the
map alone, with the data loaded and the output in the Arrow files that `datasets` writes; ours is from files on disk to
checksummed shards on disk. Every ratio is of medians of one run.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from pathlib import Path

import common
import numpy as np
import pytest
from reference import reference_map
from transformers import AutoTokenizer

from qa_fast.build import build_shards
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model

# Ratio to the reference below which the bench fails: two thirds of the median seen, so that noise does not trip it.
FLOORS = {
    "JSON, one thread": 14.0,
    "Parquet, one thread": 16.0,
    "JSON, two threads": 16.0,
    "Parquet, two threads": 20.0,
}
FIGURES: dict[str, dict] = {}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    parquet = common.squad_parquet(tmp_path_factory.mktemp("parquet"))
    return {"JSON": str(common.squad_json()["train"]), "Parquet": str(parquet)}


def note(name: str, seconds: list[float], **more) -> None:
    FIGURES[name] = {"seconds": seconds, "median": statistics.median(seconds), **more}


def test_reference(benchmark, tmp_path: Path) -> None:
    rows = common.squad_dataset()
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("minilm"))
    rows.save_to_disk(tmp_path / "rows")
    from datasets import load_from_disk

    rows = load_from_disk(tmp_path / "rows")
    made = benchmark.pedantic(lambda: reference_map(rows, tokenizer), rounds=common.REFERENCE_ROUNDS, iterations=1)
    note("reference", benchmark.stats.stats.data)
    compare_with_shards(made, tmp_path)


def compare_with_shards(made, tmp_path: Path) -> None:
    """Every column of every feature, as `--labels reference` promises."""
    build_shards("squad", tmp_path / "shards", config=FeatureConfig(labels="reference"), splits=["train"])
    split = open_shards(tmp_path / "shards").split("train")
    assert len(split) == len(made) == 88_524
    row = 0
    for chunk in split.chunks:
        part = made.select(range(row, row + len(chunk))).with_format("numpy")
        for begin in range(0, len(chunk), 8192):
            theirs = part[begin : begin + 8192]
            rows = range(begin, begin + len(theirs["start_positions"]))
            lengths = theirs["attention_mask"].sum(axis=1)
            assert np.array_equal(lengths, chunk.input_ids.lengths[rows.start : rows.stop])
            mask = theirs["attention_mask"].astype(bool)
            span = slice(chunk.input_ids.offsets[rows.start], chunk.input_ids.offsets[rows.stop])
            assert np.array_equal(theirs["input_ids"][mask], chunk.input_ids.values[span])
            assert np.array_equal(theirs["token_type_ids"][mask], chunk.token_type_ids.values[span])
            assert np.array_equal(theirs["start_positions"], chunk.start_positions[rows.start : rows.stop])
            assert np.array_equal(theirs["end_positions"], chunk.end_positions[rows.start : rows.stop])
        row += len(chunk)
    FIGURES["reference"]["equal_features"] = row


@pytest.mark.parametrize("workers", [1, 2], ids=["one thread", "two threads"])
@pytest.mark.parametrize("kind", ["JSON", "Parquet"])
def test_engine(benchmark, kind: str, workers: int, sources: dict[str, str], tmp_path: Path) -> None:
    """One process, kernels compiled, a fresh encoder each time: source to shards on disk."""
    results = []
    out = tmp_path / "shards"

    def clean() -> None:
        """No earlier output, and nothing of it still on its way to the disk."""
        shutil.rmtree(out, ignore_errors=True)
        os.sync()

    def work() -> None:
        results.append(build_shards(sources[kind], out, splits=["train"], workers=workers))

    os.environ["TOKENIZERS_PARALLELISM"] = "true" if workers > 1 else "false"
    clean()
    work()
    benchmark.pedantic(work, setup=clean, rounds=common.ROUNDS)
    middle = sorted(results[1:], key=lambda result: result.seconds)[len(results) // 2 - 1]
    threads = "one thread" if workers == 1 else "two threads"
    note(f"{kind}, {threads}", benchmark.stats.stats.data, stages=middle.stage_seconds, whole=middle.seconds)


def command(source: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "qa_fast.cli", "featurize", source, "--split", "train", "--out", str(out), "--quiet"]


@pytest.mark.parametrize("kind", ["JSON", "Parquet"])
def test_whole_process(kind: str, sources: dict[str, str], tmp_path: Path) -> None:
    """`qa-fast featurize` as a user runs it, kernels in Numba's cache; peak memory too."""
    runs = [common.whole_process(command(sources[kind], tmp_path / f"{i}")) for i in range(common.ROUNDS + 1)][1:]
    note(f"process, {kind}", [run.seconds for run in runs], peak_mb=max(run.peak_mb for run in runs))


def test_first_run(sources: dict[str, str], tmp_path: Path) -> None:
    """The first run ever: every kernel is compiled."""
    runs = [
        common.whole_process(command(sources["JSON"], tmp_path / f"o{i}"), {"NUMBA_CACHE_DIR": str(tmp_path / f"c{i}")})
        for i in range(min(common.ROUNDS, 3))
    ]
    note("process, first ever", [run.seconds for run in runs], peak_mb=max(run.peak_mb for run in runs))


def test_ratios() -> None:
    """Print the table and hold the floors."""
    reference = FIGURES["reference"]["median"]
    rows = []
    for name, figures in FIGURES.items():
        memory = f"{figures['peak_mb']:.0f} MB" if "peak_mb" in figures else ""
        rows.append((name, common.spread(figures["seconds"]), f"{reference / figures['median']:.1f}", memory))
    common.print_table(common.machine(), ("way", "seconds: median (min to max)", "times the reference", "peak"), rows)
    stages = FIGURES["JSON, one thread"]["stages"]
    whole = FIGURES["JSON, one thread"]["whole"]
    rows = [(stage, f"{1000 * seconds:.0f}", f"{seconds / whole:.0%}") for stage, seconds in stages.items()]
    rows.append(
        ("the rest (set-up, checksum of the source, index)", f"{1000 * (whole - sum(stages.values())):.0f}", "")
    )
    common.print_table("JSON, one thread, by stage", ("stage", "ms", "share"), rows)
    common.save("featurize", {"machine": common.machine(), "figures": FIGURES})
    for name, floor in FLOORS.items():
        assert reference / FIGURES[name]["median"] >= floor, f"{name} is below {floor} times the reference"
