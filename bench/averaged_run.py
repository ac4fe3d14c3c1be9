"""One training run, saved three times: the weights as trained, their moving average (ema) and their last mean (swa).

Averages do not touch what they are averages of, so that one run shows what three would that differ in `--average`
alone.

    python bench/averaged_run.py SHARDS --out FOLDER --config '{"batch_size": 16}'   # FOLDER/plain, /ema, /swa
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from qa_fast.model.checkpoint import load_model, save_model
from qa_fast.train import TrainConfig, TrainResult, train
from qa_fast.train import learner as learning
from qa_fast.train.averaging import Average
from qa_fast.train.steps import Floats

PLAIN = "plain"
KINDS = ("ema", "swa")


class SideBySide:
    """Stands in for a run's average and takes in all kinds; never "begun", so that what the run saves is as trained."""

    begun = False

    def __init__(self, kinds: dict[str, Average]) -> None:
        self.kinds = kinds

    def add(self, step: int, weights: Sequence[Any]) -> None:
        for average in self.kinds.values():
            average.add(step, weights)

    def read(self) -> list[Floats]:
        return []


def averaged_run(shards: str, out: Path, config: dict[str, Any]) -> TrainResult:
    """Train into `out`/plain, and save the averages of that run as `out`/ema and `out`/swa."""
    made: list[SideBySide] = []

    def make(kind: str, *rule: Any) -> SideBySide:
        made.append(SideBySide({kind: Average(kind, *rule) for kind in KINDS}))
        return made[0]

    plain = out / PLAIN
    with patch.object(learning, "Average", make):
        result = train(shards, TrainConfig(**config, out=str(plain), average=KINDS[0]))
    model, _ = load_model(plain)
    for kind, average in made[0].kinds.items():
        for variable, value in zip(model.trainable_variables, average.read(), strict=True):
            variable.assign(value)
        save_model(model, out / kind, plain)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=json.loads, default={}, help="what differs from TrainConfig's defaults, JSON")
    asked = parser.parse_args()
    print(json.dumps(averaged_run(asked.shards, asked.out, asked.config).metrics))


if __name__ == "__main__":
    main()
