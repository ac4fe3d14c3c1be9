"""Training: `config`, `schedule` and `setup` say what a run is (without a framework), the other files run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qa_fast.train.config import JobConfig, TrainConfig
from qa_fast.train.report import EpochReport, ProgressLine, StepReport

if TYPE_CHECKING:
    from qa_fast.train.loop import TrainResult, train

__all__ = ["EpochReport", "JobConfig", "ProgressLine", "StepReport", "TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    # The loop imports keras, which whoever asks for options or a schedule alone may have to do without.
    if name not in ("TrainResult", "train"):
        raise AttributeError(f"module 'qa_fast.train' has no attribute {name!r}")
    from qa_fast.train import loop

    return getattr(loop, name)
