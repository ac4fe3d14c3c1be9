"""Times training steps beside those of plain torch and of the tutorial, on the same batches.

qa-fast and torch get the same length-grouped batches of real shards, shuffled, with the same optimizer. Each runs in
its own process, in turns; the time until the first step ends (loading, tracing, compiling) is reported separately. The
first step of each width is not counted, as a run has thousands of steps and some forty widths. The tutorial's trainer
pads all features to 384 tokens. The share compares the matrix products of a step with the fastest product of square
matrices on this machine; it counts only tokens without padding, and three times the products of a forward pass.

    python bench/training.py shards [--sizes minilm,base] [--batch-sizes 16,32] [--precision bfloat16] [--turns 2] \\
        [--tutorial-python tutorial/bin/python]

`--tutorial-python` is the interpreter of an environment with transformers==4.57.6, tf-keras and tensorflow-cpu.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from families import processor
from reading import products_of

from qa_fast.batches import Batch, BatchCutter, training_plan, uncompiled_widths
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model

EXAMPLES = 8000
# The shapes that are trained: MiniLM's own folder, or one like BERT-base with random weights.
BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--sizes", default="minilm,base")
    parser.add_argument("--batch-sizes", default="16,32")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=24, help="of MiniLM; a sixth of them of the base model")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--jit", default="parts", help="of qa-fast")
    parser.add_argument("--tutorial-python")
    parser.add_argument("--side", choices=("qa-fast", "torch", "rate"), help="be one side, and print its figures")
    return parser.parse_args()


def config_of(size: str, shards: Any) -> dict[str, Any]:
    raw = json.loads((resolve_model(shards.manifest["model"]["name"]) / "config.json").read_text())
    return raw | BASE if size == "base" else raw


def batches_of(asked: argparse.Namespace, shards: Any, rows: int, steps: int) -> list[Batch]:
    """The first batches of an epoch over so many examples."""
    split = shards.split("train")
    cutter = BatchCutter(split.chunks, shards.manifest["model"]["pad_token_id"])
    chosen = np.sort(np.random.default_rng(0).permutation(len(cutter.lengths))[:EXAMPLES])
    widths = uncompiled_widths(cutter.lengths[chosen], asked.precision)
    plan = training_plan(cutter.lengths, chosen, rows, 0, 0, widths)
    return [cutter.cut(plan.rows[number], int(plan.widths[number])) for number in range(steps)]


def timed(step: Any, batches: list[Batch], began: float) -> dict[str, float]:
    """Features a second over all batches, once each width was seen; seconds from `began` to the end of the first."""
    step(batches[0])
    first = time.perf_counter() - began
    for batch in {batch.input_ids.shape: batch for batch in batches}.values():
        step(batch)
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    seconds = time.perf_counter() - start
    real = [batch.lengths[batch.rows >= 0] for batch in batches]
    features = sum(map(len, real))
    return {"rate": features / seconds, "first": first, "tokens": float(np.concatenate(real).mean())}


def run_ours(raw: dict[str, Any], batches: list[Batch], asked: argparse.Namespace) -> dict[str, float]:
    from qa_fast.model.encoder import EncoderModel
    from qa_fast.model.families import read_encoder_config
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros

    began = time.perf_counter()
    config = read_encoder_config(raw)
    model = EncoderModel(config, precision=asked.precision)
    model.initialize(0)
    engine = make_engine(model, asked.jit)
    numbers = iter(range(1_000_000))

    def step(batch: Batch) -> None:
        number = next(numbers)
        loss, _ = engine.step(make_micros([batch], 0, number, 1), step_scalars(1e-5, 0.01, 1.0, number + 1))
        float(loss)

    found = timed(step, batches, began)
    lengths = np.concatenate([batch.lengths[batch.rows >= 0] for batch in batches])
    return found | {"operations": 3 * products_of(config, lengths) / len(lengths)}


def run_torch(raw: dict[str, Any], batches: list[Batch], asked: argparse.Namespace) -> dict[str, float]:
    import torch
    from torch_trainer import arguments_of
    from transformers import AutoConfig, AutoModelForQuestionAnswering

    began = time.perf_counter()
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(**raw)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(batch: Batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=asked.precision == "bfloat16"):
            loss = model(**arguments_of(batch, True)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        float(loss.detach())

    return timed(step, batches, began)


def run_rate(precision: str) -> float:
    """GFLOP/s of the fastest product of square matrices, by TensorFlow and torch alike."""
    import keras
    from keras import ops

    best = 0.0
    for size in (1024, 2048):
        factor = ops.cast(keras.random.normal((size, size), seed=0), precision)
        for _ in range(10):
            start = time.perf_counter()
            float(ops.matmul(factor, factor)[0, 0])
            best = max(best, 2e-9 * size**3 / (time.perf_counter() - start))
    return best


def run_side(asked: argparse.Namespace) -> dict[str, float]:
    if asked.side == "rate":
        return {"rate": run_rate(asked.precision)}
    shards = open_shards(asked.shards)
    batches = batches_of(asked, shards, int(asked.batch_sizes), asked.steps)
    run = run_ours if asked.side == "qa-fast" else run_torch
    return run(config_of(asked.sizes, shards), batches, asked)


def in_a_process(asked: argparse.Namespace, side: str, size: str = "minilm", rows: int = 16) -> dict[str, float]:
    steps = asked.steps if size == "minilm" else max(3, asked.steps // 6)
    command = [sys.executable, __file__, asked.shards, "--side", side, "--sizes", size, "--batch-sizes", str(rows)]
    command += ["--steps", str(steps), "--precision", asked.precision, "--jit", asked.jit]
    return _answer(command)


def run_tutorial(asked: argparse.Namespace, rows: int) -> float:
    shards = open_shards(asked.shards)
    arrow = sorted(Path(asked.shards, "train").glob("data-*-00000.arrow"))[0]
    model = resolve_model(shards.manifest["model"]["name"])
    policy = "mixed_bfloat16" if asked.precision == "bfloat16" else "float32"
    command = [asked.tutorial_python, str(Path(__file__).with_name("tutorial_trainer.py")), str(arrow), str(model)]
    return _answer([*command, "--batch-size", str(rows), "--policy", policy])["features_per_second"]


def _answer(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    asked = options()
    if asked.side:
        print(json.dumps(run_side(asked)))
        return
    product = in_a_process(asked, "rate")["rate"]
    print(
        f"{processor()}; {asked.precision}, products of matrices {product:,.0f} GFLOP/s; best of {asked.turns} turns\n"
    )
    print("| model | batch | torch | tutorial | qa-fast | times torch | share of the rate | to the first step, s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for size in asked.sizes.split(","):
        for rows in map(int, asked.batch_sizes.split(",")):
            best: dict[str, dict[str, float]] = {}
            for _ in range(asked.turns):
                for side in ("torch", "qa-fast"):
                    found = in_a_process(asked, side, size, rows)
                    best[side] = max(best.get(side, found), found, key=lambda figures: figures["rate"])
            tutorial = ""
            if asked.tutorial_python and size == "minilm":
                tutorial = f"{run_tutorial(asked, rows):.2f}"
            torch, ours = best["torch"], best["qa-fast"]
            share = ours["rate"] * ours["operations"] / 1e9 / product
            cells = (size, rows, f"{torch['rate']:.2f}", tutorial, f"{ours['rate']:.2f}")
            more = (f"{ours['rate'] / torch['rate']:.2f}", f"{share:.0%}", f"{ours['first']:.1f}")
            print("| " + " | ".join(map(str, (*cells, *more))) + " |", flush=True)


if __name__ == "__main__":
    main()
