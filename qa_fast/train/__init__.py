from qa_fast.train.config import TrainConfig
from qa_fast.train.loop import TrainResult, train
from qa_fast.train.report import EpochReport, ProgressLine, StepReport

__all__ = ["EpochReport", "ProgressLine", "StepReport", "TrainConfig", "TrainResult", "train"]
