"""Trains a model on shards. `config`, `schedule` and `setup` import no framework; `loop` runs the steps."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qa_fast.train.config import JobConfig, TrainConfig

if TYPE_CHECKING:
    from qa_fast.train.loop import TrainResult, train
    from qa_fast.train.report import EpochReport, ProgressLine, StepReport

__all__ = ["EpochReport", "JobConfig", "ProgressLine", "StepReport", "TrainConfig", "TrainResult", "train"]

# Imported at the first use: `loop` loads Keras, and `qa-fast --help` needs the options alone.
_MODULES = {
    "EpochReport": "report",
    "ProgressLine": "report",
    "StepReport": "report",
    "TrainResult": "loop",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'qa_fast.train' has no attribute {name!r}")
    return getattr(import_module(f"qa_fast.train.{_MODULES[name]}"), name)
