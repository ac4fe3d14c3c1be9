"""What an evaluation gives: predictions, candidates and scores of a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qa_fast.infer.decode import BestSpans, Float64s
from qa_fast.schema import Int32s
from qa_fast.scoring.golds import Golds


@dataclass(frozen=True)
class EvaluationResult:
    """What a model predicts for E examples, and how good that is.

    Attributes:
        metrics: As `metrics.squad_v1` gives them or, where no answer may be predicted or right, `metrics.squad_v2`.
        ids: Ids of the examples.
        predictions: The answer to each; "" is no answer.
        spans: Candidates of each.
        no_answer_probability: float64[E], on one scale with the candidates' probabilities.
        contexts: The documents [D].
        context_index: int32[E], document of each example.
        allow_no_answer: Whether "" could be predicted.
        features: Features that were predicted.
        seconds: Wall clock from features to metrics.
        golds: What was asked, and the right answers.
        engine: Name of the engine that `evaluate` opened.
        precision: That it read in.
    """

    metrics: dict[str, Any]
    ids: list[str]
    predictions: list[str]
    spans: BestSpans
    no_answer_probability: Float64s
    contexts: list[str]
    context_index: Int32s
    allow_no_answer: bool
    features: int
    seconds: float
    golds: Golds
    engine: str = ""
    precision: str = ""

    @property
    def as_v2(self) -> bool:
        """Whether the metrics are v2's, where no answer is an answer."""
        return "exact" in self.metrics

    @property
    def exact_match(self) -> float:
        """Exact match in percent, under the name that either version gives it."""
        return float(self.metrics["exact" if self.as_v2 else "exact_match"])

    @property
    def f1(self) -> float:
        """F1 in percent."""
        return float(self.metrics["f1"])

    def n_best(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """For each example its id and its candidates, best first: text, probability, start_logit, end_logit.

        With `allow_no_answer` no answer stands among them in its place; so it does where there is no candidate.
        """
        spans = self.spans
        shares, null_shares = spans.probabilities(with_null=self.allow_no_answer)
        null_ranks = spans.null_rank().tolist()
        for row, example_id in enumerate(self.ids):
            context = self.contexts[self.context_index[row]]
            count = int(spans.count[row])
            columns = (spans.char_start, spans.char_end, shares, spans.start_logit, spans.end_logit)
            candidates = [
                {"text": context[begin:end], "probability": share, "start_logit": start, "end_logit": stop}
                for begin, end, share, start, stop in zip(
                    *(column[row, :count].tolist() for column in columns), strict=True
                )
            ]
            if self.allow_no_answer or not count:
                null = {"text": "", "probability": float(null_shares[row])}
                null["start_logit"] = float(spans.null_start_logit[row])
                null["end_logit"] = float(spans.null_end_logit[row])
                candidates.insert(null_ranks[row], null)
            yield example_id, candidates
