"""The official SQuAD v1.1 and v2 metrics, written from their published definition (Rajpurkar et al. 2016 and 2018).

Exact match compares normalized texts; F1 compares bags of the words between spaces. `rules` normalizes, and has the
rules of other data sets. Both scores take the maximum over the gold answers of an example and are percentages of all
examples.

The two versions differ in empty texts. In v1.1 an empty bag has F1 0. In v2 no answer can be right: F1 is 1 if both
bags are empty and 0 if one is. Scores at the best threshold use the gold answers to choose it, which no real system can
do, so they are reported separately under `oracle`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.scoring.rules import RULES, SQUAD, normalize_answer


def answerable_of(golds: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Return bool[E]: whether an example has a gold answer that is not empty when normalized; if not, "" is right."""
    return np.array([any(map(normalize_answer, gold)) for gold in golds], bool)


def question_scores(
    predictions: Sequence[str | None],
    golds: Sequence[Sequence[str]],
    *,
    no_answer: bool,
    metrics: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Score each question; `squad_v1` and `squad_v2` are the means of these scores.

    Args:
        predictions: One for each of E examples; None, a question that was not answered, scores 0.
        golds: The gold answers of each example.
        no_answer: Whether to score as v2 does: "" is right if all gold answers are empty when normalized, and two empty
            texts have F1 1. In v1.1 such an example scores 0.
        metrics: The metric of each example, a key of `rules.RULES`; None means SQuAD's.

    Returns:
        Exact match (0 or 1) and F1, float64[E] each in [0, 1].

    Raises:
        ValueError: The two have different lengths.
    """
    if len(predictions) != len(golds):
        raise ValueError(
            f"every prediction must have its gold answers; received {len(predictions)} predictions, {len(golds)} golds"
        )
    exact, overlap = np.zeros(len(golds)), np.zeros(len(golds))
    for row, (prediction, gold) in enumerate(zip(predictions, golds, strict=True)):
        if prediction is None:
            continue
        rule = RULES[SQUAD if metrics is None else metrics[row]]
        normalized = rule.key(prediction)
        answers = {rule.key(answer) for answer in gold}
        if no_answer:
            answers = answers - {""} or {""}
        for answer in answers:
            if normalized == answer:
                exact[row] = 1.0
            overlap[row] = max(overlap[row], rule.f1(normalized, answer, no_answer))
    return exact, overlap


def squad_v1(predictions: Sequence[str | None], golds: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return the metrics of SQuAD v1.1.

    Args:
        predictions: One for each of E examples; None, a question that was not answered, scores 0.
        golds: The gold answers of each example; an example without any scores 0.

    Returns:
        exact_match, f1 (percent) and total.

    Raises:
        ValueError: The two have different lengths.
    """
    exact, overlap = question_scores(predictions, golds, no_answer=False)
    return {"exact_match": percent(exact), "f1": percent(overlap), "total": len(exact)}


def squad_v2(
    predictions: Sequence[str | None],
    golds: Sequence[Sequence[str]],
    no_answer_probability: Sequence[float] | npt.NDArray[np.floating] | None = None,
    no_answer_threshold: float = 1.0,
) -> dict[str, Any]:
    """Return the metrics of SQuAD v2, as the official script computes them from predictions.json and na_prob.json.

    Args:
        predictions: One for each of E examples, "" for no answer; None, a question that was not answered, scores 0
            (the official script leaves it out of the average).
        golds: The gold answers of each example; an example is unanswerable if all are empty when normalized.
        no_answer_probability: float[E], for the scores at the best threshold.
        no_answer_threshold: The prediction of an example with a higher probability counts as "".

    Returns:
        exact, f1 and total at the given threshold; the same with HasAns_ and NoAns_ for the answerable and the
        unanswerable examples, if there are any; and with probabilities `oracle`: best_exact and best_f1 with their
        thresholds best_exact_thresh and best_f1_thresh.

    Raises:
        ValueError: The sequences have different lengths.
    """
    answerable = answerable_of(golds)
    raw_exact, raw_overlap = question_scores(predictions, golds, no_answer=True)
    exact, overlap = raw_exact, raw_overlap
    probability = None
    if no_answer_probability is not None:
        probability = np.asarray(no_answer_probability, np.float64)
        if len(probability) != len(exact):
            raise ValueError(
                f"every prediction must have a no-answer probability; received {len(exact)} and {len(probability)}"
            )
        above = probability > no_answer_threshold
        exact, overlap = np.where(above, ~answerable, exact), np.where(above, ~answerable, overlap)
    result: dict[str, Any] = {"exact": percent(exact), "f1": percent(overlap), "total": len(exact)}
    for name, part in (("HasAns", answerable), ("NoAns", ~answerable)):
        if part.any():
            result[f"{name}_exact"] = percent(exact[part])
            result[f"{name}_f1"] = percent(overlap[part])
            result[f"{name}_total"] = int(part.sum())
    if probability is not None and len(exact):
        empty = np.array([not prediction for prediction in predictions], bool)
        oracle: dict[str, float] = {}
        for name, scores in (("exact", raw_exact), ("f1", raw_overlap)):
            best, threshold = _best_threshold(scores, probability, answerable, empty)
            oracle |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
        result["oracle"] = oracle
    return result


def _best_threshold(
    scores: npt.NDArray[np.float64],
    probability: npt.NDArray[np.float64],
    answerable: npt.NDArray[np.bool_],
    empty: npt.NDArray[np.bool_],
) -> tuple[float, float]:
    """Return the best percentage over all thresholds, and the lowest threshold that gives it.

    As in the official script, all predictions start as no answer and are admitted by rising probability, ties in the
    given order. An answerable example then gains its score; an unanswerable one with a text loses its point.
    """
    order = np.argsort(probability, kind="stable")
    gains = np.where(answerable, scores, np.where(empty, 0.0, -1.0))[order]
    running = np.count_nonzero(~answerable) + np.concatenate([[0.0], np.cumsum(gains)])
    best = int(np.argmax(running))
    return 100.0 * float(running[best]) / len(scores), float(probability[order[best - 1]]) if best else 0.0


def best_null_threshold(
    scores: npt.NDArray[np.float64], margins: npt.NDArray[np.float64], answerable: npt.NDArray[np.bool_]
) -> float:
    """Return the value of `--null-threshold` with the best mean score.

    Args:
        scores: float[E], score of each example's text, regardless of its margin; 0 for unanswerable examples.
        margins: float[E], score of no answer less that of the text; infinity without a text.
        answerable: bool[E].

    Returns:
        A threshold halfway between two margins, or 1 beside the last one, so that small differences of precision change
        no prediction; the lowest of several that are equally good. A text is predicted if its margin is at most the
        threshold.
    """
    order = np.argsort(margins, kind="stable")
    gains = np.where(answerable, scores, np.where(np.isinf(margins), 0.0, -1.0))[order]
    running, margins = np.concatenate([[0.0], np.cumsum(gains)]), margins[order]
    # Equal margins are admitted together.
    ends = np.append(np.flatnonzero(margins[1:] > margins[:-1]) + 1, len(margins)) if len(margins) else np.zeros(0, int)
    candidates = np.concatenate([[0], ends[np.isfinite(margins[ends - 1])]])
    best = int(candidates[np.argmax(running[candidates])])
    finite = margins[np.isfinite(margins)]
    if not len(finite):
        return 0.0
    admitted = finite[best - 1] if best else finite[0] - 2
    following = finite[best] if best < len(finite) else finite[-1] + 2
    return float(admitted + following) / 2


def percent(scores: npt.NDArray[Any]) -> float:
    """Return the mean of scores in [0, 1] in percent; 0 without any."""
    return 100.0 * float(np.mean(scores)) if len(scores) else 0.0


def metric_rows(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return names of metrics, nested ones joined by a dot, and their values as text."""
    rows: list[tuple[str, str]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows += metric_rows(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, f"{value:.4f}" if isinstance(value, float) else f"{value}"))
    return rows
