from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras")

from qa_fast.predict import Predictor
from qa_fast.serve.shapes import FixedShapes
from tests.small_models import TINY_BERT, make_features, tiny_model


@pytest.fixture(scope="module")
def shapes() -> FixedShapes:
    return FixedShapes(tiny_model(TINY_BERT | {"max_position_embeddings": 80}), batch_tokens=320)


def test_logits_are_the_predictors_at_fixed_widths(shapes: FixedShapes) -> None:
    features = make_features([5, 64, 17, 65, 3, 60, 80, 12, 40, 33])
    plain = {
        int(row): (batch.start_logits[at, : batch.lengths[at]], batch.end_logits[at, : batch.lengths[at]])
        for batch in Predictor(shapes.model).predict([features])
        for at, row in enumerate(batch.rows)
    }
    seen, met = [], []
    for batch in shapes.predict([features]):
        met.append(batch.start_logits.shape)
        for at, row in enumerate(batch.rows.tolist()):
            seen.append(row)
            assert batch.start_logits[at, : batch.lengths[at]] == pytest.approx(plain[row][0], abs=1e-4)
            assert batch.end_logits[at, : batch.lengths[at]] == pytest.approx(plain[row][1], abs=1e-4)
    assert sorted(seen) == list(range(10))
    assert met == [(4, 64), (4, 64), (2, 80)]


def test_after_warming_up_no_shape_is_new(monkeypatch: pytest.MonkeyPatch, shapes: FixedShapes) -> None:
    met: set[tuple[int, ...]] = set()
    compute = shapes._function(many=shapes.compiles)

    def noting(ids: np.ndarray, *rest: np.ndarray) -> object:
        met.add(ids.shape)
        return compute(ids, *rest)

    monkeypatch.setattr(shapes, "_functions", {True: noting})
    monkeypatch.setattr(shapes, "widths", np.array([64], np.int32))
    shapes.warm_up()
    assert met == {(1, 64), (2, 64), (4, 64)}
    for count in (1, 3, 9):
        list(shapes.predict([make_features([20] * count)]))
    assert met == {(1, 64), (2, 64), (4, 64)}


def test_where_nothing_is_compiled_rows_go_together(monkeypatch: pytest.MonkeyPatch, shapes: FixedShapes) -> None:
    monkeypatch.setattr(shapes, "compiles", False)
    assert [len(batch.rows) for batch in shapes.predict([make_features([20] * 8)])] == [5, 3]
