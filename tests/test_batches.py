"""Batches: every feature once, little padding, a pure function of its arguments, cut as the obvious way would."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.batches import BatchCutter, batches_of, bucket_widths, prediction_plan, prefetch, training_plan
from qa_fast.buffers import offsets_of
from qa_fast.schema import Ragged
from tests.small_models import make_features, squad_like_lengths

chunks_of_lengths = st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=4)


@settings(max_examples=60, deadline=None)
@given(chunks=chunks_of_lengths, types=st.booleans(), rows=st.lists(st.integers(-1, 60), min_size=1, max_size=9))
def test_batches_are_cut_as_the_obvious_way_would(chunks: list[list[int]], types: bool, rows: list[int]) -> None:
    features = [make_features(lengths, types=types, seed=i, shift=i) for i, lengths in enumerate(chunks)]
    if types:  # every other chunk has further labels: 0, 1 or 2 in turn
        for number in range(0, len(features), 2):
            counts = np.arange(len(features[number])) % 3
            further = Ragged(np.arange(5 + 2 * counts.sum(), dtype=np.int32), 5 + offsets_of(2 * counts))
            features[number] = replace(features[number], further=further)
    flat = [(chunk, row) for chunk in features for row in range(len(chunk))]
    wanted = np.array([row if row < len(flat) else -1 for row in rows], np.int64)
    batch = BatchCutter(features, pad_id=1).cut(wanted, 48)
    assert batch.input_ids.shape == batch.token_type_ids.shape == (len(rows), 48)
    for b, row in enumerate(wanted):
        if row < 0:
            assert batch.lengths[b] == 1
            assert (batch.input_ids[b] == 1).all()
            assert batch.starts[b] == batch.ends[b] == -1
            assert (batch.further[b] == -1).all()
            continue
        chunk, local = flat[row]
        ids = chunk.input_ids[local]
        assert batch.lengths[b] == len(ids)
        assert batch.input_ids[b].tolist() == [*ids, *[1] * (48 - len(ids))]
        kinds = chunk.token_type_ids[local] if types else np.zeros(len(ids))
        assert batch.token_type_ids[b].tolist() == [*kinds, *[0] * (48 - len(ids))]
        assert batch.starts[b] == chunk.start_positions[local]
        assert batch.ends[b] == chunk.end_positions[local]
        more = [] if chunk.further is None else chunk.further[local].reshape(-1, 2).tolist()
        assert [pair for pair in batch.further[b].T.tolist() if pair != [-1, -1]] == more


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=150),
    batch_size=st.integers(1, 20),
    pool=st.integers(1, 5),
    fixed=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_an_epoch_sees_every_feature_once(
    lengths: list[int], batch_size: int, pool: int, fixed: bool, epoch: int
) -> None:
    array = np.array(lengths, np.int32)
    selected = np.flatnonzero(array % 3 != 0) if len(lengths) > 20 else np.arange(len(lengths))
    widths = np.array([200], np.int32) if fixed else bucket_widths(array, 4)
    plan = training_plan(array, selected, batch_size, 7, epoch, widths, pool_batches=pool)
    seen = np.concatenate(plan.rows) if len(plan) else np.zeros(0, int)
    assert sorted(seen[seen >= 0]) == sorted(selected)
    assert all(len(rows) == batch_size for rows in plan.rows)
    assert all((rows >= 0).all() for rows in plan.rows[:-1])
    for rows, width in zip(plan.rows, plan.widths, strict=True):
        assert array[rows[rows >= 0]].max() <= width
        assert width in widths


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = squad_like_lengths(1000)
    widths = bucket_widths(lengths)

    def order(seed: int, epoch: int) -> list[int]:
        plan = training_plan(lengths, np.arange(1000), 16, seed, epoch, widths)
        return np.concatenate(plan.rows).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_padding_is_a_few_percent_and_shapes_are_few() -> None:
    lengths = squad_like_lengths(20_000)
    widths = bucket_widths(lengths)
    plan = training_plan(lengths, np.arange(len(lengths)), 16, 0, 0, widths)
    padded = 16 * plan.widths.astype(int).sum()
    assert len(set(plan.widths.tolist())) <= 12
    assert 1 - lengths.sum() / padded < 0.08
    # Neighbouring batches are not sorted: an epoch does not go from short to long.
    assert abs(np.corrcoef(plan.widths[:-1], plan.widths[1:])[0, 1]) < 0.15


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(0, 90), max_size=40), count=st.integers(1, 4))
def test_widths_pad_least(lengths: list[int], count: int) -> None:
    from itertools import combinations

    array = np.array(lengths, np.int32)
    widths = bucket_widths(array, count, 16)
    assert (np.diff(widths) > 0).all()
    assert 1 <= len(widths) <= count
    assert widths[-1] >= array.max(initial=0)

    def padded(chosen: np.ndarray) -> int:
        return int(chosen[np.searchsorted(chosen, array)].sum())

    top = max(16, -(-int(array.max(initial=1)) // 16) * 16)
    others = range(16, top, 16)
    best = min(
        padded(np.array([*some, top])) for size in range(count) for some in combinations(others, min(size, len(others)))
    )
    assert padded(widths) <= best


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 384), max_size=200), tokens=st.sampled_from([1, 500, 8192]))
def test_prediction_sees_every_feature_once_in_few_shapes(lengths: list[int], tokens: int) -> None:
    array = np.array(lengths, np.int32)
    widths = bucket_widths(array)
    plan = prediction_plan(array, tokens, widths)
    seen = np.concatenate([np.zeros(0, int), *plan.rows])
    assert sorted(seen[seen >= 0]) == list(range(len(lengths)))
    for rows, width in zip(plan.rows, plan.widths, strict=True):
        assert (rows >= 0).sum() * 2 > len(rows)  # less than half of a batch is padding rows
        assert len(rows) * width <= max(tokens, width)
        assert array[rows[rows >= 0]].max() <= width
        assert len(rows).bit_count() == 1


def test_batches_come_in_order_from_any_place() -> None:
    features = [make_features([5, 9, 3]), make_features([7, 2], seed=1)]
    cutter = BatchCutter(features, 0)
    plan = training_plan(cutter.lengths, np.arange(5), 2, 0, 0, bucket_widths(cutter.lengths))
    whole = list(batches_of(cutter, plan))
    assert len(whole) == 3
    for batch, rows in zip(whole, plan.rows, strict=True):
        np.testing.assert_array_equal(batch.rows, rows)
    for ours, theirs in zip(batches_of(cutter, plan, first=1), whole[1:], strict=True):
        np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
        np.testing.assert_array_equal(ours.token_type_ids, theirs.token_type_ids)
        np.testing.assert_array_equal(ours.starts, theirs.starts)


def test_prefetch_keeps_order_passes_errors_on_and_leaves_no_thread() -> None:
    threads = threading.active_count()
    assert list(prefetch(lambda number: number * number, 2, 30)) == [n * n for n in range(2, 30)]

    asked = []

    def fail(number: int) -> int:
        asked.append(number)
        if number == 3:
            raise ValueError("at three")
        return number

    failing = prefetch(fail, 0, 10)
    assert [next(failing) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="at three"):
        next(failing)
    assert asked == [0, 1, 2, 3]
    stream = prefetch(lambda number: number, 0, 1000)
    assert next(stream) == 0
    stream.close()
    assert threading.active_count() == threads
