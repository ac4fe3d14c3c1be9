"""The result of an evaluation: predictions, candidates and scores of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.answer.calibration import scores_of
from qa_fast.answer.options import AnswerRules
from qa_fast.infer.decode import BestSpans, Float64s
from qa_fast.schema import Int32s, Int64s
from qa_fast.scoring.golds import Golds
from qa_fast.scoring.metrics import question_scores
from qa_fast.scoring.rules import SQUAD


@dataclass(frozen=True)
class EvaluationResult:
    """Predictions of a model for E examples, and their scores.

    Attributes:
        metrics: The official metrics: those of `metrics.squad_v2` if no answer may be predicted or is right for an
            example, otherwise those of `metrics.squad_v1`. If another metric was chosen for any example, `chosen` holds
            its name ("metric"), exact_match and f1. With `require_all`, `all_required` holds the scores of
            `span_sets.span_set_scores`.
        ids: Ids of the examples.
        predictions: The answer to each example; "" is no answer.
        spans: Candidates of each example.
        no_answer_probability: float64[E], on one scale with the candidates' probabilities, see `n_best`.
        contexts: The documents [D].
        context_index: int32[E], the document of each example.
        rules: The rules by which the answers were found, with a value for each.
        features: Number of features that were predicted.
        seconds: Wall clock time from features to metrics.
        golds: Questions and gold answers.
        question_metrics: The metric of each example, a key of `rules.RULES`.
        evidence: With `require_all`, the texts of all passages that support an answer to each example.
        most: Most candidates of an example that `n_best` yields; None yields all of `spans`.
        engine: Name of the engine that `evaluate` opened.
        precision: Precision that the engine computed in.

    Examples:
        >>> result = qa_fast.evaluate("shards", "model")
        >>> result.exact_match, result.f1
        >>> result.predictions[0], result.golds.answers[0]
        >>> example_id, candidates = next(result.n_best())
    """

    metrics: dict[str, Any]
    ids: list[str]
    predictions: list[str]
    spans: BestSpans
    no_answer_probability: Float64s
    contexts: list[str]
    context_index: Int32s
    rules: AnswerRules
    features: int
    seconds: float
    golds: Golds
    question_metrics: list[str]
    evidence: list[list[str]] | None = None
    most: int | None = None
    engine: str = ""
    precision: str = ""

    @property
    def allow_no_answer(self) -> bool:
        """True if "" could be predicted."""
        return bool(self.rules.handle_impossible_answer)

    @property
    def null_threshold(self) -> float:
        """The threshold by which it was predicted; 0 if it could not be."""
        return self.rules.null_threshold or 0.0

    @property
    def as_v2(self) -> bool:
        """True if the metrics are those of SQuAD v2, in which no answer can be right."""
        return "exact" in self.metrics

    @property
    def squad_exact_match(self) -> float:
        """SQuAD's exact match in percent; the metrics of the two versions name it differently."""
        return float(self.metrics["exact" if self.as_v2 else "exact_match"])

    @property
    def squad_f1(self) -> float:
        """SQuAD's F1 in percent."""
        return float(self.metrics["f1"])

    @property
    def exact_match(self) -> float:
        """Exact match in percent, by the chosen metric."""
        return float(self.metrics["chosen"]["exact_match"]) if "chosen" in self.metrics else self.squad_exact_match

    @property
    def f1(self) -> float:
        """F1 in percent, by the chosen metric."""
        return float(self.metrics["chosen"]["f1"]) if "chosen" in self.metrics else self.squad_f1

    @property
    def metric(self) -> str:
        """Name of the chosen metric, or names with a comma if documents are of several scripts."""
        return str(self.metrics["chosen"]["metric"]) if "chosen" in self.metrics else SQUAD

    def scores_of(self, predictions: Sequence[str | None]) -> tuple[Float64s, Float64s]:
        """Return exact match (0 or 1) and F1 in [0, 1] of predictions for the E examples, by the chosen metric."""
        golds = self.golds.answers
        return question_scores(predictions, golds, no_answer=self.as_v2, metrics=self.question_metrics)

    def n_best(self, rows: Sequence[int] | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the id of each example and its candidates, best first: text, probability, start_logit, end_logit.

        The probability is the `score` of the same answer of `Answerer`, calibrated if the model is. With
        `allow_no_answer`, or if there is no candidate, the list also holds no answer at its rank.

        Args:
            rows: Rows of the examples; None means all.
        """
        rows = range(len(self.ids)) if rows is None else rows
        spans = rows_of(self.spans, rows)
        probabilities, null_probabilities = scores_of(spans, self.null_threshold, self.rules.calibration)
        null_ranks = spans.null_rank(self.null_threshold).tolist()
        for row, example in enumerate(rows):
            context = self.contexts[self.context_index[example]]
            count = int(spans.count[row])
            count = count if self.most is None else min(count, self.most)
            columns = (spans.char_start, spans.char_end, probabilities, spans.start_logit, spans.end_logit)
            candidates = [
                {"text": context[begin:end], "probability": probability, "start_logit": start, "end_logit": stop}
                for begin, end, probability, start, stop in zip(
                    *(column[row, :count].tolist() for column in columns), strict=True
                )
            ]
            if self.allow_no_answer or not count:
                no_answer = {
                    "text": "",
                    "probability": float(null_probabilities[row]),
                    "start_logit": float(spans.null_start_logit[row]),
                    "end_logit": float(spans.null_end_logit[row]),
                }
                candidates.insert(null_ranks[row], no_answer)
            yield self.ids[example], candidates


def rows_of(spans: BestSpans, rows: Sequence[int] | Int64s) -> BestSpans:
    """Return the candidates of some examples."""
    return BestSpans(**{name: column[np.asarray(rows, np.int64)] for name, column in vars(spans).items()})


def best_of(spans: BestSpans, most: int) -> BestSpans:
    """Return the spans with at most so many candidates of each example."""
    columns = {name: column[:, :most] if column.ndim == 2 else column for name, column in vars(spans).items()}
    return BestSpans(**columns | {"count": np.minimum(spans.count, most)})
