"""Times the featurizer and the reference on the same rows of SQuAD v1.1 train, in one run.

    pytest bench/bench_featurize.py            floors are asserted, a table is printed
    QA_FAST_BENCH_ROUNDS=5 …_REFERENCE_ROUNDS=1  how often each is timed

The reference is `bench/reference.py`: the transformers tokenizer under `datasets.map` with three processes. Its time is
that of the map alone, from loaded data to the Arrow files that `datasets` writes; qa-fast's time is from files on disk
to checksummed shards on disk. Every ratio compares medians of one run.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import pytest
from reference import reference_map
from transformers import AutoTokenizer

from qa_fast.buffers import one_chunk
from qa_fast.builder.job import build_shards
from qa_fast.encode import load_encoder
from qa_fast.encode.words import WordEncoder
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model
from qa_fast.sources.read import read_examples

# Ratio to the reference below which the bench fails: two thirds of the median seen, so that noise does not trip it.
FLOORS = {
    "JSON, one thread": 27.0,
    "Parquet, one thread": 30.0,
    "JSON, two threads": 35.0,
    "Parquet, two threads": 42.0,
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
    name = f"{kind}, {'one thread' if workers == 1 else 'two threads'}"
    note(name, benchmark.stats.stats.data, stages=middle.stage_seconds, whole=middle.seconds)
    if workers == 1:
        FIGURES[name]["tables"], FIGURES[name]["moved"] = bytes_moved(Path(sources[kind]), out)
        FIGURES[name]["learn"] = seconds_learning(work, clean)


def bytes_moved(source: Path, out: Path) -> tuple[int, dict[str, int]]:
    """The tables of a source, and the bytes that each stage cannot help reading and writing, each once."""
    tables = text = tokens_of_text = 0
    encoder = load_encoder(resolve_model("minilm"))
    raw = contexts = 0
    for table, _ in read_examples(source, {}):
        tables += 1
        raw += table.nbytes
        distinct, questions = table["context"].chunk(0).dictionary, one_chunk(table["question"])
        encoded = encoder.encode(distinct), encoder.encode(questions, with_chars=False)
        contexts += len(encoded[0].ids)
        text += distinct.nbytes + questions.nbytes
        tokens_of_text += 12 * len(encoded[0].ids) + 4 * len(encoded[1].ids)
    about = json.loads((out / "qa_fast.json").read_text())["splits"]["train"]
    written = sum(file["bytes"] for file in about["shards"])
    return tables, {
        "load": source.stat().st_size + raw,
        "check": text,
        "encode": text + tokens_of_text,
        "labels": 8 * contexts,
        "lay out": 9 * about["tokens"],
        "write": 2 * written,
    }


def seconds_learning(work, clean) -> float:
    """Return the time in which one thread encodes new units; several threads do this one after the other."""
    spent = []
    learn = WordEncoder._learn

    def timed(*arguments):
        begun = time.perf_counter()
        try:
            return learn(*arguments)
        finally:
            spent.append(time.perf_counter() - begun)

    WordEncoder._learn = timed
    try:
        clean()
        work()
    finally:
        WordEncoder._learn = learn
    return sum(spent)


def command(source: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "qa_fast.cli", "featurize", source, "--split", "train", "--out", str(out), "--quiet"]


def run_fresh(source: str, out: Path, env: dict[str, str] | None = None) -> common.Measured:
    """A whole process that finds no earlier output, and nothing of it still on its way to the disk."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    return common.whole_process(command(source, out), env)


@pytest.mark.parametrize("kind", ["JSON", "Parquet"])
def test_whole_process(kind: str, sources: dict[str, str], tmp_path: Path) -> None:
    """`qa-fast featurize` as a user runs it, kernels in Numba's cache; peak memory too."""
    runs = [run_fresh(sources[kind], tmp_path / "out") for _ in range(common.ROUNDS + 1)][1:]
    note(f"process, {kind}", [run.seconds for run in runs], peak_mb=max(run.peak_mb for run in runs))


def test_first_run(sources: dict[str, str], tmp_path: Path) -> None:
    """The first run ever: every kernel is compiled."""
    runs = [
        run_fresh(sources["JSON"], tmp_path / "out", {"NUMBA_CACHE_DIR": str(tmp_path / f"cache-{i}")})
        for i in range(common.ROUNDS)
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
    memory, disk = common.bandwidths(Path(tempfile.gettempdir()))
    for kind in ("JSON", "Parquet"):
        print_stages(kind, FIGURES[f"{kind}, one thread"], memory, disk)
        print_threads(kind)
    common.save("featurize", {"machine": common.machine(), "figures": FIGURES})
    for name, floor in FLOORS.items():
        # Of the shortest times: two rounds of three may meet other work on the machine.
        least = min(FIGURES["reference"]["seconds"]) / min(FIGURES[name]["seconds"])
        assert least >= floor, f"{name} is below {floor} times the reference"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}"


def print_stages(kind: str, figures: dict, memory: float, disk: float) -> None:
    """Each stage beside the time that its bytes alone would take."""
    whole, moved = figures["whole"], figures["moved"]
    rows = []
    for stage, seconds in figures["stages"].items():
        size = moved.get(stage, 0)
        floor = size / memory + (size / 2 / disk if stage == "write" else 0)
        rate = f"{size / seconds / 1e6:,.0f}" if size else ""
        rows.append(
            (stage, f"{1e3 * seconds:.0f}", f"{size / 1e6:.0f}", rate, f"{seconds / whole:.0%}", f"{1e3 * floor:.0f}")
        )
    rest = whole - sum(figures["stages"].values())
    rows.append(
        ("the rest: tokenizer, checksum of the source, index", f"{1e3 * rest:.0f}", "", "", f"{rest / whole:.0%}", "")
    )
    title = f"{kind}, one thread; memory {memory / 1e9:.1f} GB/s read and written, files {disk / 1e9:.1f} GB/s"
    common.print_table(title, ("stage", "ms", "MB", "MB/s", "share", "floor, ms"), rows)


def print_threads(kind: str) -> None:
    """Print the parts of the time that more threads can reduce, and those that they cannot."""
    one = FIGURES[f"{kind}, one thread"]
    stages, whole = one["stages"], one["whole"]
    set_up = whole - sum(stages.values())
    chains = {"reading": stages["load"], "new units": one["learn"], "writing": stages["write"]}
    spread = sum(stages.values()) - sum(chains.values())
    table = 1 / one["tables"]  # of the work is in one table, which must be read before and written after all others
    predicted = {
        cores: set_up + max(*chains.values(), (sum(chains.values()) + spread) / cores) * (1 + table)
        for cores in (2, 4, 16)
    }
    rows = [(name, f"{1e3 * seconds:.0f}") for name, seconds in chains.items()]
    rows += [("in any number of threads", f"{1e3 * spread:.0f}"), ("before all", f"{1e3 * set_up:.0f}")]
    rows += [(f"predicted on {cores} cores", f"{1e3 * seconds:.0f}") for cores, seconds in predicted.items()]
    rows.append(("measured with two threads", f"{1e3 * FIGURES[f'{kind}, two threads']['median']:.0f}"))
    common.print_table(f"{kind}: chains of which each takes one thread at a time", ("work", "ms"), rows)
