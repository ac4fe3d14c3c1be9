"""Times the training step and forward pass of each family beside torch's, with the same sizes, batch and precision.

Each side runs in its own process (TensorFlow and torch cannot share one everywhere), one at a time and in turns, and
the shortest of several steps counts. The shape is that of a base model with fewer blocks and words.

    python bench/families.py [--families bert,roberta] [--rows 16] [--length 160] [--precision float32] [--turns 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WORDS, HIDDEN, HEADS, LAYERS = 8192, 768, 12, 2
_LIKE_BERT = {
    "vocab_size": WORDS,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * HIDDEN,
    "max_position_embeddings": 514,
}
_DISTILBERT = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 4 * HIDDEN}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 256,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _LIKE_BERT,
    "distilbert": {"vocab_size": WORDS} | _DISTILBERT,
    "roberta": _LIKE_BERT | {"type_vocab_size": 1},
    "xlm-roberta": _LIKE_BERT | {"type_vocab_size": 1},
    "camembert": _LIKE_BERT | {"type_vocab_size": 1},
    "electra": _LIKE_BERT | {"embedding_size": 128},
    "albert": _LIKE_BERT | {"embedding_size": 128},
    "mpnet": _LIKE_BERT,
    "deberta-v2": _LIKE_BERT | _DEBERTA,
    "modernbert": _LIKE_BERT | {"intermediate_size": 1152, "max_position_embeddings": 1024, "pad_token_id": 0},
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--jit", default="parts", help="of qa-fast's training step")
    parser.add_argument("--side", choices=("qa-fast", "torch"), help="be one side, and print its seconds")
    return parser.parse_args()


def batch_of(asked: argparse.Namespace) -> dict[str, np.ndarray]:
    """Rows of 60 to 100% of the length, as length-grouped batches have."""
    generator = np.random.default_rng(0)
    shape = (asked.rows, asked.length)
    lengths = generator.integers(int(0.6 * asked.length), asked.length + 1, asked.rows).astype(np.int32)
    lengths[0] = asked.length
    ids = generator.integers(10, WORDS, shape, dtype=np.int32)
    labels = generator.integers(0, lengths).astype(np.int32)
    return {"ids": ids, "lengths": lengths, "labels": labels}


def shortest(step: Callable[[], object], steps: int) -> float:
    """Seconds of the shortest of some steps, after two that allocate and compile."""
    times = []
    for _ in range(2 + steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times[2:])


def run_torch(asked: argparse.Namespace, family: str) -> dict[str, float]:
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    batch = batch_of(asked)
    there = np.arange(asked.length) < batch["lengths"][:, None]
    inputs = {"input_ids": np.where(there, batch["ids"], model.config.pad_token_id), "attention_mask": there}
    labels = {"start_positions": batch["labels"], "end_positions": batch["labels"]}
    tensors = {name: torch.tensor(value, dtype=torch.long) for name, value in (inputs | labels).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    short = asked.precision == "bfloat16"

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            loss = model(**tensors).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=short):
            model(**{name: tensors[name] for name in inputs})

    model.train()
    seconds = {"train": shortest(train, asked.steps)}
    model.eval()
    return seconds | {"forward": shortest(forward, asked.steps)}


def run_ours(asked: argparse.Namespace, family: str) -> dict[str, float]:
    from qa_fast.batches import Batch
    from qa_fast.infer.keras_engine import KerasEngine
    from qa_fast.model.encoder import EncoderModel
    from qa_fast.model.families import read_encoder_config
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros

    config = read_encoder_config({"model_type": family} | FAMILIES[family])
    model = EncoderModel(config, precision=asked.precision)
    model.initialize(0)
    data = batch_of(asked)
    there = np.arange(asked.length) < data["lengths"][:, None]
    ids = np.where(there, data["ids"], config.pad_id).astype(np.int32)
    types = np.zeros(ids.shape, np.int8)
    batch = Batch(np.arange(asked.rows), ids, types, data["lengths"], data["labels"], data["labels"])
    engine = make_engine(model, asked.jit)
    micros = make_micros([batch], 0, 0, engine.devices)

    def train() -> None:
        loss, norm = engine.step(micros, step_scalars(1e-5, 0.01, 1.0, 1))
        float(loss), float(norm)

    seconds = {"train": shortest(train, asked.steps)}
    engine.publish()
    compute = KerasEngine(model)._function("compiled")

    def forward() -> None:
        np.asarray(compute(ids, data["lengths"], types)[0])

    return seconds | {"forward": shortest(forward, asked.steps)}


def measured(asked: argparse.Namespace, side: str, family: str) -> dict[str, float]:
    """One side's seconds in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--families", family, "--jit", asked.jit]
    command += ["--precision", asked.precision]
    command += [part for name in ("rows", "length", "steps") for part in (f"--{name}", str(getattr(asked, name)))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    asked = options()
    families = asked.families.split(",")
    if asked.side:
        print(json.dumps((run_ours if asked.side == "qa-fast" else run_torch)(asked, families[0])))
        return
    print(
        f"{processor()}; {asked.rows} rows of {asked.length} tokens, {asked.precision}, {LAYERS} blocks of {HIDDEN}\n"
    )
    print("| family | train, ms: torch | qa-fast | times | forward, ms: torch | qa-fast | times |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for family in families:
        best: dict[tuple[str, str], float] = {}
        for _ in range(asked.turns):
            for side in ("torch", "qa-fast"):
                for what, seconds in measured(asked, side, family).items():
                    best[what, side] = min(seconds, best.get((what, side), np.inf))
        cells = []
        for what in ("train", "forward"):
            theirs, ours = best[what, "torch"], best[what, "qa-fast"]
            cells += [f"{1000 * theirs:,.0f}", f"{1000 * ours:,.0f}", f"{theirs / ours:.2f}"]
        print(f"| {family} | {' | '.join(cells)} |", flush=True)


def processor() -> str:
    """The processor's name, and which short products it has instructions for."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = next((line.split(":")[1].strip() for line in about.splitlines() if line.startswith("model name")), "")
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in about]
    return f"{name or platform.processor()} ({', '.join(flags)}), {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
