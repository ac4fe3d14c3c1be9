"""Fits a model's calibration on half of a split's documents, and measures it on the other half.

The documents are divided at random, so that no document is in both halves. On the first half the threshold of no answer
is chosen, if questions have no answer there, and the map of `answer.calibration` is fitted to whether the answers that
the model then gives are right (exact match by the usual normalization). What is stored was fitted on the first half,
and the figures are those of the other half. Their intervals are from a bootstrap of documents, whose questions are
alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.answer.calibration import Calibration, inputs_of, sigmoid
from qa_fast.answer.options import AnswerRules
from qa_fast.answer.settings import max_positions_of, windows_of, write_settings
from qa_fast.errors import UserError
from qa_fast.infer.spans import Progress
from qa_fast.report.risk import confidence_of
from qa_fast.schema import Int32s
from qa_fast.scoring.evaluation import best_texts, evaluate, scorable
from qa_fast.scoring.golds import has_unanswerable
from qa_fast.scoring.intervals import Float64s, Interval, middle_95
from qa_fast.scoring.keeping import check_writable, kept_options
from qa_fast.scoring.metrics import answerable_of, best_null_threshold, percent
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model

# With 500 questions of SQuAD the error on others was 0.026 on average and below 0.04 in nine of ten fits; with 200,
# 0.038 and 0.06; with 2,000, 0.019 and 0.024. With few documents, the bootstrap's intervals are too narrow.
FEWEST_QUESTIONS, FEWEST_DOCUMENTS, FEWEST_OF_A_KIND = 500, 10, 25
# Shares of wrong answers for which the coverage is reported.
ERRORS = (0.01, 0.05, 0.1)
NAMES = ("ece", "auroc", "brier", *(f"coverage_at_{round(100 * error)}_percent_error" for error in ERRORS))
_BINS, _RESAMPLES = 10, 1000
# Draws the map to the one that changes nothing, which matters only if the answers are nearly all right or wrong.
_RIDGE, _UNCHANGED = 1.0, np.array([1.0, 0.0, 0.0])


@dataclass(frozen=True)
class Figures:
    """How far confidence means what it says, on the half that was not fitted.

    Attributes:
        values: float64, see `NAMES` and `figures_of`.
        intervals: The 95 % interval of each; NaN where no resample defines the figure.
        scores: exact_match, f1 and, with questions of both kinds, answerable_f1 and unanswerable_f1, in percent.
    """

    values: Float64s
    intervals: list[Interval]
    scores: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready figures by name, and their intervals; an undefined AUROC and its interval are None."""
        values = [None if np.isnan(value) else float(value) for value in self.values]
        ends = [None if np.isnan(low) else (low, high) for low, high in self.intervals]
        named = dict(zip(NAMES, values, strict=True)) | self.scores
        return {**named, "intervals": dict(zip(NAMES, ends, strict=True))}


@dataclass(frozen=True)
class Calibrated:
    """A fitted calibration and its figures.

    Attributes:
        rules: The rules of answering with the calibration and the threshold.
        chose_threshold: Whether the threshold was chosen here.
        questions: Number of questions that it was reported on.
        before: Figures with the model's own rules and no calibration.
        after: Figures with `rules`.
        path: The file that was written; None without `keep`.
    """

    rules: AnswerRules
    chose_threshold: bool
    questions: int
    before: Figures
    after: Figures
    path: Path | None


def calibrate(
    model_path: str | Path,
    shards_path: str | Path,
    split: str = "validation",
    *,
    keep: bool = False,
    max_examples: int | None = None,
    seed: int = 0,
    precision: str = "auto",
    engine: str = "auto",
    measure: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Calibrated:
    """Fit a model's calibration, and the threshold of no answer if the split has questions without an answer.

    Args:
        model_path: A model folder, a Hub id or "minilm".
        shards_path: A folder that `qa-fast featurize` made with the model's tokenizer.
        split: Any split except train.
        keep: Write both into the model's folder with the options that they were fitted with, as `evaluate` does, so
            that all ways of answering use them.
        max_examples: Use a random sample of this many questions.
        seed: Seed of the sample, of the division of the documents, and of the resamples.
        precision: See `evaluate`.
        engine: See `evaluate`.
        measure: See `evaluate`.
        progress: See `evaluate`.
        say: See `evaluate`.

    Raises:
        UserError: There are too few questions, documents, or right or wrong answers; the model's confidence does not
            order its answers; or see `evaluate`.

    Examples:
        >>> calibrate("model", "shards", keep=True).after.values
    """
    folder = resolve_model(model_path)
    if keep:
        check_writable(model_path, folder)
    shards = open_shards(shards_path)
    opened = scorable(shards, split)
    place = f"{split} in {shards.folder}"
    assert opened.examples is not None
    _check_number(min(len(opened.examples), max_examples or len(opened.examples)), place)
    chooses = has_unanswerable(opened)
    result = evaluate(
        shards_path, model_path, split, max_examples=max_examples, seed=seed, precision=precision, engine=engine,
        measure=measure, progress=progress, say=say, handle_impossible_answer=True if chooses else None,
    )  # fmt: skip
    first = first_half(result.context_index, seed, place)
    unanswerable = int((~answerable_of(result.golds.answers))[first].sum())
    if chooses and unanswerable < FEWEST_OF_A_KIND:
        raise UserError(
            f"the threshold of no answer needs at least {FEWEST_OF_A_KIND} questions without an answer to fit; "
            f"received {unanswerable} ({place}): use more of them, or none"
        )
    before = answered(result, dataclasses.replace(result.rules, calibration=None))
    after = answered(result, fitted_rules(before, first, place))
    earlier, later = (figures(each, ~first, seed) for each in (before, after))
    manifest, map_alone = shards.manifest, after.rules.calibration
    assert map_alone is not None
    calibration = dataclasses.replace(
        map_alone,
        data=Path(manifest["source"]["name"]).name,
        split=split,
        fingerprint=str(manifest.get("fingerprint", "")),
        seed=seed,
        error_before=float(earlier.values[0]),
        error=float(later.values[0]),
    )
    after = dataclasses.replace(after, rules=dataclasses.replace(after.rules, calibration=calibration))
    path = None
    if keep:
        windows = windows_of(manifest["config"], max_positions_of(folder))
        path = write_settings(folder, kept_options(after, windows, given=after.null_threshold))
    return Calibrated(after.rules, chooses, int((~first).sum()), earlier, later, path)


def _check_number(questions: int, place: str) -> None:
    if questions < 2 * FEWEST_QUESTIONS:
        raise UserError(
            f"calibration needs at least {2 * FEWEST_QUESTIONS:,} questions, {FEWEST_QUESTIONS} to fit and "
            f"{FEWEST_QUESTIONS} to report on; received {questions:,} ({place}): use more questions"
        )


def first_half(document: Int32s, seed: int, place: str) -> npt.NDArray[np.bool_]:
    """Return bool[E]: whether a question is in the first half, to which random documents are added until it is full.

    Args:
        document: int32[E], the document of each question.
        seed: Seed of the order of the documents.
        place: The split in words, for messages.

    Raises:
        UserError: A half has too few questions or documents.
    """
    _check_number(len(document), place)
    distinct, row = np.unique(document, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    counts = np.bincount(row)[order]
    taken = int(np.searchsorted(np.cumsum(counts), len(document) / 2)) + 1
    is_first: npt.NDArray[np.bool_] = np.isin(row, order[:taken])
    fewest = min(is_first.sum(), (~is_first).sum())
    if fewest < FEWEST_QUESTIONS or min(taken, len(distinct) - taken) < FEWEST_DOCUMENTS:
        raise UserError(
            f"documents must divide into two halves with at least {FEWEST_QUESTIONS} questions and {FEWEST_DOCUMENTS} "
            f"documents each; received {len(document):,} questions about {len(distinct):,} documents ({place}): use "
            "more documents"
        )
    return is_first


def fitted_rules(result: EvaluationResult, first: npt.NDArray[np.bool_], place: str) -> AnswerRules:
    """Return the rules of a result with the threshold that is best on some of its questions, and their calibration.

    Args:
        result: A result by rules without a calibration.
        first: bool[E], the questions to fit on. The threshold stays as it is if all of them have an
            answer, or if no answer may be given.
        place: The split in words, for messages.

    Raises:
        UserError: No question has an answer, or see `fitted`.
    """
    answerable = answerable_of(result.golds.answers)
    if not answerable[first].any():
        raise UserError(f"questions must have answers; {place} has none with one: choose another split")
    threshold = result.rules.null_threshold
    if result.allow_no_answer and not answerable[first].all():
        texts = best_texts(result.spans, result.contexts, result.context_index, None)
        overlap = np.where(answerable, result.scores_of(texts)[1], 0.0)
        threshold = best_null_threshold(overlap[first], result.spans.null_margin()[first], answerable[first])
    after = answered(result, dataclasses.replace(result.rules, null_threshold=threshold))
    right = after.scores_of(after.predictions)[0]
    inputs = inputs_of(confidence_of(after), after.spans.probabilities(after.null_threshold)[1])
    slope, no_answer, offset = fitted(inputs[first], right[first], place).tolist()
    calibration = Calibration(slope, no_answer, offset, "", "", "", 0, int(first.sum()), 0.0, 0.0)
    return dataclasses.replace(after.rules, calibration=calibration)


def fitted(inputs: Float64s, right: Float64s, place: str = "") -> Float64s:
    """Return the map's three numbers that make the answers' being right or wrong most likely, by Newton's method.

    Args:
        inputs: float64[E, 3], see `answer.calibration.inputs_of`.
        right: float64[E], 1 for a right answer and 0 for a wrong one.
        place: The split in words, for messages.

    Returns:
        float64[3]: slope, no_answer, offset.

    Raises:
        UserError: There are too few right or wrong answers, or confidence does not rise with being right.
    """
    fewest = int(min(right.sum(), (1 - right).sum()))
    if fewest < FEWEST_OF_A_KIND:
        raise UserError(
            f"calibration needs at least {FEWEST_OF_A_KIND} right and {FEWEST_OF_A_KIND} wrong answers to fit; "
            f"received {fewest} of one kind among {len(right):,} ({place}): use more questions, or train the model "
            "longer"
        )

    def loss(weights: Float64s) -> float:
        values = inputs @ weights
        difference = weights - _UNCHANGED
        return float(np.sum(np.logaddexp(0, values) - right * values) + _RIDGE / 2 * difference @ difference)

    weights = _UNCHANGED
    for _ in range(100):
        probability = sigmoid(inputs @ weights)
        gradient = inputs.T @ (probability - right) + _RIDGE * (weights - _UNCHANGED)
        curvature = (inputs.T * (probability * (1 - probability))) @ inputs + _RIDGE * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        while np.abs(step).max() > 1e-9 and loss(weights - step) > loss(weights):
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-9:
            break
    if weights[0] <= 0:
        raise UserError(
            f"more confident answers must be right more often; those of this model are not ({place}): train it longer"
        )
    return weights


def figures_of(confidence: Float64s, right: Float64s, weight: Float64s | None = None) -> Float64s:
    """Return the figures that `NAMES` names.

    The expected calibration error has 10 bins of equal width (Guo et al. 2017). AUROC is the probability that a right
    answer has a higher confidence than a wrong one. The Brier score is the mean squared distance of confidence and
    being right. A coverage is the largest share of the questions that can be answered, the most confident first, with
    at most such a share of wrong answers (Geifman and El-Yaniv 2017).

    Args:
        confidence: float64[E], in [0, 1].
        right: float64[E], 1 for a right answer and 0 for a wrong one.
        weight: float64[E], how often each question counts; None means once.

    Returns:
        float64[6]; AUROC is NaN if the answers are all right or all wrong.
    """
    order = np.argsort(-confidence, kind="stable")
    falling, hit = confidence[order], right[order]
    counts = np.ones(len(order)) if weight is None else weight[order]
    total = counts.sum()
    bins = np.minimum((falling * _BINS).astype(np.int64), _BINS - 1)
    error = np.abs(np.bincount(bins, counts * (falling - hit))).sum() / total
    brier = np.sum(counts * (falling - hit) ** 2) / total
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # equal confidences are answered together
    answered, wrong = np.cumsum(counts)[ends], np.cumsum(counts * (1 - hit))[ends]
    hits = answered - wrong
    area = np.sum(np.diff(wrong, prepend=0) * (hits + np.append(0, hits[:-1])) / 2)
    auroc = area / (hits[-1] * wrong[-1]) if hits[-1] * wrong[-1] > 0 else np.nan
    coverages = [np.max(answered[wrong <= share * answered], initial=0) / total for share in ERRORS]
    return np.array([error, auroc, brier, *coverages])


def answered(result: EvaluationResult, rules: AnswerRules) -> EvaluationResult:
    """Return a result with the predictions that other rules for no answer give."""
    threshold = rules.null_threshold if rules.handle_impossible_answer else None
    texts = best_texts(result.spans, result.contexts, result.context_index, threshold)
    return dataclasses.replace(result, predictions=texts, rules=rules)


def figures(result: EvaluationResult, chosen: npt.NDArray[np.bool_], seed: int) -> Figures:
    """Return the figures of some questions of a result, with intervals from resamples of their documents.

    Args:
        result: The result.
        chosen: bool[E], the questions.
        seed: Seed of the resamples.
    """
    right, confidence = result.scores_of(result.predictions)[0][chosen], confidence_of(result)[chosen]
    documents, row = np.unique(result.context_index[chosen], return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(
        len(documents), np.full(len(documents), 1 / len(documents)), size=_RESAMPLES
    )
    resampled = np.array([figures_of(confidence, right, times[row].astype(np.float64)) for times in drawn])
    defined = [column[np.isfinite(column)] for column in resampled.T]
    intervals = [middle_95(column) if len(column) else (np.nan, np.nan) for column in defined]
    return Figures(figures_of(confidence, right), intervals, scores_among(result, chosen))


def scores_among(result: EvaluationResult, chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the scores of some questions of a result in percent, see `Figures`."""
    answerable = answerable_of(result.golds.answers)
    exact, overlap = result.scores_of(result.predictions)
    scores = {"exact_match": percent(exact[chosen]), "f1": percent(overlap[chosen])}
    kinds = {"answerable_f1": answerable & chosen, "unanswerable_f1": ~answerable & chosen}
    if all(kind.any() for kind in kinds.values()):
        scores |= {name: percent(overlap[kind]) for name, kind in kinds.items()}
    return scores
