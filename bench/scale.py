"""Time and peak memory of whole `qa-fast featurize` processes on 1, 5 and 20 times SQuAD, from Parquet.

    python bench/scale.py [TIMES ...]

Each copy of SQuAD's train split has its own ids and contexts: a number is appended to every context.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import common
import pyarrow.compute as pc
import pyarrow.parquet as pq


def write_copies(path: Path, copies: int) -> None:
    """So many copies of SQuAD's train split as one Parquet file, a copy at a time."""
    table = common.squad_table()
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for copy in range(copies):
            changed = table
            for name in ("id", "context"):
                texts = pc.binary_join_element_wise(table[name], f"({copy})", " ")
                changed = changed.set_column(table.schema.get_field_index(name), name, texts)
            writer.write_table(changed, row_group_size=10_000)


def main(sizes: list[int]) -> None:
    """Measure each size once and print a table."""
    rows = []
    for copies in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "train.parquet"
            write_copies(source, copies)
            command = [
                sys.executable,
                "-m",
                "qa_fast.cli",
                "featurize",
                str(source),
                "--out",
                f"{scratch}/out",
                "--quiet",
            ]
            common.whole_process([*command, "--max-examples", "1000"])
            run = common.whole_process([*command, "--overwrite"])
        rows.append((f"{copies}", f"{run.seconds:.2f}", f"{run.seconds / copies:.2f}", f"{run.peak_mb:.0f}"))
    common.print_table(common.machine(), ("times SQuAD", "seconds", "seconds a time", "peak, MB"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[1, 5, 20], metavar="TIMES")
    main(parser.parse_args().sizes)
