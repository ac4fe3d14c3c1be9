"""`python -m qa_fast.infer.measure MODEL "ENGINE PRECISION"…`: print as JSON how many tokens a second each way reads.

The ways take turns on the same windows, so that other work on the machine slows all of them. Where the turns do not
agree on the fastest way, more turns are taken.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qa_fast.infer.choose import Way
from qa_fast.infer.engine import Engine
from qa_fast.infer.graphs import end_with
from qa_fast.schema import Features

# Shares of SQuAD's windows, and the length in tokens below which they are.
_SHARES, _LENGTHS = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1), (41, 110, 133, 164, 207, 264, 384)
# Windows in a turn, and the seconds that the slowest way may take for it.
_WINDOWS, _SECONDS = 64, 0.5
_TURNS, _MOST_TURNS = 5, 15
# Part of the turns in which one way must be the fastest.
_AGREEMENT = 0.8


def windows(longest: int) -> list[Features]:
    """Return artificial windows of as many lengths as real ones have; the first few are as mixed as all."""
    from qa_fast.infer.shapes import blank

    shares = (0.618034 * np.arange(_WINDOWS) + 0.5) % 1  # the golden ratio spreads any number of them evenly
    return [blank(1, min(int(length), longest)) for length in np.interp(shares, _SHARES, _LENGTHS)]


def tokens_a_second(readers: Mapping[str, Engine], chunks: list[Features]) -> dict[str, float]:
    """Return the median speed of each reader over all turns."""

    def speed(reader: Engine, chunks: list[Features]) -> float:
        start = time.perf_counter()
        for _ in reader.predict(chunks):
            pass
        return sum(len(chunk.input_ids.values) for chunk in chunks) / (time.perf_counter() - start)

    slowest = min(speed(reader, chunks[:8]) for reader in readers.values())
    tokens = np.cumsum([len(chunk.input_ids.values) for chunk in chunks])
    chunks = chunks[: max(8, int((tokens < slowest * _SECONDS).sum()))]
    turns: list[dict[str, float]] = []
    while len(turns) < _MOST_TURNS:
        turns += [{way: speed(reader, chunks) for way, reader in readers.items()} for _ in range(_TURNS)]
        fastest = Counter(max(turn, key=lambda way: turn[way]) for turn in turns)
        if fastest.most_common(1)[0][1] >= _AGREEMENT * len(turns):
            break
    return {way: statistics.median(turn[way] for turn in turns) for way in readers}


def _main() -> None:
    from qa_fast.infer.open import open_way, problem_of
    from qa_fast.model.folder import folder_config

    folder, readers, problems = Path(sys.argv[1]), {}, []
    for way in (Way(*words.split()) for words in sys.argv[2:]):
        try:
            reader = open_way(folder, way, serving=True)
            reader.warm_up()
            readers[str(way)] = reader
        except Exception as error:  # a library that does not work here
            problems.append(problem_of(way, error))
    speeds = tokens_a_second(readers, windows(folder_config(folder).max_length)) if readers else {}
    print(json.dumps({"tokens_a_second": speeds, "problems": problems}))


if __name__ == "__main__":
    end_with(_main)
