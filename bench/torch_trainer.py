"""Trains with plain torch and transformers on the same shards, batches and schedule, for comparison.

There are two ways to batch: `fixed` pads every batch to the shards' length, as the tutorial does; `grouped` takes the
same batches as qa-fast's trainer. `--autocast` computes in bfloat16 where torch's autocast does. Prints loss and
features per second, and writes a model folder that `qa-fast evaluate` scores. Of qa-fast only the modules for data are
imported: with TensorFlow in the same process, it ends in a segmentation fault on some machines.

    python bench/torch_trainer.py shards --max-examples 8000 --epochs 1 --batching grouped --autocast --out torch-model
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

from qa_fast.batches import Batch, BatchCutter, training_plan, uncompiled_widths
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model
from qa_fast.train.config import TrainConfig
from qa_fast.train.mix import open_mix, select_mix
from qa_fast.train.schedule import learning_rate_at


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-examples", type=int)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batching", choices=("grouped", "fixed"), default="grouped")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autocast", action="store_true", help="bfloat16")
    parser.add_argument("--head-from", help="a model folder whose weights to start from, head included")
    return parser.parse_args()


def arguments_of(batch: Batch, with_types: bool) -> dict[str, Any]:
    there = np.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    real = batch.rows >= 0
    arrays = {
        "input_ids": batch.input_ids,
        "attention_mask": there,
        # Padding rows have label -1; the length is the label that transformers ignores.
        "start_positions": np.where(real, batch.starts, batch.input_ids.shape[1]),
        "end_positions": np.where(real, batch.ends, batch.input_ids.shape[1]),
    }
    if with_types:
        arrays["token_type_ids"] = batch.token_type_ids
    return {name: torch.from_numpy(np.ascontiguousarray(array, np.int64)) for name, array in arrays.items()}


def main() -> None:
    asked = options()
    shards = open_shards(asked.shards)
    folder = Path(asked.head_from) if asked.head_from else resolve_model(shards.manifest["model"]["name"])
    split = shards.split("train")
    cutter = BatchCutter(split.chunks, shards.manifest["model"]["pad_token_id"])
    chosen = TrainConfig(max_examples=asked.max_examples, seed=asked.seed)
    selected = select_mix(open_mix([shards]), chosen).rows
    widths = np.array([shards.manifest["config"]["max_length"]], np.int32)
    if asked.batching == "grouped":
        widths = uncompiled_widths(cutter.lengths[selected], "bfloat16" if asked.autocast else "float32")
    torch.manual_seed(asked.seed)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder, config=config).train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": decayed, "weight_decay": TrainConfig.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=asked.learning_rate, fused=True)
    steps = -(-len(selected) // asked.batch_size) * asked.epochs
    steps = min(steps, asked.max_steps or steps)

    step, losses, features, seconds = 0, [], 0, 0.0
    for epoch in range(asked.epochs):
        plan = training_plan(cutter.lengths, selected, asked.batch_size, asked.seed, epoch, widths)
        for rows, width in zip(plan.rows, plan.widths, strict=True):
            if step == steps:
                break
            start = time.perf_counter()
            batch = cutter.cut(rows, int(width))
            rate = learning_rate_at(step, steps, asked.learning_rate, "linear", TrainConfig.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=asked.autocast):
                loss = model(**arguments_of(batch, config.model_type == "bert")).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), TrainConfig.clip_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
            if step > 5:  # the first steps allocate
                seconds += time.perf_counter() - start
                features += int((rows >= 0).sum())
            if step % 50 == 0:
                rate_now = features / seconds
                print(f"{step}/{steps} loss {np.mean(losses[-50:]):.3f} {rate_now:.1f} features/s", flush=True)
    outcome = {
        "batching": asked.batching,
        "autocast": asked.autocast,
        "steps": step,
        "mean_loss": float(np.mean(losses)),
        "last_loss": float(np.mean(losses[-50:])),
        "features_per_second": features / seconds if seconds else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(outcome))
    if asked.out:
        model.save_pretrained(asked.out)
        AutoTokenizer.from_pretrained(folder).save_pretrained(asked.out)
    assert not {"tensorflow", "keras"} & sys.modules.keys(), "torch shares this process with TensorFlow"


if __name__ == "__main__":
    main()
