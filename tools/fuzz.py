"""Tests the readers of files, shards, model folders and requests with mutated inputs.

    python tools/fuzz.py --minutes 2 --seed 0 [--targets files,shards,folders,requests]

Each input is a good one with some bytes or values changed: flipped, cut off, repeated, or replaced by a difficult value
(deep nesting, huge numbers, lone surrogates, null). It may be accepted, rejected row by row, or refused with a
`UserError` of one line. Anything else is a finding: another exception, a process that dies, needs more memory than its
limit, or takes more than ten seconds of processor time. Findings are printed with the number that reproduces them with
the same seed. Every target runs in its own process with limited memory, which is restarted if it dies. The exit code is
1 if there are findings.
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

# Limit of a target's process; kernels and a tokenizer take a fifth of it.
MEMORY_BYTES = 3 << 30
SLOW_SECONDS = 10.0
HARD: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**64, 1e308, -0.0, "", " ", "\ud800", "\x00", "a" * 5000, "👩‍🚀" * 50, "1" * 400,
    [], {}, [[]], {"": {}}, [None],
)  # fmt: skip


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with a few changes."""
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
    """Return the JSON value with one part replaced, removed, or repeated."""
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
    """Read, check and featurize sources of every kind."""
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
    """Open shards, and read their rows and batches."""
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
            # The index detects another length, so the length is kept, and the reader must find the damage.
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
    """Send request bodies to the web API, which must answer with JSON and without a server error."""
    from fastapi.testclient import TestClient

    from qa_fast.serve.app import create_app
    from qa_fast.serve.limits import Limits
    from tests.serve_doubles import KeywordModel

    context = sample.DOCUMENTS[0][0]
    good = [
        {"inputs": {"question": "Where?", "context": context}, "parameters": {"top_k": 2, "max_answer_len": 5}},
        {"inputs": [{"question": "Where?", "context": context}] * 2, "parameters": None},
        {"question": "Where?", "context": context, "top_k": 3},
    ]
    client = contextlib.ExitStack().enter_context(
        TestClient(create_app(KeywordModel(), Limits()), base_url="http://localhost")
    )

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
    """Read model folders as far as before a model is built."""
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
    """Run a target in its own process, from input number `begin` on, and report the start and outcome of each input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        run, number = TARGETS[name](Path(folder)), begin
        while time.time() < ends:
            results.put(("begun", number, time.time()))
            outcome, message = "accepted", ""
            started = time.process_time()  # only of this process, since the machine may be busy
            try:
                run(random.Random(f"{name}-{seed}-{number}"))
            except UserError as error:
                outcome, message = "refused", str(error)
                if "\n" in message or len(message) > 2000:
                    outcome = "finding"
            except BaseException as error:
                outcome, message = "finding", f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
            seconds = time.process_time() - started
            if seconds > SLOW_SECONDS and number > begin:  # the first compiles kernels
                outcome, message = "finding", f"took {seconds:.0f} s"
            results.put((outcome, number, message[:3000]))
            number += 1


def watch(name: str, seed: int, minutes: float) -> tuple[dict[str, int], list[str]]:
    """Run a target for some minutes.

    Returns:
        The number of inputs by outcome, and the findings.
    """
    ends, number, findings = time.time() + 60 * minutes, 0, []
    counts = {"accepted": 0, "refused": 0, "finding": 0}
    while time.time() < ends:
        results: Any = multiprocessing.Queue()
        process = multiprocessing.Process(target=_work, args=(name, seed, number, ends, results))
        process.start()
        begun: float | None = None
        while process.is_alive() or not results.empty():
            try:
                outcome, number, message = results.get(timeout=1)
            except Exception:  # nothing was reported, or the process died within a report
                if begun is not None and time.time() - begun > 12 * SLOW_SECONDS:
                    process.kill()
                    process.join()
                    findings.append(f"{name} {number}: not finished after {12 * SLOW_SECONDS:.0f} s")
                    break
                continue
            if outcome == "begun":
                begun = message
                continue
            begun = None
            counts[outcome] += 1
            if outcome == "finding":
                findings.append(f"{name} {number}: {message}")
            number += 1
        process.join()
        if process.exitcode and time.time() < ends:
            findings.append(f"{name} {number}: the process died ({process.exitcode})")
            counts["finding"] += 1
            number += 1
    return counts, findings


def main() -> None:
    """Run the targets and print the counts and findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS))
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    names, findings = options.targets.split(","), []
    print(f"{'target':10} {'inputs':>8} {'accepted':>9} {'refused':>8} {'findings':>9}")
    for name in names:
        counts, more = watch(name, options.seed, options.minutes / len(names))
        print(
            f"{name:10} {sum(counts.values()):8,} {counts['accepted']:9,} {counts['refused']:8,} {counts['finding']:9,}"
        )
        findings += more
    for finding in findings[:50]:
        print(f"\n{finding}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
