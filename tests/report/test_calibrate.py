"""The calibration of confidence: the map, its fit, the figures against slow references, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.answer.calibration import Calibration, inputs_of, scores_of, sigmoid
from qa_fast.answer.options import AnswerRules
from qa_fast.answer.ranking import Answer, ranking
from qa_fast.errors import UserError
from qa_fast.infer.decode import BestSpans
from qa_fast.report.calibrate import ERRORS, answered, figures, figures_of, first_half, fitted, fitted_rules
from qa_fast.report.risk import calibration as binned
from qa_fast.scoring.result import EvaluationResult

PLANTED = Calibration(0.6, -0.4, -0.8, "made up", "validation", "", 0, 600, 0.1, 0.02)
SHARES = st.lists(st.tuples(st.sampled_from([0, 0.1, 0.25, 0.5, 0.99, 1]), st.booleans()), min_size=1, max_size=12)


@given(SHARES)
def test_figures_are_those_of_their_definitions(rows: list[tuple[float, bool]]) -> None:
    confidence, right = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    error, auroc, brier, *coverages = figures_of(confidence, right)
    assert error == pytest.approx(binned(confidence, right).error)
    assert brier == pytest.approx(np.mean((confidence - right) ** 2))
    pairs = [(one > other) + (one == other) / 2 for one in confidence[right == 1] for other in confidence[right == 0]]
    assert np.isnan(auroc) if not pairs else auroc == pytest.approx(np.mean(pairs))
    for share, coverage in zip(ERRORS, coverages, strict=True):
        kept = [confidence >= least for least in set(confidence)]
        assert coverage == max([0, *(np.mean(each) for each in kept if np.mean(1 - right[each]) <= share)])
    twice = np.concatenate([confidence, confidence]), np.concatenate([right, right])
    weighted = figures_of(confidence, right, np.full(len(rows), 2.0))
    assert weighted == pytest.approx(figures_of(*twice), nan_ok=True)


def test_the_fit_finds_a_planted_map_and_keeps_the_order() -> None:
    generator = np.random.default_rng(0)
    probability, no_answer = generator.beta(1, 1, 40_000), generator.beta(0.5, 2, 40_000)
    right = (generator.random(40_000) < PLANTED(probability, no_answer)).astype(float)
    found = fitted(inputs_of(probability, no_answer), right)
    assert found == pytest.approx([0.6, -0.4, -0.8], abs=0.05)
    rising = PLANTED(np.linspace(0, 1, 50), 0.3)
    assert (np.diff(rising) > 0).all()
    assert 0 < rising[0] < rising[-1] < 1
    assert sigmoid(np.array([-800.0, 0, 800])).tolist() == [0, 0.5, 1]


def test_few_or_senseless_questions_are_refused() -> None:
    documents = np.arange(1200) // 3
    first = first_half(documents.astype(np.int32), 0, "here")
    assert 600 <= first.sum() <= 602
    assert not set(documents[first]) & set(documents[~first])
    assert (first != first_half(documents.astype(np.int32), 1, "here")).any()
    with pytest.raises(UserError, match=r"needs at least 1,000 questions, 500 .*; received 999 \(here\)"):
        first_half(documents[:999].astype(np.int32), 0, "here")
    with pytest.raises(
        UserError, match=r"documents must divide into two halves .* received 1,200 questions about 1 doc"
    ):
        first_half(np.zeros(1200, np.int32), 0, "here")
    inputs = inputs_of(np.linspace(0.01, 0.99, 600), np.full(600, 0.01))
    with pytest.raises(UserError, match="at least 25 right and 25 wrong answers to fit; received 24 of one kind"):
        fitted(inputs, (np.arange(600) < 24).astype(float))
    with pytest.raises(UserError, match="more confident answers must be right more often"):
        fitted(inputs, (np.arange(600) < 300).astype(float))


def made_up(questions: int, seed: int) -> EvaluationResult:
    """A result of questions with two spans each; a third of them have no answer, and more often a low best score."""
    generator = np.random.default_rng(seed)
    answerable = np.arange(questions) % 3 > 0
    best = generator.normal(np.where(answerable, 2, -1), 2).astype(np.float32)
    is_right = answerable & (generator.random(questions) < sigmoid(best.astype(float)))
    spans = np.zeros((questions, 2), np.float32)
    spans[:, 0], spans[:, 1] = best, best - 1
    starts = np.tile(np.array([0, 5], np.int32), (questions, 1))
    counts, zeros = np.full(questions, 2, np.int32), np.zeros(questions, np.float32)
    golds: Any = SimpleNamespace(
        answers=[(["Osby"] if hit else ["Vik"]) if some else [] for hit, some in zip(is_right, answerable, strict=True)]
    )
    return EvaluationResult(
        metrics={"exact": 0, "f1": 0}, ids=[], predictions=[], golds=golds, no_answer_probability=zeros,
        spans=BestSpans(spans, spans, spans, starts, starts + 4, counts, zeros, zeros, counts),
        contexts=["Osby Vika"] * (questions // 3), context_index=(np.arange(questions) // 3).astype(np.int32),
        rules=AnswerRules(handle_impossible_answer=True).with_defaults(), features=0, seconds=0,
        question_metrics=["squad"] * questions,
    )  # fmt: skip


def test_a_calibration_makes_confidence_the_share_of_right_answers() -> None:
    result = made_up(3000, 0)
    first = first_half(result.context_index, 0, "here")
    rules = fitted_rules(result, first, "here")
    before, after = (figures(answered(result, each), ~first, 0) for each in (result.rules, rules))
    assert after.values[0] < 0.04 < before.values[0]
    assert after.values[2] < before.values[2]
    assert after.scores["f1"] >= before.scores["f1"] - 1
    assert all(low <= value <= high for value, (low, high) in zip(after.values[1:], after.intervals[1:], strict=True))
    golds: Any = SimpleNamespace(answers=[[]] * 3000)
    none = replace(result, golds=golds)
    with pytest.raises(UserError, match="questions must have answers; here has none"):
        fitted_rules(none, first, "here")
    wrong = figures(answered(none, AnswerRules().with_defaults()), ~first, 0).to_dict()
    assert wrong["auroc"] is wrong["intervals"]["auroc"] is None
    assert wrong["intervals"]["brier"][0] <= wrong["brier"] <= wrong["intervals"]["brier"][1]


def test_a_threshold_is_fitted_only_where_no_answer_may_be_given() -> None:
    """An answer such as "A", of which the comparison leaves nothing, does not make a question unanswerable."""
    result = made_up(1200, 0)
    spans = replace(result, rules=AnswerRules(handle_impossible_answer=False).with_defaults())
    assert fitted_rules(spans, np.arange(1200) % 2 == 0, "here").null_threshold == spans.rules.null_threshold


def test_one_document_is_ranked_with_the_scores_of_the_answers_in_it() -> None:
    spans = made_up(3, 1).spans
    raw, scores = scores_of(spans, 0.5, None), scores_of(spans, 0.5, PLANTED)
    for row in range(3):
        found: list[Answer] = [
            {"score": float(score), "start": start, "end": start + len(text), "answer": text}
            for score, start, text in ((raw[0][row, 0], 0, "Osby"), (raw[0][row, 1], 5, "Vika"), (raw[1][row], 0, ""))
        ]
        ranked, no_answer = ranking([found], None, None, None, calibration=PLANTED)
        assert [one.score for one in ranked] == pytest.approx(scores[0][row].tolist())
        assert no_answer == pytest.approx(scores[1][row])
