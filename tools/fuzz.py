"""Mutated files, shards, model folders and requests, to see that each ends in an answer or in one line.

    python tools/fuzz.py --minutes 2 --seed 0 [--targets files,shards,folders,requests]

Each input is a good one with some bytes or values changed: flipped, cut off, repeated, set to what is hard (deep
nesting, huge numbers, lone surrogates, null), or spliced from two. It may be accepted, rejected row by row, or refused
with a `UserError` of one line; anything else (another exception, a process that dies, that takes more memory than its
limit or more than ten seconds of a processor) is a finding, which is printed with the seed that makes it again. Every
target runs in a process of its own with a limit on memory, and is started again where it died. Ends with 1 if anything
was found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from qa_fast.errors import UserError  # noqa: E402
from tests import sample  # noqa: E402

# Of one target's process; what loads the kernels and a tokenizer takes a fifth of it.
MEMORY_BYTES = 3 << 30
SLOW_SECONDS = 10.0
HARD: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**64, 1e308, -0.0, "", " ", "\ud800", "\x00", "a" * 5000, "👩‍🚀" * 50, "1" * 400,
    [], {}, [[]], {"": {}}, [None],
)  # fmt: skip


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(6)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            del changed[at : at + chance.randint(1, 64)]
        elif kind == 3:
            changed[at:at] = changed[: chance.randint(1, 256)]
        elif kind == 4:
            changed[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
        else:
            changed[at:at] = chance.choice(
                [b"[" * 3000, b"{", b'"', b"\xff\xfe", b"1" * 6000, b"\n", b"NaN", b"\\ud800"]
            )
    return bytes(changed)


def mutated_value(value: Any, chance: random.Random) -> Any:
    """The JSON value with one part of it replaced, left out, or doubled."""
    copy = json.loads(json.dumps(value))
    at, above, key = copy, None, None
    for _ in range(chance.randint(1, 8)):
        if not isinstance(at, dict | list) or not at:
            break
        above, key = at, chance.choice(list(at) if isinstance(at, dict) else range(len(at)))
        at = at[key]
    if above is None:
        return chance.choice(HARD)
    kind = chance.randrange(4)
    if kind == 0:
        del above[key]
    elif kind == 1 and isinstance(above, list):
        above.append(above[key])
    elif kind == 2:
        deep: Any = above[key]
        for _ in range(chance.choice([1, 3, 500])):
            deep = [deep]
        above[key] = deep
    else:
        above[key] = chance.choice(HARD)
    return copy


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def files_target(work: Path) -> Callable[[random.Random], None]:
    """Sources of every kind, through reading, checking and featurizing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from qa_fast.builder.job import build_shards
    from qa_fast.schema import FeatureConfig

    model = sample.model_folder(work / "model")
    table = sample.table()
    pq.write_table(table, work / "good.parquet", row_group_size=2)
    with pa.OSFile(str(work / "good.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    binary = [(work / name).read_bytes() for name in ("good.parquet", "good.arrow")]
    documents = [sample.squad(), sample.squad_v2(), sample.rows(), {"data": sample.rows()}]

    def run(chance: random.Random) -> None:
        kind = chance.randrange(4)
        if kind == 0:
            data = mutated_bytes(chance.choice(binary), chance)
        elif kind == 1:
            data = _dumped(mutated_value(chance.choice(documents), chance))
        elif kind == 2:
            lines = [
                _dumped(mutated_value(row, chance)) if chance.random() < 0.3 else _dumped(row) for row in sample.rows()
            ]
            data = b"\n".join(lines)
        else:
            data = mutated_bytes(_dumped(chance.choice(documents)), chance)
        path = work / "train.json"
        path.write_bytes(data)
        config = FeatureConfig(48, 12, labels=chance.choice(["exact", "reference"]))
        build_shards(str(path), work / "out", str(model), config, overwrite=True)

    return run


def shards_target(work: Path) -> Callable[[random.Random], None]:
    """Shards and their index, through opening, rows and batches."""
    from qa_fast.builder.job import build_shards
    from qa_fast.schema import FeatureConfig
    from qa_fast.shards import open_shards

    source = sample.write(work / "dev.json", sample.squad_v2())
    build_shards(str(source), work / "out", str(sample.model_folder(work / "model")), FeatureConfig(48, 12))
    good = {path: path.read_bytes() for path in (work / "out").rglob("*") if path.is_file()}

    def run(chance: random.Random) -> None:
        victim = chance.choice(list(good))
        if victim.name == "qa_fast.json" and chance.random() < 0.7:
            victim.write_bytes(_dumped(mutated_value(json.loads(good[victim]), chance)))
        else:
            data = mutated_bytes(good[victim], chance)
            # An index tells a file of another length; damage that keeps it is the reader's to find.
            victim.write_bytes((data + good[victim][len(data) :])[: len(good[victim])])
        try:
            split = open_shards(work / "out").split("validation")
            for batch in split.batches(4):
                assert len(batch["input_ids"])
            if len(split):
                _ = split[0], split[-1]
        finally:
            victim.write_bytes(good[victim])

    return run


def requests_target(work: Path) -> Callable[[random.Random], None]:
    """Bodies of requests, through the web API; its answers must be JSON, and none of them a failure."""
    from fastapi.testclient import TestClient

    from qa_fast.serve.limits import Limits
    from tests.serve_doubles import KeywordModel

    context = sample.DOCUMENTS[0][0]
    good = [
        {"inputs": {"question": "Where?", "context": context}, "parameters": {"top_k": 2, "max_answer_len": 5}},
        {"inputs": [{"question": "Where?", "context": context}] * 2, "parameters": None},
        {"question": "Where?", "context": context, "top_k": 3},
    ]
    stack = contextlib.ExitStack()
    from qa_fast.serve.app import create_app

    client = stack.enter_context(TestClient(create_app(KeywordModel(), Limits()), raise_server_exceptions=True))

    def run(chance: random.Random) -> None:
        value = chance.choice(good)
        body = _dumped(mutated_value(value, chance)) if chance.random() < 0.6 else mutated_bytes(_dumped(value), chance)
        answer = client.post(
            chance.choice(["/", "/answer"]), content=body, headers={"content-type": "application/json"}
        )
        answer.json()
        if answer.status_code >= 500:
            raise AssertionError(f"status {answer.status_code}: {answer.text[:200]}")

    return run


def folders_target(work: Path) -> Callable[[random.Random], None]:
    """Model folders, through all that is read of them before a model is built."""
    import fuzz_folders

    from tests.small_runs import make_model_folder

    folder = make_model_folder(work / "model")

    def run(chance: random.Random) -> None:
        for finding in fuzz_folders.fuzz(folder, 1, chance.randrange(2**31)):
            raise AssertionError(" | ".join(finding))

    return run


TARGETS = {
    "files": files_target,
    "shards": shards_target,
    "folders": folders_target,
    "requests": requests_target,
}


def _work(name: str, seed: int, begin: int, ends: float, results: Any) -> None:
    """A target's process: inputs from number `begin` on; tells each before and after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        run, number = TARGETS[name](Path(folder)), begin
        while time.time() < ends:
            results.put(("begun", number, time.time()))
            outcome, told = "accepted", ""
            began = time.process_time()  # of this process alone: others may keep the machine busy
            try:
                run(random.Random(f"{name}-{seed}-{number}"))
            except UserError as error:
                outcome, told = "refused", str(error)
                if "\n" in told or len(told) > 2000:
                    outcome = "finding"
            except BaseException as error:
                outcome, told = "finding", f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
            seconds = time.process_time() - began
            if seconds > SLOW_SECONDS and number > begin:  # the first compiles kernels
                outcome, told = "finding", f"took {seconds:.0f} s"
            results.put((outcome, number, told[:3000]))
            number += 1


def watch(name: str, seed: int, minutes: float) -> tuple[dict[str, int], list[str]]:
    """Run a target for so long; how many inputs ended how, and the findings."""
    ends, number, findings = time.time() + 60 * minutes, 0, []
    counts = {"accepted": 0, "refused": 0, "finding": 0}
    while time.time() < ends:
        results: Any = multiprocessing.Queue()
        process = multiprocessing.Process(target=_work, args=(name, seed, number, ends, results))
        process.start()
        begun: float | None = None
        while process.is_alive() or not results.empty():
            try:
                kind, at, told = results.get(timeout=1)
            except Exception:  # empty
                if begun is not None and time.time() - begun > 12 * SLOW_SECONDS:
                    process.kill()
                    process.join()
                    findings.append(f"{name} {number}: still at it after {12 * SLOW_SECONDS:.0f} s")
                    break
                continue
            number = at
            if kind == "begun":
                begun = told
                continue
            begun = None
            number += 1
            counts[kind] += 1
            if kind == "finding":
                findings.append(f"{name} {at}: {told}")
        process.join()
        if process.exitcode and time.time() < ends:
            findings.append(f"{name} {number}: the process died ({process.exitcode})")
            counts["finding"] += 1
            number += 1
    return counts, findings


def main() -> None:
    """Fuzz, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS))
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    names, found = options.targets.split(","), []
    print(f"{'target':10} {'inputs':>8} {'accepted':>9} {'refused':>8} {'findings':>9}")
    for name in names:
        counts, findings = watch(name, options.seed, options.minutes / len(names))
        print(
            f"{name:10} {sum(counts.values()):8,} {counts['accepted']:9,} {counts['refused']:8,} {counts['finding']:9,}"
        )
        found += findings
    for finding in found[:50]:
        print(f"\n{finding}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
