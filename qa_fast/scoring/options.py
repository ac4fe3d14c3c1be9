"""The options of an evaluation, declared once for the command line and for Python."""

from __future__ import annotations

from dataclasses import dataclass

from qa_fast.answer.options import AnswerRules, EngineOptions
from qa_fast.options import option
from qa_fast.schema import ENGINE_PRECISIONS
from qa_fast.scoring.rules import AUTO, METRIC_HELP, METRICS

# With fewer questions one answer moves the score visibly: they are scored in float32, and scores have intervals.
FEW_QUESTIONS = 1000
_SCORING = "Scoring"


@dataclass(frozen=True)
class EvaluateConfig(AnswerRules, EngineOptions):
    """The options of `qa-fast evaluate` and `qa_fast.evaluate`. Each field declares its meaning and bounds.

    Answers are found by the rules of `AnswerRules`, as everywhere. If neither the options nor the model's folder say
    whether no answer is allowed, it is allowed if the split has questions without an answer.

    Examples:
        >>> EvaluateConfig(max_examples=500, seed=1)
    """

    n_best: int = option(20, "Number of candidates to keep for each question.", group=_SCORING, least=1)
    max_examples: int | None = option(None, "Score a random sample of this many examples.", group=_SCORING, least=1)
    seed: int = option(
        0, "Seed of the sample, and of the resamples of --report and --compare.", group=_SCORING, least=0
    )
    require_all: bool = option(
        False,
        "All gold answers of a question are required, instead of any of them: also compare the passages that the model "
        "gives as evidence with them as sets, by exact and partial F1.",
        group=_SCORING,
    )
    metric: str = option(AUTO, METRIC_HELP, group=_SCORING, choices=METRICS)
    precision: str = option(
        "auto",
        "Precision to compute in; auto is float32 for fewer than 1,000 questions, else the one expected to be fastest.",
        group="Engine",
        choices=ENGINE_PRECISIONS,
    )
    overwrite: bool = option(False, "Replace files that exist where --out or --report writes.", group="Output")


def are_few(examples: int, max_examples: int | None) -> bool:
    """Return whether fewer than `FEW_QUESTIONS` of a split's examples are scored; None scores all."""
    return min(examples, examples if max_examples is None else max_examples) < FEW_QUESTIONS
