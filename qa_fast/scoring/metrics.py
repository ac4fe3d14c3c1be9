"""The official SQuAD v1.1 and v2 metrics, from their published definition (Rajpurkar et al. 2016 and 2018).

An answer is normalised: lower case, every character of `string.punctuation` deleted (ASCII only, so dashes and
quotes of other scripts stay), the whole words a, an and the replaced by a space, white space squeezed. Exact match
compares normalised texts; F1 compares bags of the words between spaces. Both take the best over an example's gold
answers and are percentages of all examples.

The two versions differ in what an empty text scores: in v1.1 an empty bag has F1 0; in v2, where no answer is an
answer, F1 is 1 if both bags are empty and 0 if one is. Scores at the best threshold look at the gold answers to
choose it: they stand apart under `oracle`, as no system that is to be used can reach them by choice.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> bool:
    """Whether both texts are the same when normalised."""
    return normalize_answer(prediction) == normalize_answer(gold)


def f1(prediction: str, gold: str, empty_matches: bool = True) -> float:
    """Harmonic mean of precision and recall over the bags of normalised words.

    Args:
        prediction: Answer given.
        gold: Answer wanted.
        empty_matches: Whether two empty texts agree, as in v2; in v1.1 they score 0.
    """
    return _bag_f1(normalize_answer(prediction), normalize_answer(gold), empty_matches)


def _bag_f1(prediction: str, gold: str, empty_matches: bool) -> float:
    """F1 of two normalised texts."""
    if not prediction or not gold:
        return float(empty_matches and prediction == gold)
    given, wanted = prediction.split(), gold.split()
    common = sum((Counter(given) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def answerable_of(golds: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
    """bool[E]: whether a gold answer is left of an example's [E] when they are normalised; else "" is right in v2."""
    return np.array([any(map(normalize_answer, gold)) for gold in golds], bool)


def question_scores(
    predictions: Sequence[str | None], golds: Sequence[Sequence[str]], *, no_answer: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What each question scores: `squad_v1` and `squad_v2` are the means of these.

    Args:
        predictions: One for each of E examples; None, a question that was not answered, scores 0.
        golds: For each example its gold answers.
        no_answer: Whether to score as v2 does: "" is right where no gold answer is left of them when normalised, and
            two empty texts have F1 1. In v1.1 such an example scores 0.

    Returns:
        Exact match (0 or 1) and F1, float64[E] each in [0, 1].

    Raises:
        ValueError: The two are not of one length.
    """
    if len(predictions) != len(golds):
        raise ValueError(
            f"every prediction must have its gold answers; received {len(predictions)} predictions, {len(golds)} golds"
        )
    exact, overlap = np.zeros(len(golds)), np.zeros(len(golds))
    for row, (prediction, gold) in enumerate(zip(predictions, golds, strict=True)):
        if prediction is None:
            continue
        given = normalize_answer(prediction)
        right = {normalize_answer(answer) for answer in gold}
        if no_answer:
            right = right - {""} or {""}
        for wanted in right:
            if given == wanted:
                exact[row] = 1.0
            overlap[row] = max(overlap[row], _bag_f1(given, wanted, no_answer))
    return exact, overlap


def squad_v1(predictions: Sequence[str | None], golds: Sequence[Sequence[str]]) -> dict[str, Any]:
    """SQuAD v1.1.

    Args:
        predictions: One for each of E examples; None, a question that was not answered, scores 0.
        golds: For each example its gold answers; an example without any scores 0.

    Returns:
        exact_match, f1 (percent) and total.

    Raises:
        ValueError: The two are not of one length.
    """
    exact, overlap = question_scores(predictions, golds, no_answer=False)
    return {"exact_match": _percent(exact), "f1": _percent(overlap), "total": len(exact)}


def squad_v2(
    predictions: Sequence[str | None],
    golds: Sequence[Sequence[str]],
    no_answer_probability: Sequence[float] | npt.NDArray[np.floating] | None = None,
    no_answer_threshold: float = 1.0,
) -> dict[str, Any]:
    """SQuAD v2: like the official script on predictions.json and, with probabilities, na_prob.json.

    Args:
        predictions: One for each of E examples, "" for no answer; None, a question that was not answered, scores 0
            (the official script leaves it out of the average).
        golds: For each example its gold answers; none (or only ones that normalise to nothing) means unanswerable.
        no_answer_probability: float[E], for the scores at the best threshold.
        no_answer_threshold: An example whose probability is above counts as predicted "".

    Returns:
        exact, f1 and total at the given threshold; the same with HasAns_ and NoAns_ for the answerable and the
        unanswerable examples, where there are any; and with probabilities `oracle`: best_exact, best_f1 and their
        thresholds best_exact_thresh, best_f1_thresh.

    Raises:
        ValueError: The sequences are not of one length.
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
    result: dict[str, Any] = {"exact": _percent(exact), "f1": _percent(overlap), "total": len(exact)}
    for name, part in (("HasAns", answerable), ("NoAns", ~answerable)):
        if part.any():
            result[f"{name}_exact"] = _percent(exact[part])
            result[f"{name}_f1"] = _percent(overlap[part])
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
    """The best percentage over all thresholds, and the lowest threshold that gives it.

    Starts with no answer everywhere and lets predictions in by rising probability, as the official script does, ties
    in the order given: an answerable example then gains its score, an unanswerable one with a text loses its point.
    """
    order = np.argsort(probability, kind="stable")
    gains = np.where(answerable, scores, np.where(empty, 0.0, -1.0))[order]
    running = np.count_nonzero(~answerable) + np.concatenate([[0.0], np.cumsum(gains)])
    best = int(np.argmax(running))
    return 100.0 * float(running[best]) / len(scores), float(probability[order[best - 1]]) if best else 0.0


def best_null_threshold(
    scores: npt.NDArray[np.float64], margins: npt.NDArray[np.float64], answerable: npt.NDArray[np.bool_]
) -> float:
    """The threshold of margins with the best mean score, to be used for `--null-threshold`.

    Args:
        scores: float[E], of each example's text, whatever its margin; of an unanswerable example 0.
        margins: float[E], by how much no answer leads the text's score; infinity where there is no text.
        answerable: bool[E].

    Returns:
        The lowest such threshold: texts whose margin is not above it are given, for others there is no answer. Below
        all margins where no text should be given.
    """
    order = np.argsort(margins, kind="stable")
    gains = np.where(answerable, scores, np.where(np.isinf(margins), 0.0, -1.0))[order]
    running, margins = np.concatenate([[0.0], np.cumsum(gains)]), margins[order]
    # Equal margins are let in together.
    ends = np.append(np.flatnonzero(margins[1:] > margins[:-1]) + 1, len(margins)) if len(margins) else np.zeros(0, int)
    candidates = np.concatenate([[0], ends[np.isfinite(margins[ends - 1])]])
    best = int(candidates[np.argmax(running[candidates])])
    if best:
        return float(margins[best - 1])
    return float(np.nextafter(margins[0], -np.inf)) if len(margins) and np.isfinite(margins[0]) else 0.0


def _percent(scores: npt.NDArray[Any]) -> float:
    return 100.0 * float(np.mean(scores)) if len(scores) else 0.0


def metric_rows(metrics: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Metrics as names, nested ones joined by a dot, and values as they are shown."""
    rows: list[tuple[str, str]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows += metric_rows(value, f"{before}{name}.")
        else:
            rows.append((before + name, f"{value:.4f}" if isinstance(value, float) else f"{value}"))
    return rows
