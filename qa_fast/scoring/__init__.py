"""Takes a model's spans and the gold answers of a split; gives the official SQuAD scores, and files of predictions."""

from qa_fast.scoring.evaluation import EvaluationResult, evaluate

__all__ = ["EvaluationResult", "evaluate"]
