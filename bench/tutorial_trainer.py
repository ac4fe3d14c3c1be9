"""Runs the tutorial's trainer in its last working form, for comparison: transformers 4.57, tf-keras, pad to 384.

It needs its own virtual environment (transformers==4.57.6, tf-keras, tensorflow-cpu, pyarrow), reads the Arrow files of
the shards directly, and prints the features per second, without the first steps.

    python bench/tutorial_trainer.py shards/train/data-*-00000.arrow MODEL_FOLDER --steps 12
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tf_keras
from transformers import TFAutoModelForQuestionAnswering


def padded(rows: pa.RecordBatch, length: int) -> dict[str, np.ndarray]:
    """Every feature padded to one length, as the tutorial has them."""
    columns = {name: np.zeros((rows.num_rows, length), np.int32) for name in ("input_ids", "attention_mask")}
    columns["token_type_ids"] = np.zeros((rows.num_rows, length), np.int32)
    for row, (ids, types) in enumerate(
        zip(rows["input_ids"].to_pylist(), rows["token_type_ids"].to_pylist(), strict=True)
    ):
        columns["input_ids"][row, : len(ids)] = ids
        columns["attention_mask"][row, : len(ids)] = 1
        columns["token_type_ids"][row, : len(types)] = types
    for name in ("start_positions", "end_positions"):
        columns[name] = rows[name].to_numpy(zero_copy_only=False)
    return columns


class Clock(tf_keras.callbacks.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrow")
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--policy", default="mixed_bfloat16")
    asked = parser.parse_args()
    tf_keras.mixed_precision.set_global_policy(asked.policy)
    with pa.OSFile(asked.arrow) as file:
        first = next(iter(pa.ipc.open_stream(file)))
    rows = first.slice(0, asked.steps * asked.batch_size)
    dataset = tf.data.Dataset.from_tensor_slices(padded(rows, 384)).batch(asked.batch_size, drop_remainder=True)
    # Of the same shape as the checkpoint; its weights do not change the speed, and this version reads no safetensors
    # without torch.
    from transformers import AutoConfig

    model = TFAutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(asked.model))
    model.compile(optimizer=tf_keras.optimizers.Adam(learning_rate=5e-5))
    clock = Clock()
    model.fit(dataset, epochs=1, verbose=0, callbacks=[clock])
    counted = np.diff(clock.ends)[2:]
    rate = asked.batch_size / float(np.median(counted))
    print(json.dumps({"features_per_second": rate, "steps": len(counted), "policy": asked.policy}))


if __name__ == "__main__":
    main()
