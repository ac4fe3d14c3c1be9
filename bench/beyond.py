"""Measures the stages of featurizing and the cost of Ray, and predicts the time on many cores from them.

    python bench/beyond.py [--copies 3] [--examples 1000000000]

The first table times the same rows with one and two threads, one and two Ray actors, and the reference under
`datasets.map`; Ray's start-up is reported separately. The second table has each stage of a run, measured alone. The
third predicts a run on 16, 256 and 4,096 cores from these stages, and names the bottleneck. It assumes three things
that cannot be measured on one machine: the object store serves every core at the rate at which a core reads and writes
here, its file system identifies a file without reading its bytes, and the driver has its own core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

from qa_fast import store
from qa_fast.builder.job import build_shards
from qa_fast.builder.ray_engine import connected, mapped
from qa_fast.builder.repeats import repeated_rows
from qa_fast.shards.journal import BlockFacts, Journal
from qa_fast.sources.pieces import BLOCK_BYTES, Block, blocks_of

CORES = (16, 256, 4096)


class Nothing:
    """A worker that does nothing: what is left is what scheduling costs."""

    def __call__(self, item: bytes) -> bytes:
        """The item."""
        return item


def timed(work: Any) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    made = work()
    return time.perf_counter() - begun, made


def write_copies(folder: Path, copies: int) -> Path:
    """So many copies of SQuAD's train split, each with ids of its own, as a file of nested JSON each."""
    text = common.squad_json()["train"].read_bytes()
    for copy in range(copies):
        (folder / f"train-{copy}.json").write_bytes(text.replace(b'"id": "', f'"id": "{copy}-'.encode()))
    return folder


def row(name: str, seconds: float, examples: int, rate: float) -> tuple[str, ...]:
    """One of the first table's."""
    return name, f"{seconds:.2f}", f"{examples / seconds:,.0f}", f"{rate * seconds / examples:.2f}"


def compare(folder: Path, source: Path, copies: int) -> tuple[list[tuple[str, ...]], float, float]:
    """The first table's rows; seconds to start Ray; examples a second of one thread."""
    rows, rate = [], 0.0
    build_shards(str(source), folder / "first", max_examples=1000)  # kernels compiled, files in the cache

    def built(name: str, **how: Any) -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            result = build_shards(str(source), folder / name, overwrite=True, **how)
        return result.featurize_seconds

    examples = 87_599 * copies
    for threads in (1, 2):
        seconds = built(f"local-{threads}", workers=threads)
        rate = rate or examples / seconds
        rows.append(row(f"threads: {threads}", seconds, examples, rate))
    start, _ = timed(lambda: connected(None, 2).__enter__())  # stays up for what follows
    for actors in (1, 2):
        built("ray-warm", engine="ray", workers=actors, max_examples=1000)
        seconds = built(f"ray-{actors}", engine="ray", workers=actors)
        rows.append(row(f"Ray, actors: {actors}", seconds, examples, rate))
    from reference import reference_map
    from transformers import AutoTokenizer

    from qa_fast.sources import resolve_model

    data = common.squad_dataset()
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("minilm"))
    with contextlib.redirect_stderr(io.StringIO()):
        seconds, _ = timed(lambda: reference_map(data, tokenizer))
    rows.append(row("datasets.map, the reference, 1 copy", seconds, len(data), rate))
    return rows, start, rate


def stages(folder: Path, source: Path, rate: float, start: float) -> dict[str, float]:
    """Seconds a block, or an example, of each stage; measured one after the other."""
    paths = sorted(source.glob("*.json"))
    size = sum(path.stat().st_size for path in paths)
    planned, blocks = timed(lambda: list(blocks_of({"train": paths})))
    hashed, _ = timed(lambda: [store.identity(path) for path in paths])
    items = [pickle.dumps(block) for block in blocks] * (3000 // len(blocks) + 1)
    warm, _ = timed(lambda: list(mapped(items[:20], Nothing, (), 2)))
    scheduled, _ = timed(lambda: list(mapped(items, Nothing, (), 2)))
    journal = Journal(folder / "ids", "0" * 64)
    journal.open()
    rows_a_block = 47_000
    many = [Block("train", number, ()) for number in range(40)]
    random = np.random.default_rng(0)
    for block in many:
        hashes = random.integers(1, 2**63, 2 * rows_a_block, dtype=np.uint64)
        journal.write(block, BlockFacts(rows_a_block, {}), hashes, [])
    sought, _ = timed(lambda: repeated_rows(journal, many))
    noted, _ = timed(lambda: [journal.known(block) for block in many])
    return {
        "start": start,
        "plan, a byte": planned / size,
        "identity, a byte": hashed / size,
        "schedule, a block": max(scheduled - warm, 0.0) / (len(items) - 20),
        "featurize, an example": 1 / rate,
        "repeats, an example": sought / (rows_a_block * len(many)),
        "note, a block": noted / len(many),
    }


def predict(seen: dict[str, float], examples: int) -> list[tuple[str, ...]]:
    """The third table: JSON that the driver cuts, and Parquet, whose footers it reads."""
    bytes_an_example = 345.8  # SQuAD's
    blocks = examples * bytes_an_example / BLOCK_BYTES
    rows = []
    for kind, is_json in (("JSON", True), ("Parquet", False)):
        for cores in CORES:
            size = examples * bytes_an_example
            parts = {
                "start of Ray": seen["start"],
                "cutting, driver": size * seen["plan, a byte"] if is_json else 0.0,
                "featurizing, cores": examples * seen["featurize, an example"] / cores,
                "scheduling, driver": blocks * seen["schedule, a block"],
                "repeated ids, driver": examples * seen["repeats, an example"],
                "index, driver": blocks * seen["note, a block"],
            }
            # Blocks are handed out while others are featurized: the slower of the two counts.
            both = max(parts["featurizing, cores"], parts["scheduling, driver"])
            total = both + sum(
                seconds for name, seconds in parts.items() if name not in ("featurizing, cores", "scheduling, driver")
            )
            binds = max(parts, key=lambda name: parts[name])
            share = f"{parts[binds] / total:.0%}"
            rows.append((kind, f"{cores:,}", f"{total:,.0f}", f"{examples / total:,.0f}", binds, share))
    return rows


def main() -> None:
    """Measure, put together, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=3, help="of SQuAD's train split")
    parser.add_argument("--examples", type=int, default=1_000_000_000, help="that the prediction is for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        source = write_copies(folder / "source", options.copies)
        rows, start, rate = compare(folder, source, options.copies)
        common.print_table(common.machine(), ("engine", "seconds", "examples/s", "times one thread"), rows)
        seen = stages(folder, source, rate, start)
        common.print_table("stages", ("stage", "seconds"), [(stage, f"{value:.3g}") for stage, value in seen.items()])
        heads = ("source", "cores", "seconds", "examples/s", "what binds", "of the time")
        common.print_table(f"predicted, {options.examples:,} examples", heads, predict(seen, options.examples))


if __name__ == "__main__":
    main()
