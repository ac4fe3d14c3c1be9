from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.scoring.metrics import (
    best_null_threshold,
    question_scores,
    squad_v1,
    squad_v2,
)
from qa_fast.scoring.rules import normalize_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Blue\tHeron!", "blue heron"),
        ("an apple, a pear", "apple pear"),
        ("Theatre and another", "theatre and another"),  # articles are whole words
        ("a.n. other", "other"),  # punctuation goes first, which may make an article
        ("the", ""),
        ("state-of-the-art", "stateoftheart"),
        ("1,000.5", "10005"),
        ("«été» — naïve", "«été» — naïve"),  # only ASCII punctuation is deleted
        ("la-the «the»", "lathe « »"),
        ("东京 (Tokyo)", "东京 tokyo"),
        ("İstanbul", "i\u0307stanbul"),
        ("\u3000the\u00a0end\u2003", "end"),  # Unicode white space is white space
        ("_a_", ""),
        # A combining mark ends a word for Python's word boundary, so the official definition sees an article behind it.
        ("e\u0301a", "e\u0301"),
        ("", ""),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


def f1(prediction: str, gold: str, empty_matches: bool = True) -> float:
    return float(question_scores([prediction], [[gold]], no_answer=empty_matches)[1][0])


def exact_match(prediction: str, gold: str) -> bool:
    return bool(question_scores([prediction], [[gold]], no_answer=False)[0][0])


def test_f1_is_over_bags_of_words() -> None:
    assert f1("red red green", "red blue") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert f1("red red", "red red red") == pytest.approx(0.8)
    assert f1("the red fox", "Red, fox") == 1
    assert f1("red", "green") == 0
    assert exact_match("The Red fox.", "red fox")
    assert not exact_match("red foxes", "red fox")


def test_empty_texts_agree_in_v2_only() -> None:
    assert f1("", "") == f1("the", "") == 1
    assert f1("", "", empty_matches=False) == 0
    assert f1("fox", "") == f1("", "fox") == 0


def test_v1_takes_the_best_gold_answer() -> None:
    result = squad_v1(["green hill", "old mill", None, ""], [["hill", "the green hill"], ["mill"], ["x"], ["y"]])
    assert result == {"exact_match": 25.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 4), "total": 4}


def test_v1_of_texts_that_normalise_to_nothing() -> None:
    assert squad_v1(["the"], [["a"]]) == {"exact_match": 100.0, "f1": 0.0, "total": 1}
    assert squad_v1(["x"], [[]]) == {"exact_match": 0.0, "f1": 0.0, "total": 1}
    assert squad_v1([], []) == {"exact_match": 0.0, "f1": 0.0, "total": 0}


PREDICTIONS = ["green hill", "", "a tall oak", "", "river"]
GOLDS = [["green hill"], ["mill"], [], [], ["the long river", "the"]]


def test_v2_splits_answerable_and_unanswerable() -> None:
    result = squad_v2(PREDICTIONS, GOLDS)
    assert result == {
        "exact": 40.0,
        "f1": pytest.approx(100 * (1 + 0 + 0 + 1 + 2 / 3) / 5),
        "total": 5,
        "HasAns_exact": pytest.approx(100 / 3),
        "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 3),
        "HasAns_total": 3,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }


def test_v2_best_threshold_is_labelled_as_oracle() -> None:
    result = squad_v2(PREDICTIONS, GOLDS, [0.1, 0.9, 0.8, 0.95, 0.3])
    # By hand: none 2/5; + green hill 3/5; + river 3/5 exact, 3.67/5 f1; + the oak loses one.
    assert result["oracle"] == {
        "best_exact": 60.0,
        "best_exact_thresh": 0.1,
        "best_f1": pytest.approx(100 * (3 + 2 / 3) / 5),
        "best_f1_thresh": 0.3,
    }
    assert "best_exact" not in result
    assert result["exact"] == 40.0  # the fixed threshold is not moved by it
    assert list(result)[:3] == ["exact", "f1", "total"]


def test_v2_fixed_threshold() -> None:
    result = squad_v2(PREDICTIONS, GOLDS, [0.1, 0.9, 0.8, 0.95, 0.3], no_answer_threshold=0.5)
    assert result["exact"] == 60.0
    assert result["NoAns_exact"] == 100.0


def test_v2_without_one_kind_or_anything() -> None:
    assert "NoAns_total" not in squad_v2(["x"], [["x"]])
    assert "HasAns_total" not in squad_v2(["", "the"], [[], ["a", "!"]])
    assert squad_v2(["", "the"], [[], ["a", "!"]])["f1"] == 100
    assert squad_v2([], [], []) == {"exact": 0.0, "f1": 0.0, "total": 0}
    assert squad_v2([None], [[]])["exact"] == 0


def test_lengths_must_agree() -> None:
    with pytest.raises(
        ValueError, match="every prediction must have its gold answers; received 1 predictions, 0 golds"
    ):
        squad_v1(["x"], [])
    with pytest.raises(ValueError, match="every prediction must have a no-answer probability; received 1 and 0"):
        squad_v2(["x"], [["x"]], [])


@pytest.mark.parametrize("no_answer", [False, True])
def test_the_metrics_are_the_means_of_the_questions(no_answer: bool) -> None:
    exact, overlap = question_scores(PREDICTIONS, GOLDS, no_answer=no_answer)
    assert exact.tolist() == [1, 0, 0, float(no_answer), 0]
    assert overlap.tolist() == [1, 0, 0, float(no_answer), pytest.approx(2 / 3)]
    metrics = squad_v2(PREDICTIONS, GOLDS) if no_answer else squad_v1(PREDICTIONS, GOLDS)
    assert metrics["f1"] == 100 * overlap.mean()  # the same bits
    assert metrics["exact" if no_answer else "exact_match"] == 100 * exact.mean()


words = st.lists(st.sampled_from(["the", "a", "Oak", "oak", "—", "été", "3.5", "!", "杭州"]), max_size=5).map(" ".join)


def slow_v2(predictions: list[str], golds: list[list[str]], probability: list[float], threshold: float) -> dict:
    """By the definition's words: score every text, then every way of letting in the surest k texts."""

    def score(row: int, text: str, measure: Callable[[str, str], float]) -> float:
        real = [gold for gold in golds[row] if normalize_answer(gold)]
        return max(float(measure(text, gold)) for gold in real or [""])

    rows = range(len(golds))
    result = {}
    for name, measure in (("exact", exact_match), ("f1", f1)):
        kept = [predictions[row] if probability[row] <= threshold else "" for row in rows]
        result[name] = 100 * sum(score(row, kept[row], measure) for row in rows) / len(rows)
        by_sureness = sorted(rows, key=lambda row: probability[row])
        best = -1.0
        for let_in in range(len(rows) + 1):
            texts = dict.fromkeys(rows, "") | {row: predictions[row] for row in by_sureness[:let_in]}
            # The script counts any text for an unanswerable question as wrong, even one that normalises to nothing.
            total = sum(
                float(texts[row] == "") if not any(map(normalize_answer, golds[row])) else score(row, text, measure)
                for row, text in texts.items()
            )
            if total > best + 1e-9:
                best = total
                at = probability[by_sureness[let_in - 1]] if let_in else 0.0
        result[f"best_{name}"], result[f"best_{name}_thresh"] = 100 * best / len(rows), at
    return result


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(words, st.lists(words, max_size=3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=8
    ),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_v2_equals_the_slow_definition(rows: list[tuple[str, list[str], float]], threshold: float) -> None:
    predictions, golds, probability = (list(column) for column in zip(*rows, strict=True))
    found = squad_v2(predictions, golds, probability, threshold)
    for name, value in slow_v2(predictions, golds, probability, threshold).items():
        assert {**found, **found["oracle"]}[name] == pytest.approx(value), name


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([-2.0, -1.0, 0.0, 3.0, np.inf]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@settings(deadline=None)
def test_the_best_null_threshold_is_the_best_of_all(rows: list[tuple[float, float, bool]]) -> None:
    margins, answerable = (np.array([row[at] for row in rows]) for at in (1, 2))
    # A prediction without text scores 0 on answerable and 1 on unanswerable examples, at any threshold.
    scores = np.array([0.0 if np.isinf(margin) or not right else score for score, margin, right in rows])

    def scored(threshold: float) -> float:
        given = ~(margins > threshold) & np.isfinite(margins)
        return float(np.where(given, scores, ~answerable).sum())

    found = best_null_threshold(scores, margins, answerable)
    assert np.isfinite(found)
    assert scored(found) == max(scored(threshold) for threshold in (-9.0, -2.0, -1.0, 0.0, 3.0, 9.0))
