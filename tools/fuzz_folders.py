"""Opens damaged copies of a model folder, and prints those that do not end in success or a one-line error.

    python tools/fuzz_folders.py MODEL [COUNT] [SEED]

Each input is the folder with one file changed: bytes flipped or cut off, or a value replaced in its JSON, which in a
safetensors file is the header. `fuzz` does the same as a function.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "quantization.safetensors",
    "qa_fast_answering.json",
)
# Seconds; `opened` opens every good folder faster.
_SLOW = 20.0
_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**32, 2**40, 2**63, 2**64, 10**400, 1e-300, 1e30, 0.5, -0.5,
    float("nan"), float("inf"), "", "12", "bert", "modernbert", "../../outside", "\0", "é\u200b", "(", "(a+)+$",
    "x" * 5000, [], [[]], ["a"], {}, {"a": {}}, {"content": None}, {"Regex": "["}, {"type": "Sequence"},
)  # fmt: skip


class Finding(NamedTuple):
    """An input with an unexpected outcome: the file, its change, and the outcome."""

    file: str
    change: str
    end: str


def fuzz(folder: Path, count: int, seed: int, say: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Open damaged copies of a model folder and return the findings.

    Args:
        folder: A good folder, which is not changed.
        count: Number of copies.
        seed: The same seed makes the same copies.
        say: Called with each finding.
    """
    from qa_fast.errors import UserError

    random, findings = Random(seed), []
    names = [name for name in FILES if (folder / name).is_file()]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "model"
        shutil.copytree(folder, copy)
        for _ in range(count):
            name = random.choice(names)
            whole = (folder / name).read_bytes()
            data, change = mutated(whole, name, random)
            (copy / name).write_bytes(data)
            started, end = time.monotonic(), ""
            try:
                opened(copy)
            except UserError as error:
                if "\n" in str(error) or len(str(error)) > 2000:
                    end = f"a message of {len(str(error))} characters: {str(error)[:300]!r}"
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a panic in Rust is no `Exception`
                at = traceback.extract_tb(error.__traceback__)[-1]
                end = f"{type(error).__name__}: {str(error)[:200]} ({at.filename}:{at.lineno})"
            if not end and time.monotonic() - started > _SLOW:
                end = f"took {time.monotonic() - started:.0f} s"
            if end:
                findings.append(Finding(name, change, end))
                say(" | ".join(findings[-1]))
            (copy / name).write_bytes(whole)
    return findings


def opened(folder: Path) -> None:
    """Read everything that is read of a model folder before a model is built."""
    from qa_fast.answer.settings import max_positions_of, read_settings
    from qa_fast.encode import load_encoder
    from qa_fast.errors import UserError
    from qa_fast.infer.recipe import read_recipe
    from qa_fast.model.checkpoint import checked_config
    from qa_fast.model.folder import Tensors

    refusal = None
    for read in (checked_config, load_encoder, max_positions_of, read_settings, read_recipe):
        try:
            made = read(folder)
        except UserError as error:
            refusal = refusal or error
            continue
        if read is checked_config:
            with Tensors(folder) as tensors:
                for name in tensors:
                    tensors.shape(name)
        if read is load_encoder:
            import pyarrow as pa

            made.encode(pa.array(["The mill's café, 3 of 港口 naïve.", "b"]))
    if refusal is not None:
        raise refusal


def mutated(data: bytes, name: str, random: Random) -> tuple[bytes, str]:
    """Return the bytes of a file with one change, and a description of the change."""
    is_tensors = name.endswith(".safetensors")
    head = 8 + struct.unpack("<Q", data[:8])[0] if is_tensors else len(data)
    kind = random.choice(("flip", "cut", "swap", "swap", "swap", "drop"))
    if kind == "flip":
        places = [random.randrange(head) for _ in range(random.randint(1, 4))]
        changed = bytearray(data)
        for place in places:
            changed[place] = random.randrange(256)
        return bytes(changed), f"bytes {places}"
    if kind == "cut":
        end = random.randrange(head)
        return data[:end], f"cut at {end}"
    value = json.loads(data[8:head] if is_tensors else data)
    change = swapped(value, kind, random)
    text = json.dumps(value).encode()
    return (struct.pack("<Q", len(text)) + text + data[head:] if is_tensors else text), change


def swapped(value: Any, kind: str, random: Random) -> str:
    """Replace or remove a value somewhere in parsed JSON, and return a description of the change."""
    path: list[Any] = []
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return "nothing"
        key = random.choice(keys)
        path.append(key)
        if isinstance(value[key], dict | list) and value[key] and random.random() < 0.8:
            value = value[key]
            continue
        if kind == "drop":
            del value[key]
            return f"{path} dropped"
        strange = random.choice(_STRANGE)
        value[key] = strange
        return f"{path} = {str(strange)[:40]!r}"


def main() -> None:
    """Open the copies and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    findings = fuzz(options.model, options.count, options.seed, print)
    print(f"{options.count} inputs (seed {options.seed}), {len(findings)} findings")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
