from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.buffers import offsets_of
from qa_fast.schema import Ragged
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.golds import has_unanswerable, tokens_touched
from qa_fast.shards import Split
from tests.scoring.test_scoring import ANSWERABLE, HERON, WITH_NONE, make_split, oracle


def test_questions_and_the_places_of_their_answers() -> None:
    golds = evaluate_split(oracle, make_split(WITH_NONE)).golds
    assert len(golds) == 5
    assert golds.questions == [question for _, question, _, _ in WITH_NONE]
    assert golds.answers == [answers for *_, answers in WITH_NONE]
    assert golds.starts[0] == [0, HERON.index("herons")]
    assert golds.starts[-1] == []
    words = len(HERON.split(" "))
    assert golds.document_tokens.tolist() == [words, words, words, 7, words]
    assert golds.answer_tokens.tolist() == [2, 3, 4, 2, 0]
    # Windows of 8 words that share 4: "the frost comes" ends at the last word, "beside the mill pond" begins at word 7.
    assert golds.window.tolist() == [0, (words - 8 + 3) // 4, 1, 0, -1]


def test_a_sample_of_examples_keeps_its_answers() -> None:
    split = make_split(WITH_NONE)
    whole, some = (evaluate_split(oracle, split, max_examples=count, seed=1) for count in (None, 3))
    rows = [whole.ids.index(name) for name in some.ids]
    assert some.golds.questions == [whole.golds.questions[row] for row in rows]
    for name in ("document_tokens", "answer_tokens", "window"):
        assert getattr(some.golds, name).tolist() == getattr(whole.golds, name)[rows].tolist()


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=5), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 8)), max_size=6),
)
def test_tokens_touched_equals_counting_them(
    documents: list[list[tuple[int, int]]], spans: list[tuple[int, int, int]]
) -> None:
    tokens = []
    for document in documents:  # (gap, length) of each token
        at, row = 0, []
        for gap, length in document:
            row.append((at + gap, at + gap + length))
            at = row[-1][1]
        tokens.append(row)
    offsets = offsets_of(np.array([len(row) for row in tokens]))
    flat = np.array([token for row in tokens for token in row], np.int32).reshape(-1, 2)
    spans = [(document % len(tokens), start, start + length) for document, start, length in spans]
    document, begin, end = np.array(spans, np.int64).reshape(-1, 3).T
    found = tokens_touched(Ragged(flat[:, 0], offsets), Ragged(flat[:, 1], offsets), document, begin, end)
    assert found.tolist() == [sum(max(a, b) < min(c, d) for b, d in tokens[row]) for row, a, c in spans]


def test_a_split_tells_whether_a_question_has_no_answer() -> None:
    assert has_unanswerable(make_split(WITH_NONE))
    assert not has_unanswerable(make_split(ANSWERABLE))
    split = make_split(ANSWERABLE)
    assert not has_unanswerable(Split("train", split.chunks, split.ids))
