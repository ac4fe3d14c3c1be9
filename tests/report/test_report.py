"""The figures of `qa_fast.report`: groups, mistakes, risk, comparison; each against a slow or hand-made reference."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.report import groups, mistakes
from qa_fast.report.compare import aligned, compare, compare_groups, most_different
from qa_fast.report.risk import calibration, confidence_of, risk_coverage
from qa_fast.schema import Features
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.intervals import bootstrap_means, mean_interval, middle_95, wilson
from qa_fast.scoring.metrics import answerable_of, question_scores
from qa_fast.scoring.result import EvaluationResult
from tests.scoring.test_scoring import ANSWERABLE, HERON, WITH_NONE, make_split, oracle


def guesses(starts: dict[int, tuple[int, int]]) -> Any:
    """A model that sees, in the first window of an example, a span of its words first to last, and else no answer."""

    def predict(chunks: Sequence[Features]) -> Iterator[Any]:
        row = 0
        for chunk in chunks:
            for feature in range(len(chunk)):
                length = int(chunk.input_ids.lengths[feature])
                logits = np.zeros((2, 1, length), np.float32)
                example, window = int(chunk.example_index[feature]), int(chunk.window_index[feature])
                if example in starts and window == 0:
                    for side, word in enumerate(starts[example]):
                        logits[side, 0, chunk.context_start[feature] + word] = 5 + example / 10
                else:
                    logits[:, 0, 0] = 4
                yield SimpleNamespace(rows=np.array([row]), start_logits=logits[0], end_logits=logits[1], lengths=None)
                row += 1

    return predict


# "Grey herons nest in tall oaks beside …": too long; nothing; crossing; right; an answer to what has none.
GUESSES = {0: (0, 2), 2: (6, 7), 3: (4, 5), 4: (0, 1)}


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    return evaluate_split(guesses(GUESSES), make_split(WITH_NONE))


def scores(result: EvaluationResult) -> tuple[np.ndarray, np.ndarray]:
    return question_scores(result.predictions, result.golds.answers, no_answer=result.as_v2)


def test_wilson_by_published_figures() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)
    assert wilson(0.5, 0) == (0, 1)


def test_bootstrap_of_counts_is_the_bootstrap() -> None:
    generator = np.random.default_rng(1)
    values = generator.choice([0, 0.4, 0.5, 1], (300, 2), p=[0.2, 0.1, 0.1, 0.6])
    fast = bootstrap_means(values, 4000, seed=2)
    slow = np.array([values[generator.integers(0, 300, 300)].mean(axis=0) for _ in range(4000)])
    assert fast.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=2e-3)
    assert fast.std(axis=0) == pytest.approx(slow.std(axis=0), rel=0.05)
    assert np.corrcoef(fast.T)[0, 1] == pytest.approx(np.corrcoef(slow.T)[0, 1], abs=0.05)  # drawn together
    assert (fast == bootstrap_means(values, 4000, seed=2)).all()
    assert (fast != bootstrap_means(values, 4000, seed=3)).any()
    assert middle_95(fast[:, 0]) == pytest.approx(middle_95(slow[:, 0]), abs=6e-3)


def test_small_groups_get_the_wider_interval() -> None:
    assert mean_interval(np.ones(29), 0) == wilson(1, 29)
    assert mean_interval(np.ones(30), 0) == (1, 1)
    assert mean_interval(np.zeros(0), 0) == (0, 1)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("What was dug?", "what"),
        ("In which year was it lit?", "which"),
        ("To WHOM did she write?", "who"),
        ("Whose boat sank?", "who"),
        ("How  many boats?", "how many"),
        ("how much rope is left?", "how many"),
        ("How often, and why?", "how"),
        ("By the time when who came?", "when"),
        ("Name the whole harbour.", "other"),
        ("Wo steht der Leuchtturm?", "other"),
        ("灯塔在哪里？", "other"),
        ("Somewhat high?", "other"),
        ("What's a log-book?", "what"),
        ("", "other"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert groups.question_word(question) == word


def test_document_lengths_are_cut_at_quantiles() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(100)) + 1100
    grouping = groups.by_document_length(lengths)
    assert np.bincount(grouping.group).tolist() == [20] * 5
    assert grouping.names[0] == "1,100–1,119"
    assert [lengths[grouping.group == 4].min(), lengths[grouping.group == 4].max()] == [1180, 1199]
    same = groups.by_document_length(np.full(7, 30))
    assert (same.names, same.group.tolist()) == (("30",), [0] * 7)
    assert groups.by_document_length(np.array([1, 1, 1, 1, 1, 9])).names == ("1", "9")
    assert groups.by_document_length(np.zeros(0, np.int32)).names == ()


def test_answers_are_grouped_by_length_place_and_window() -> None:
    there = np.array([True, True, True, True, False])
    length = groups.by_answer_length(np.array([1, 4, 10, 11, 0]), there)
    assert [length.names[group] for group in length.group[:4]] == ["1", "4–5", "6–10", "11 and more"]
    assert length.group[4] == -1
    place = groups.by_place(np.array([0, 19, 20, 99, 0]), np.full(5, 100), there)
    assert place.group.tolist() == [0, 0, 1, 4, -1]
    assert place.names[0] == "0–20 %"
    assert groups.by_place(np.array([0]), np.array([0]), there[:1]).group.tolist() == [0]
    window = groups.by_window(np.array([0, 1, 2, 7, -1]), there)
    assert [window.names[group] for group in window.group[:4]] == [
        "first",
        "second",
        "third or later",
        "third or later",
    ]
    assert groups.by_window(np.array([-1]), there[:1]).names[3] == "none"


def test_every_question_counts_once_in_a_grouping(result: EvaluationResult) -> None:
    exact, overlap = scores(result)
    answerable = answerable_of(result.golds.answers)
    made = groups.groupings(result.golds, answerable, np.full(5, len(HERON)))
    assert [grouping.key for grouping in made] == [
        "question_word", "document_tokens", "answer_tokens", "answer_place", "answer_window", "answerable",
    ]  # fmt: skip
    for grouping in made:
        found = groups.grouped(grouping, exact, overlap)
        held = grouping.group >= 0
        assert (held == (answerable if grouping.key.startswith("answer_") else True)).all()
        assert sum(group.count for group in found) == held.sum()
        # Weighted by their counts, groups give the official score of what they hold.
        for name, values in (("exact_match", exact), ("f1", overlap)):
            total = sum(getattr(group, name) * group.count for group in found)
            assert total == pytest.approx(100 * values[held].sum())
    assert groups.groupings(
        evaluate_split(oracle, make_split(ANSWERABLE)).golds, np.ones(4, bool), np.full(4, 80)
    )[-1].key == "answer_window"  # fmt: skip


def test_a_groups_scores() -> None:
    group = groups.group_of("when", np.array([1.0, 0, 1, 1]), np.array([1.0, 0.5, 1, 1]))
    assert (group.name, group.count, group.exact_match, group.f1) == ("when", 4, 75, 87.5)
    assert group.exact_interval == pytest.approx([100 * bound for bound in wilson(0.75, 4)])


def test_kinds_of_mistakes(result: EvaluationResult) -> None:
    exact, _ = scores(result)
    assert result.predictions == ["Grey herons nest", "", "beside the", "3€ 😀", "Grey herons"]
    kind = mistakes.kinds_of(result, exact, answerable_of(result.golds.answers))
    assert kind.tolist() == [mistakes.LONG, mistakes.MISSING, mistakes.SHORT, mistakes.RIGHT, mistakes.UNWANTED]
    moved = evaluate_split(guesses({0: (1, 3), 1: (0, 0), 2: (4, 6), 3: (0, 0)}), make_split(ANSWERABLE))
    kind = mistakes.kinds_of(moved, scores(moved)[0], np.ones(4, bool))
    # The second gold answer of the first, "herons", is within the prediction.
    assert [list(mistakes.KINDS)[number] for number in kind] == ["too long", "elsewhere", "overlapping", "elsewhere"]
    assert len(mistakes.KINDS) == mistakes.ELSEWHERE + 1


def test_gold_answers_that_are_not_at_their_start_have_no_place() -> None:
    split = make_split(ANSWERABLE)
    assert split.examples is not None
    given = split.examples["answers"].to_pylist()
    # The second answer of the first question, and the only one of the last, which then no window is labelled with.
    given[0]["answer_start"][1], given[3]["answer_start"][0] = 80, 5
    examples = split.examples.set_column(3, "answers", pa.array(given, split.examples["answers"].type))
    chunks = [replace(chunk, start_positions=chunk.start_positions.copy()) for chunk in split.chunks]
    chunks[-1].start_positions[-1] = 0
    moved = evaluate_split(guesses({0: (4, 6), 3: (1, 2)}), replace(split, examples=examples, chunks=chunks))
    golds = moved.golds
    assert (golds.starts[0], golds.starts[3], golds.answer_tokens[3]) == ([0, -1], [-1], 0)
    assert golds.answers == [row["text"] for row in given]
    made = groups.groupings(golds, np.ones(4, bool), np.full(4, len(HERON)))
    left_out = {grouping.key for grouping in made if grouping.group[3] < 0}
    assert left_out == {"answer_tokens", "answer_place", "answer_window"}
    kind = mistakes.kinds_of(moved, np.zeros(4), np.ones(4, bool))
    assert [list(mistakes.KINDS)[kind[row]] for row in (0, 3)] == ["elsewhere", "elsewhere"]


def test_which_mistakes_are_shown_and_in_which_order() -> None:
    kind = np.array([mistakes.RIGHT, mistakes.ELSEWHERE, mistakes.ELSEWHERE, mistakes.LONG, mistakes.MISSING, 6, 5])
    overlap = np.array([0, 0, 0.4, 0, 0, 0, 0.9])  # the first: v1.1's "the" for "a", right without a word in common
    confidence = np.array([1, 0.2, 0.3, 0.8, 0.9, 0.9, 0.1])
    assert mistakes.confident_errors(kind, overlap, confidence).tolist() == [4, 5, 1]
    assert mistakes.near_misses(kind, overlap, confidence).tolist() == [3, 2, 6]


def test_right_answers_further_down(result: EvaluationResult) -> None:
    exact, _ = scores(result)
    answerable = answerable_of(result.golds.answers)
    within = dict(mistakes.right_within(result, exact, answerable, (1, 20, 500)))
    assert within[1] == 25  # one of four
    assert set(within) == {1, 20}
    texts = [[item["text"] for item in listed if item["text"]][:20] for _, listed in result.n_best(range(4))]
    by_hand = [any(text in gold for text in found) for found, gold in zip(texts, result.golds.answers, strict=False)]
    assert within[20] == 25 * sum(by_hand)


def test_the_candidates_of_one_question_are_those_of_the_nbest_file(result: EvaluationResult) -> None:
    for row, (name, listed) in enumerate(result.n_best()):
        assert list(result.n_best([row])) == [(name, listed)]


def test_confidence_is_that_of_the_prediction(result: EvaluationResult) -> None:
    confidence = confidence_of(result)
    for row, (_, listed) in enumerate(result.n_best()):
        (share,) = [item["probability"] for item in listed if item["text"] == result.predictions[row]]
        assert confidence[row] == pytest.approx(share)
    unread = EvaluationResult(**{**vars(result), "spans": empty_first(result)})
    assert confidence_of(unread)[0] == 0


def empty_first(result: EvaluationResult) -> Any:
    columns = {name: column.copy() for name, column in vars(result.spans).items()}
    for name in ("count", "windows", "null_start_logit", "null_end_logit"):
        columns[name][0] = 0
    return type(result.spans)(**columns)


def test_risk_and_coverage_by_hand() -> None:
    curve = risk_coverage(np.array([0.2, 0.9, 0.5, 0.7]), np.array([1.0, 0, 1, 0]))
    assert curve.confidence.tolist() == [0.9, 0.7, 0.5, 0.2]
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert curve.aurc == curve.ideal == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert curve.excess == 0
    assert curve.at([0.5, 0.51, 1]) == [(0.5, 2, 0.7, 0), (0.51, 3, 0.5, pytest.approx(1 / 3)), (1, 4, 0.2, 0.5)]
    worst = risk_coverage(np.array([0.2, 0.9, 0.5, 0.7]), np.array([0.0, 1, 0, 1]))
    assert worst.excess == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4 - (1 / 3 + 1 / 2) / 4)
    empty = risk_coverage(np.zeros(0), np.zeros(0))
    assert (empty.aurc, empty.at([1.0])) == (0, [])


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=9))
def test_ties_of_confidence_count_as_in_all_their_orders(pairs: list[tuple[float, float]]) -> None:
    confidence, loss = np.array(pairs).T
    curve = risk_coverage(confidence, loss)
    turned = risk_coverage(confidence[::-1], loss[::-1])
    assert curve.risk == pytest.approx(turned.risk)
    generator = np.random.default_rng(0)
    runs = []
    for _ in range(300):
        order = np.lexsort((generator.random(len(loss)), -confidence))
        runs.append(np.cumsum(loss[order]) / np.arange(1, len(loss) + 1))
    assert curve.risk == pytest.approx(np.mean(runs, axis=0), abs=0.12)
    assert curve.ideal <= curve.aurc + 1e-12


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.05, 0.95, 0.95, 1.0]), np.array([0.0, 1, 0, 1]))
    assert found.count.tolist() == [1] + [0] * 8 + [3]
    assert found.accuracy[9] == pytest.approx(2 / 3)
    assert found.confidence[9] == pytest.approx(2.9 / 3)
    assert found.error == pytest.approx((0.05 + 0.9) / 4)
    assert calibration(np.zeros(0), np.zeros(0)).error == 0


def test_a_paired_comparison_sees_what_two_intervals_do_not() -> None:
    generator = np.random.default_rng(4)
    other = (generator.random(2000) < 0.7).astype(float)
    exact = other.copy()
    exact[np.flatnonzero(other == 0)[:20]] = 1  # better on 20 questions, worse on 4
    exact[np.flatnonzero(other == 1)[:4]] = 0
    found = compare(exact, exact, other, other)
    assert found.exact_match.points == pytest.approx(0.8)
    assert (found.wins, found.losses, found.ties) == (20, 4, 1976)
    # The mean of 2,000 with 20 of 1 and 4 of -1: its standard error is sqrt(24/2000 - 0.008²)/sqrt(2000) = 0.244 %.
    low, high = found.f1.interval
    assert (low, high) == pytest.approx((0.8 - 1.96 * 0.244, 0.8 + 1.96 * 0.244), abs=0.05)
    assert 0 < found.f1.p_value < 0.01
    assert wilson(float(exact.mean()), 2000)[0] < float(other.mean())  # the single intervals overlap


def test_a_comparison_is_symmetric_and_of_equals_is_0() -> None:
    generator = np.random.default_rng(5)
    one, two = generator.choice([0, 0.5, 1], (2, 200))
    forth, back = compare(np.floor(one), one, np.floor(two), two), compare(np.floor(two), two, np.floor(one), one)
    assert forth.f1.points == pytest.approx(-back.f1.points)
    assert (forth.wins, forth.losses) == (back.losses, back.wins)
    same = compare(one, one, one, one)
    assert (same.f1.interval, same.f1.p_value, same.ties) == ((0, 0), 1, 200)
    nothing = compare(*np.zeros((4, 0)))
    assert (nothing.f1.points, nothing.f1.p_value) == (0, 1)
    with pytest.raises(ValueError, match="on the same questions; received 200 and 199 scores"):
        compare(one, one, one[1:], one[1:])


def test_a_comparison_of_a_whole_split_is_quick() -> None:
    generator = np.random.default_rng(6)
    values = np.array([0, 1, *{a / b for b in range(2, 12) for a in range(1, b)}])
    draws = generator.choice(values, (2, 10570))
    started = time.process_time()
    found = compare(np.floor(draws[0]), draws[0], np.floor(draws[1]), draws[1], 10_000)
    assert time.process_time() - started < 4  # 1 s alone; unlike real models these are never equal
    expected = (draws[0] - draws[1]).std() / math.sqrt(10570)
    assert np.diff(found.f1.interval)[0] == pytest.approx(2 * 1.96 * 100 * expected, rel=0.05)


def test_a_group_is_compared_where_it_is_large_enough() -> None:
    generator = np.random.default_rng(7)
    one, two = generator.choice([0, 0.5, 1], (2, 60))
    grouping = groups.Grouping("key", "title", "rule", ("all", "none"), np.zeros(60, np.int64))
    (group,) = compare_groups(grouping, one, two)
    assert (group.name, group.count) == ("all", 60)
    found = group.f1
    assert found is not None
    assert found.points == pytest.approx(100 * (one - two).mean())
    whole = compare(one, one, two, two).f1
    assert found.interval == pytest.approx(whole.interval, abs=1.5)  # fewer resamples of the same
    small = replace(grouping, group=np.where(np.arange(60) < 29, 0, -1))
    assert [(each.count, each.f1) for each in compare_groups(small, one, two)] == [(29, None)]


def test_where_two_models_differ_most() -> None:
    one, two = np.array([1, 0.5, 0, 0, 1, 1]), np.array([1, 0, 1, 0.2, 0, 0])
    better, worse = most_different(one, two, np.array([0.9, 0.9, 0.5, 0.5, 0.1, 0.3]), 2)
    assert better.tolist() == [5, 4]
    assert worse.tolist() == [2, 3]
    assert most_different(one, two, one, 0)[0].tolist() == []


def test_answers_of_another_model_are_put_in_order() -> None:
    assert aligned(["b", "a"], {"a": "1", "b": "2", "c": "3"}, "other") == ["2", "1"]
    with pytest.raises(UserError, match=r"other has no answer to 2 of 3 \(id=x is the first\): evaluate it with --out"):
        aligned(["a", "x", "y"], {"a": "1"}, "other")


def test_few_questions_that_are_all_won_show_no_certain_difference() -> None:
    for count, least in ((1, 0.3), (3, 0.1), (5, 0.05)):
        won, lost = np.ones(count), np.zeros(count)
        made = compare(won, won, lost, lost)
        assert made.f1.points == 100
        assert made.f1.interval[0] < made.f1.interval[1]
        assert made.f1.p_value > least
