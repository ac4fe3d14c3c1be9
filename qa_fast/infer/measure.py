"""`python -m qa_fast.infer.measure MODEL ENGINE PRECISION`: print how many tokens per second an engine reads."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from qa_fast.infer.graphs import end_with

# Lengths of windows in tokens, as in SQuAD, and one full window.
_LENGTHS = (96, 128, 160, 192, 192, 224, 256, 384)
# The best of several rounds counts: other work makes a round slower, never faster.
_ROUNDS = 5
_SECONDS = 0.4


def tokens_a_second(folder: Path, engine: str, precision: str) -> float:
    """Measure the speed on artificial windows, after a warm-up."""
    from qa_fast.infer.open import open_way
    from qa_fast.infer.shapes import blank
    from qa_fast.model.folder import folder_config

    longest = folder_config(folder).max_length
    chunks = [blank(2, min(length, longest)) for length in _LENGTHS]
    tokens = sum(len(chunk.input_ids.values) for chunk in chunks)
    reader = open_way(folder, engine, precision, serving=True)
    reader.warm_up()
    rates = []
    for _ in range(_ROUNDS):
        start, passes = time.perf_counter(), 0
        while passes == 0 or time.perf_counter() - start < _SECONDS:
            for _ in reader.predict(chunks):
                pass
            passes += 1
        rates.append(passes * tokens / (time.perf_counter() - start))
    return max(rates)


if __name__ == "__main__":
    end_with(lambda: print(tokens_a_second(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
