"""Times the encoding of SQuAD's distinct texts by qa-fast and by other libraries with MiniLM's tokenizer.

The texts are the 18,891 contexts and 87,599 questions of the train split, without special tokens. Each row is measured
in a process of its own, in turns: once with a new tokenizer ("first") and once more with the same one ("again").
qa-fast reads an Arrow array, as it does from files, and the others a list of strings. Whatever a library makes is
turned into one array of ids, and where offsets are made, into one array of these. The ids of all must be equal.

    python bench/encoding.py [--tokenizers-1 PYTHON] [--nanotoken PYTHON] [--turns 3]

Both options name the interpreter of an environment that has the library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# Texts that a thread of qa-fast encodes at a time, as in featurizing.
_TABLE = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers-1", metavar="PYTHON")
    parser.add_argument("--nanotoken", metavar="PYTHON")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    # (name, interpreter, whether offsets are made, turns); the installed tokenizers are slow and get one turn.
    sides = [("qa-fast", sys.executable, True, options.turns), ("qa-fast", sys.executable, False, options.turns)]
    sides += [("nanotoken", options.nanotoken, False, options.turns)] if options.nanotoken else []
    sides += [("tokenizers", options.tokenizers_1, False, options.turns)] if options.tokenizers_1 else []
    sides += [("tokenizers", sys.executable, True, 1), ("tokenizers", sys.executable, False, 1)]

    import common

    from qa_fast.encode.encoder import canonical_settings, load_encoder
    from qa_fast.sources import resolve_model

    table = common.squad_table()
    texts = [*table["context"].unique().to_pylist(), *table["question"].to_pylist()]
    size = sum(len(text.encode()) for text in texts) / 1e6
    found: dict[tuple[str, bool, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = resolve_model("minilm")
        (Path(folder) / "texts.json").write_text(json.dumps(texts))
        (Path(folder) / "tokenizer.json").write_bytes(canonical_settings(load_encoder(model).settings))
        for turn in range(options.turns):
            for name, python, offsets, turns in sides:
                for threads in (1, 2) if turn < turns else ():
                    command = [python, __file__, "--work", name, folder, str(model), str(threads), str(int(offsets))]
                    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                    result = json.loads(done.stdout.splitlines()[-1])
                    found.setdefault((result["name"], offsets, threads), []).append(result)

    def rate(results: list[dict[str, Any]], which: int) -> str:
        return f"{size / statistics.median(result['seconds'][which] for result in results):.1f}"

    ids = {result["ids"] for results in found.values() for result in results}
    rows = []
    for name, offsets in dict.fromkeys((name, offsets) for name, offsets, _ in found):
        one, two = found[name, offsets, 1], found[name, offsets, 2]
        cells = [rate(results, which) for results in (one, two) for which in (0, 1)]
        rows.append((name, "yes" if offsets else "no", *cells))
    title = f"{len(texts):,} texts, {size:.1f} MB, MB/s, medians; ids {'equal' if len(ids) == 1 else 'DIFFER'}"
    header = ("library", "offsets", "1 thread, first", "again", "2 threads, first", "again")
    common.print_table(f"{title}; {common.machine()}", header, rows)


def work(name: str, folder: str, model: str, threads: int, offsets: bool) -> None:
    """Encode the texts twice with one library and print the seconds and a checksum of the ids."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    texts = json.loads((Path(folder) / "texts.json").read_text())
    path = str(Path(folder) / "tokenizer.json")
    side = {"qa-fast": qa_fast_side, "tokenizers": tokenizers_side, "nanotoken": nanotoken_side}[name]
    title, encode = side(texts, path, model, threads, offsets)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        ids = encode()
        seconds.append(time.perf_counter() - begun)
    checksum = hashlib.sha256(np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()
    print(json.dumps({"name": title, "seconds": seconds, "ids": checksum}))


def qa_fast_side(texts: list[str], _: str, model: str, threads: int, offsets: bool) -> tuple[str, Any]:
    import pyarrow as pa

    from qa_fast.encode.encoder import load_encoder

    load_encoder(Path(model), "words").encode(pa.array(["Kernels are loaded now."]))
    encoder = load_encoder(Path(model), "words")
    array = pa.array(texts)
    tables = [array.slice(begin, _TABLE) for begin in range(0, len(array), _TABLE)]
    pool = ThreadPoolExecutor(threads)
    return "qa-fast", lambda: np.concatenate(
        [encoded.ids for encoded in pool.map(lambda table: encoder.encode(table, offsets), tables)]
    )


def tokenizers_side(texts: list[str], path: str, _: str, threads: int, offsets: bool) -> tuple[str, Any]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(path)

    def new() -> np.ndarray:
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        return np.concatenate([encoding.ids_array for encoding in encodings])

    def old() -> np.ndarray:
        encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        ids, places = [], []
        for begin in range(0, len(texts), 1024):
            for encoding in encode(texts[begin : begin + 1024], add_special_tokens=False):
                ids += encoding.ids
                places += encoding.offsets if offsets else ()
        np.array(places, np.int32)
        return np.array(ids, np.int32)

    return f"tokenizers {tokenizers.__version__}", new if hasattr(tokenizers.Encoding, "ids_array") else old


def nanotoken_side(texts: list[str], path: str, _: str, threads: int, offsets: bool) -> tuple[str, Any]:
    import nanotoken

    tokenizer = nanotoken.Tokenizer(path)
    return (
        f"nanotoken {version('nanotoken')}",
        lambda: tokenizer.encode_batch(texts, add_special_tokens=False, parallel=threads > 1).ids,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        kind, place, model_folder, count, wanted = sys.argv[2:]
        work(kind, place, model_folder, int(count), wanted == "1")
    else:
        main()
