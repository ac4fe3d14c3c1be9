from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.infer.decode import DEFAULT_N_BEST, BestSpans, ContextWindows, SpanDecoder, find_cls, windows_of
from qa_fast.schema import Features, Ragged


def load_reference() -> Any:
    path = Path(__file__).parents[2] / "bench" / "postprocess_reference.py"
    spec = importlib.util.spec_from_file_location("postprocess_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_reference()


class Case:
    """Random documents in overlapping windows with logits, as input of the kernel and of the reference."""

    def __init__(
        self,
        seed: int,
        documents: int,
        room: int,
        overlap: int,
        levels: int | None,
        shared: bool = False,
        longest: int | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        example, context_start, context_end, cls, first_token = [], [], [], [], []
        char_start: list[int] = []
        char_end: list[int] = []
        for document in range(documents):
            tokens = int(rng.integers(0, longest or 3 * room))
            begin = len(char_start)
            at = 0
            for _ in range(tokens):
                # With `shared`, tokens may cover the same characters (bytes of one emoji) or none (zero width).
                width = int(rng.integers(0, 3)) if shared else int(rng.integers(1, 4))
                back = int(rng.integers(0, 2)) if shared and char_start[begin:] else 0
                char_start.append(max(at - back, 0))
                char_end.append(at + width)
                at += width + int(rng.integers(0, 2))
            question, step = int(rng.integers(1, 4)), room - overlap
            for start in range(0, max(tokens - overlap, 1), step):
                stop = min(start + room, tokens)
                example.append(document)
                context_start.append(question + 2)
                context_end.append(question + 2 + stop - start)
                cls.append(int(rng.integers(0, 2)))
                first_token.append(begin + start)
        self.examples = documents
        self.char_start, self.char_end = np.array(char_start, np.int32), np.array(char_end, np.int32)
        columns = (np.array(column, np.int32) for column in (example, context_start, context_end, cls))
        self.windows = ContextWindows(*columns, np.array(first_token, np.int64))
        shape = (len(example), room + 8)
        if levels is None:
            self.starts, self.ends = (rng.normal(0, 4, shape).astype(np.float32) for _ in range(2))
        else:  # few distinct values: ties everywhere
            self.starts, self.ends = (rng.integers(0, levels, shape).astype(np.float32) for _ in range(2))
        self.rows = [
            {
                "example": example[row],
                "context_start": context_start[row],
                "context_end": context_end[row],
                "cls": cls[row],
                "offsets": {
                    context_start[row] + i: (char_start[first_token[row] + i], char_end[first_token[row] + i])
                    for i in range(context_end[row] - context_start[row])
                },
            }
            for row in range(len(example))
        ]

    def decoder(self, n_best: int, max_answer_length: int, threads: int = 1) -> SpanDecoder:
        return SpanDecoder(
            self.windows, self.char_start, self.char_end, self.examples, n_best, max_answer_length, threads
        )

    def decode(self, n_best: int, max_answer_length: int, batch: int = 1000, seed: int | None = None) -> BestSpans:
        decoder = self.decoder(n_best, max_answer_length)
        order = np.arange(len(self.rows)) if seed is None else np.random.default_rng(seed).permutation(len(self.rows))
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            decoder.add(rows, self.starts[rows], self.ends[rows])
        return decoder.result()


def as_lists(found: BestSpans) -> list[dict[str, Any]]:
    result = []
    for example in range(len(found)):
        columns = (found.score, found.char_start, found.char_end, found.start_logit, found.end_logit)
        spans = list(zip(*(column[example, : found.count[example]].tolist() for column in columns), strict=True))
        null = (float(found.null_start_logit[example]), float(found.null_end_logit[example]))
        result.append({"null": null if found.windows[example] else None, "spans": spans})
    return result


def as_floats(expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "null": None if item["null"] is None else tuple(map(float, item["null"])),
            "spans": [tuple(float(v) if i in (0, 3, 4) else int(v) for i, v in enumerate(s)) for s in item["spans"]],
        }
        for item in expected
    ]


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    documents=st.integers(1, 4),
    room=st.integers(3, 12),
    overlap=st.integers(0, 2),
    levels=st.sampled_from([None, 1, 2, 5]),
    shared=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(cases, st.integers(1, 30), st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_equals_the_exhaustive_search(case: Case, n_best: int, longest: int, batch: int, seed: int) -> None:
    expected = reference.exhaustive(case.examples, case.rows, case.starts, case.ends, n_best, longest)
    assert as_lists(case.decode(n_best, longest, batch, seed)) == as_floats(expected)


@settings(max_examples=100, deadline=None)
@given(cases, st.integers(1, 20), st.integers(1, 8), st.data())
def test_passes_over_logits_that_are_not_finite(case: Case, n_best: int, longest: int, data: st.DataObject) -> None:
    if len(case.rows) == 0:
        return
    for logits in (case.starts, case.ends):
        for _ in range(data.draw(st.integers(0, 12))):
            row = data.draw(st.integers(0, len(case.rows) - 1))
            position = data.draw(st.integers(2, logits.shape[1] - 1))  # CLS is at 0 or 1
            logits[row, position] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with np.errstate(invalid="ignore"):
        expected = reference.exhaustive(case.examples, case.rows, case.starts, case.ends, n_best, longest)
    # A twin whose score is infinite twice over ties on the score alone, so compare scores and characters.
    found = [[span[:3] for span in item["spans"]] for item in as_lists(case.decode(n_best, longest))]
    assert found == [[span[:3] for span in item["spans"]] for item in as_floats(expected)]


def test_threads_give_the_same_bits() -> None:
    case = Case(seed=7, documents=900, room=12, overlap=3, levels=4)
    alone, together = case.decoder(8, 6, threads=1), case.decoder(8, 6, threads=4)
    order = np.random.default_rng(0).permutation(len(case.rows))
    assert len(order) > 2 * 512
    for decoder in (alone, together):
        decoder.add(order, case.starts[order], case.ends[order])
    one, many = alone.result(), together.result()
    for name, column in vars(one).items():
        assert column.tobytes() == getattr(many, name).tobytes(), name


def test_finds_nothing_the_well_known_postprocessing_ranks_higher() -> None:
    """It looks only at the 20 best starts and ends; our results are at least as good, and most are equal."""
    case = Case(seed=3, documents=60, room=40, overlap=8, levels=None)
    case.windows = ContextWindows(**{**vars(case.windows), "cls_position": np.zeros(len(case.rows), np.int32)})
    text = "".join(chr(ord("a") + i % 26) for i in range(5000))
    examples = [{"id": str(example), "context": text} for example in range(case.examples)]
    features = [
        {
            "example_id": str(row["example"]),
            "offset_mapping": [row["offsets"].get(position) for position in range(case.starts.shape[1])],
        }
        for row in case.rows
    ]
    predictions, nbest, differences = reference.postprocess(examples, features, case.starts, case.ends, with_null=True)
    found = case.decode(20, 30)
    margin = found.null_margin()
    same = 0
    for example in range(case.examples):
        theirs = next((span for span in nbest[str(example)] if span["text"] not in ("", "empty")), None)
        if theirs is None:
            continue
        score = theirs["start_logit"] + theirs["end_logit"]
        assert found.score[example, 0] >= score - 1e-5
        if abs(found.score[example, 0] - score) < 1e-5:
            same += 1
            begin, end = found.char_start[example, 0], found.char_end[example, 0]
            ours = "" if margin[example] > 0 else text[begin:end]
            assert predictions[str(example)] == ours
            assert differences[str(example)] == pytest.approx(margin[example], abs=1e-4)
    assert same > 50


def test_probabilities_equal_the_well_known_ones_where_one_window_holds_all() -> None:
    case = Case(seed=5, documents=30, room=14, overlap=0, levels=None, longest=14)
    case.windows = ContextWindows(**{**vars(case.windows), "cls_position": np.zeros(len(case.rows), np.int32)})
    examples = [{"id": str(example), "context": "x" * 100} for example in range(case.examples)]
    features = [
        {"example_id": str(row["example"]), "offset_mapping": [row["offsets"].get(p) for p in range(22)]}
        for row in case.rows
    ]
    _, nbest, _ = reference.postprocess(examples, features, case.starts, case.ends, n_best_size=30)
    found = case.decode(30, 30)
    spans, null = found.probabilities()
    for example in range(case.examples):
        if found.count[example]:
            expected = np.array([span["probability"] for span in nbest[str(example)]])  # among the spans alone
            expected /= expected[:DEFAULT_N_BEST].sum()
            assert spans[example, : found.count[example]] / (1 - null[example]) == pytest.approx(expected, rel=1e-4)
        else:
            assert null[example] == 1


def one_window(starts: list[float], ends: list[float], n_best: int = 5, longest: int = 10) -> BestSpans:
    """CLS, one question token, SEP, then context tokens of three characters each."""
    tokens = len(starts) - 4
    windows = ContextWindows(*(np.array([v], np.int32) for v in (0, 3, 3 + tokens, 0)), np.array([0]))
    chars = 4 * np.arange(tokens)
    decoder = SpanDecoder(windows, chars, chars + 3, 1, n_best, longest)
    decoder.add(np.array([0]), np.array([starts], np.float32), np.array([ends], np.float32))
    return decoder.result()


@pytest.mark.parametrize("position", [3, 5])
def test_an_answer_at_the_first_and_at_the_last_token_is_found(position: int) -> None:
    logits = [0.0] * 7
    logits[position] = 9.0
    found = one_window(logits, logits)
    assert (found.char_start[0, 0], found.char_end[0, 0]) == (4 * (position - 3), 4 * (position - 3) + 3)
    assert found.score[0, 0] == 18


def test_the_question_and_padding_are_never_an_answer() -> None:
    found = one_window([1, 99, 99, 0, 0, 0, 99], [1, 99, 99, 0, 0, 0, 99], n_best=20)
    assert found.count[0] == 6
    assert (found.score[0, :6] == 0).all()
    assert found.null_score[0] == 2


def test_start_and_end_are_scored_jointly() -> None:
    # The best end is before the best start: alone, neither pairs with the other.
    found = one_window([0, 0, 0, 1, 0, 8, 0], [0, 0, 0, 7, 0, 2, 0])
    assert found.score[0, :2].tolist() == [10, 8]
    assert found.char_start[0, :2].tolist() == [8, 0]


def test_ties_go_to_the_earlier_then_the_shorter_span() -> None:
    found = one_window([0.0] * 7, [0.0] * 7)
    assert found.char_start[0].tolist() == [0, 0, 0, 4, 4]
    assert found.char_end[0].tolist() == [3, 7, 11, 7, 11]


def test_answers_are_no_longer_than_asked() -> None:
    found = one_window([0.0] * 8, [0.0] * 8, n_best=50, longest=2)
    assert found.count[0] == 7
    assert ((found.char_end - found.char_start)[0, :7] <= 7).all()


def test_a_window_of_no_tokens_has_only_the_null() -> None:
    found = one_window([1, 0, 0, 5], [2, 0, 0, 5])
    spans, null = found.probabilities()
    assert found.count[0] == 0
    assert null[0] == 1
    assert not spans.any()
    assert found.null_margin()[0] == np.inf


def test_overlapping_windows_fill_the_list_with_distinct_spans() -> None:
    # Two windows over the same three tokens, the second surer of the last.
    windows = ContextWindows(
        np.zeros(2, np.int32), np.full(2, 1, np.int32), np.full(2, 4, np.int32), np.zeros(2, np.int32), np.zeros(2, int)
    )
    decoder = SpanDecoder(windows, np.array([0, 2, 4]), np.array([1, 3, 5]), 1, n_best=6)
    logits = np.array([[3, 1, 2, 3], [1, 1, 2, 5]], np.float32)
    decoder.add(np.array([0, 1]), logits, logits)
    found = decoder.result()
    spans = list(zip(found.char_start[0].tolist(), found.char_end[0].tolist(), strict=True))
    assert len(set(spans)) == found.count[0] == 6
    assert spans[0] == (4, 5)
    assert found.score[0, 0] == 10
    assert found.null_score[0] == 2  # the least over the windows
    assert found.windows[0] == 2


def test_probabilities_stand_on_one_scale() -> None:
    case = Case(seed=11, documents=40, room=10, overlap=2, levels=None)
    spans, null = case.decode(7, 5).probabilities()
    assert spans.sum(axis=1) + null == pytest.approx(np.ones(case.examples))


def test_windows_of_features_and_cls_behind_the_context() -> None:
    offsets = np.array([0, 4, 9])
    features = Features(
        input_ids=Ragged(np.array([7, 3, 1, 9, 5, 6, 3, 1, 9], np.int32), offsets),
        token_type_ids=None,
        start_positions=np.zeros(2, np.int32),
        end_positions=np.zeros(2, np.int32),
        example_index=np.array([1, 1], np.int32),
        window_index=np.array([0, 1], np.int32),
        context_start=np.array([1, 1], np.int32),
        context_end=np.array([2, 3], np.int32),
        document_token_start=np.array([0, 4], np.int32),
    )
    assert find_cls(features, 9).tolist() == [3, 4]
    assert find_cls(features, 3).tolist() == [1, 2]
    assert find_cls(features, 8).tolist() == [0, 0]
    windows = windows_of([features, features], np.array([100, 200]), np.array([3, 4, 3, 4]))
    assert windows.first_token.tolist() == [200, 204, 200, 204]
    assert windows.cls_position.tolist() == [3, 4, 3, 4]
    assert len(windows_of([], np.zeros(0, np.int64))) == 0


def test_batches_are_merged_as_they_come() -> None:
    case = Case(seed=1, documents=3, room=9, overlap=2, levels=None)
    decoder = case.decoder(5, 9)
    for row in range(len(case.rows)):
        decoder.add(np.array([row]), case.starts[row : row + 1], case.ends[row : row + 1])
    assert as_lists(decoder.result()) == as_lists(case.decode(5, 9))


@pytest.mark.parametrize(("n_best", "longest"), [(0, 5), (5, 0)])
def test_sizes_must_be_positive(n_best: int, longest: int) -> None:
    with pytest.raises(UserError, match=r"must be at least 1; received \w+=0"):
        Case(1, 1, 5, 1, None).decoder(n_best, longest)


def test_nan_at_cls_is_an_error() -> None:
    with pytest.raises(UserError, match="logits must be finite; received NaN or infinity at CLS for 1 of 1 examples"):
        one_window([np.nan, 0, 0, 0, 0], [0.0] * 5)


def test_batches_must_fit() -> None:
    case = Case(seed=1, documents=2, room=9, overlap=2, levels=None)
    decoder = case.decoder(5, 5)
    decoder.add(np.zeros(0, int), np.zeros((0, 4)), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="one row for each feature"):
        decoder.add(np.array([0, 1]), case.starts[:1], case.ends[:1])
    with pytest.raises(ValueError, match=r"rows must be in \[0, "):
        decoder.add(np.array([len(case.rows)]), case.starts[:1], case.ends[:1])
    with pytest.raises(ValueError, match="logits must cover their features"):
        decoder.add(np.array([0]), case.starts[:1, :1], case.ends[:1, :1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"example": np.array([5], np.int32)}, "must belong to examples"),
        ({"context_end": np.array([1], np.int32)}, "0 <= context_start <= context_end"),
        ({"first_token": np.array([9])}, "must be inside the 3 context tokens"),
    ],
)
def test_windows_must_be_sound(change: dict[str, np.ndarray], message: str) -> None:
    good = {name: np.array([value], np.int32) for name, value in (("example", 0), ("context_start", 2))}
    good |= {"context_end": np.array([5], np.int32), "cls_position": np.array([0], np.int32)}
    good["first_token"] = np.array([0])
    SpanDecoder(ContextWindows(**good), np.arange(3), np.arange(3) + 1, 1)
    with pytest.raises(ValueError, match=message):
        SpanDecoder(ContextWindows(**{**good, **change}), np.arange(3), np.arange(3) + 1, 1)
    with pytest.raises(ValueError, match="must have one length"):
        SpanDecoder(ContextWindows(**good), np.arange(3), np.arange(4), 1)
