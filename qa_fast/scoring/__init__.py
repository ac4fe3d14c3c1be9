"""Takes a model's spans and the gold answers of a split; gives the official SQuAD scores, and files of predictions."""

from qa_fast.scoring.evaluation import evaluate
from qa_fast.scoring.result import EvaluationResult

__all__ = ["EvaluationResult", "evaluate"]
