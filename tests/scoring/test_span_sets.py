from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.predictions import write_predictions
from qa_fast.scoring.span_sets import span_set_scores
from tests.scoring.test_scoring import HERON, WITH_NONE, make_split, oracle


def test_sets_are_compared_as_multispanqa_does() -> None:
    predictions = [["The Ane Skou!", "Per", "per"], [], []]
    golds = [["Ane Skou", "Ole Krog"], ["1894"], []]
    # 4 predicted and 4 required texts, with one for each empty set. "per" shares 1 of 3 characters with a gold answer,
    # "ole krog" 2 of 8 ("e ") with a prediction; the third question is right.
    scores = span_set_scores(predictions, golds)
    assert scores["exact_precision"] == scores["exact_recall"] == scores["exact_f1"] == 50
    assert scores["partial_precision"] == pytest.approx(100 * (1 + 1 / 3 + 0 + 1) / 4)
    assert scores["partial_recall"] == pytest.approx(100 * (1 + 2 / 8 + 0 + 1) / 4)
    assert scores["partial_f1"] == pytest.approx(57.2727, abs=1e-4)


def test_empty_sets_and_texts() -> None:
    assert span_set_scores([], [])["exact_f1"] == 0
    assert span_set_scores([["the"]], [["A"]])["partial_f1"] == 100  # both are empty once normalized
    assert span_set_scores([["Per"]], [[]])["partial_f1"] == 0


def test_texts_are_normalized_by_the_metric_of_the_question() -> None:
    texts = [["das Moor"]], [["Moor"]]
    assert span_set_scores(*texts)["exact_f1"] == 0
    assert span_set_scores(*texts, ["mlqa-de"])["exact_f1"] == 100


def test_evaluate_compares_evidence_with_all_gold_answers(tmp_path: Path) -> None:
    both = [*WITH_NONE, ("two", "what do they do ?", HERON, ["nest in tall oaks", "feed on eels"])]
    result = evaluate_split(oracle, make_split(both), require_all=True, n_best=5)
    assert result.evidence is not None
    assert result.evidence[-2:] == [[], ["nest in tall oaks"]]
    # "first" has 2 gold answers and so does "two": 6 texts are predicted, all right, and 8 required.
    assert result.metrics["all_required"]["exact_precision"] == 100
    assert result.metrics["all_required"]["exact_recall"] == 75
    assert {name: value for name, value in result.metrics.items() if name != "all_required"} == evaluate_split(
        oracle, make_split(both), n_best=5
    ).metrics
    write_predictions(tmp_path, result)
    written = json.loads((tmp_path / "evidence.json").read_text())
    assert written == dict(zip(result.ids, result.evidence, strict=True))
    assert max(map(len, json.loads((tmp_path / "nbest_predictions.json").read_text()).values())) <= 6
