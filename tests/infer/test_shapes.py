from __future__ import annotations

import numpy as np
import pytest

from qa_fast.infer.shapes import Fixed
from tests.small_models import TINY_BERT, make_features, tiny_model


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global KerasEngine, fixed
    pytest.importorskip("keras")
    from qa_fast.infer.keras_engine import KerasEngine, fixed


@pytest.fixture(scope="module")
def engine() -> KerasEngine:
    model = tiny_model(TINY_BERT | {"max_position_embeddings": 80})
    return KerasEngine(model, fixed(model, batch_tokens=320))


def test_logits_are_the_same_at_fixed_widths(engine: KerasEngine) -> None:
    features = make_features([5, 64, 17, 65, 3, 60, 80, 12, 40, 33])
    plain = {
        int(row): (batch.start_logits[at, : batch.lengths[at]], batch.end_logits[at, : batch.lengths[at]])
        for batch in KerasEngine(engine.model).predict([features])
        for at, row in enumerate(batch.rows)
    }
    seen, met = [], []
    for batch in engine.predict([features]):
        met.append(batch.start_logits.shape)
        for at, row in enumerate(batch.rows.tolist()):
            seen.append(row)
            assert batch.start_logits[at, : batch.lengths[at]] == pytest.approx(plain[row][0], abs=1e-4)
            assert batch.end_logits[at, : batch.lengths[at]] == pytest.approx(plain[row][1], abs=1e-4)
    assert sorted(seen) == list(range(10))
    assert met == [(4, 64), (4, 64), (2, 80)]


def test_after_warming_up_no_shape_is_new(monkeypatch: pytest.MonkeyPatch, engine: KerasEngine) -> None:
    met: set[tuple[int, ...]] = set()
    compute = engine._function("compiled")

    def noting(ids: np.ndarray, *rest: np.ndarray) -> object:
        met.add(ids.shape)
        return compute(ids, *rest)

    monkeypatch.setattr(engine, "_functions", dict.fromkeys(("kernels", "compiled"), noting))
    engine.warm_up()
    warm = {(1, 64), (2, 64), (4, 64), (1, 80), (2, 80), (4, 80)}
    assert met == warm
    for count in (1, 3, 9):
        list(engine.predict([make_features([20] * count)]))
    assert met == warm


def test_where_nothing_is_compiled_rows_go_together() -> None:
    shapes = Fixed(batch_tokens=320, longest=80, most_rows=None)
    assert shapes.effort(1000) == "plain"
    plan = shapes.plan(np.full(8, 20, np.int32))
    assert [len(rows) for rows in plan.rows] == [5, 3]
    assert list(shapes.usual()) == [(1, 64), (1, 80)]


def test_fixed_shapes_hold_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 81, 300).astype(np.int32)
    plan = Fixed(batch_tokens=320, longest=80, most_rows=8).plan(lengths)
    assert sorted(np.concatenate(plan.rows).tolist()) == list(range(300))
    for rows, width in zip(plan.rows, plan.widths, strict=True):
        assert lengths[rows].max() <= width
        assert len(rows) & (len(rows) - 1) == 0
        assert len(rows) * width <= 320
