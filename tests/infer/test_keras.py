"""Prediction: every feature once, and the same logits as one padded batch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qa_fast.errors import UserError
from qa_fast.infer.shapes import MANY_BATCHES, Fitted
from qa_fast.model.precision import choose_precision, fastest, shortest, unseen_gpu
from tests.small_models import TINY, make_features, tiny_model
from tests.small_runs import make_model_folder


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global KerasEngine, fitted, keras, load_model
    import keras

    from qa_fast.infer.keras_engine import KerasEngine, fitted
    from qa_fast.model.checkpoint import load_model


LENGTHS = [[5, 60, 33, 12, 2], [], [17, 64, 1]]


def chunks() -> list:
    return [make_features(lengths, seed=i) for i, lengths in enumerate(LENGTHS)]


def collected(engine: KerasEngine, features: list) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for batch in engine.predict(features):
        assert batch.start_logits.shape == batch.end_logits.shape == (len(batch.rows), batch.start_logits.shape[1])
        assert batch.rows.dtype == batch.lengths.dtype == np.int32
        for row, start, end, length in zip(
            batch.rows, batch.start_logits, batch.end_logits, batch.lengths, strict=True
        ):
            assert row not in found
            found[int(row)] = start[:length], end[:length]
    return found


@pytest.mark.parametrize(("batch_tokens", "recurring"), [(1, False), (128, False), (4096, False), (128, True)])
def test_logits_are_those_of_the_feature_alone(batch_tokens: int, recurring: bool) -> None:
    model = tiny_model()
    found = collected(KerasEngine(model, Fitted(batch_tokens, 64, recurring)), chunks())
    rows = [(chunk, row) for chunk in chunks() for row in range(len(chunk))]
    assert sorted(found) == list(range(len(rows)))
    for number, (chunk, row) in enumerate(rows):
        ids, types = chunk.input_ids[row][None], chunk.token_type_ids[row][None]
        start, end = model(ids, np.array([ids.shape[1]], np.int32), types)
        np.testing.assert_allclose(found[number][0], keras.ops.convert_to_numpy(start)[0], atol=1e-5)
        np.testing.assert_allclose(found[number][1], keras.ops.convert_to_numpy(end)[0], atol=1e-5)


def test_reading_on_an_accelerator_has_few_shapes_whatever_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compiled once."""
    monkeypatch.setattr("qa_fast.infer.keras_engine.on_cpu", lambda: False)
    shapes = fitted(tiny_model())
    plans = [shapes.plan(np.random.default_rng(seed).integers(2, 60, 40 * seed + 1)) for seed in range(5)]
    found = {(len(rows), int(width)) for plan in plans for rows, width in zip(plan.rows, plan.widths, strict=True)}
    assert found == {(32, 64), (64, 64), (128, 64), (256, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert", "deberta-v3"])
def test_many_batches_give_what_few_give(family: str) -> None:
    """With kernels as in plain TensorFlow."""
    generator = np.random.default_rng(0)
    features = [make_features(generator.integers(1, 64, 2 * MANY_BATCHES))]
    model = tiny_model(TINY[family])
    engines = [KerasEngine(model, fitted(model, tokens)) for tokens in (1, 512, 100_000)]
    many, some, few = (collected(engine, features) for engine in engines)
    if keras.backend.backend() == "tensorflow":
        assert [list(engine._functions) for engine in engines] == [["kernels"], ["kernels"], ["plain"]]
    assert sorted(many) == sorted(some) == sorted(few) == list(range(2 * MANY_BATCHES))
    for row, logits in few.items():
        for side in (0, 1):
            np.testing.assert_allclose(many[row][side], logits[side], atol=2e-5)
            np.testing.assert_allclose(some[row][side], logits[side], atol=2e-5)


def test_changed_weights_are_seen() -> None:
    model = tiny_model()
    engine = KerasEngine(model)
    before = collected(engine, chunks())[0][0]
    bias = model.encoder.head.output.bias
    bias.assign(bias + 1)
    np.testing.assert_allclose(collected(engine, chunks())[0][0], before + 1, atol=1e-5)


def test_nothing_gives_nothing() -> None:
    assert list(KerasEngine(tiny_model()).predict([])) == []
    assert list(KerasEngine(tiny_model()).predict([make_features([])])) == []


def test_too_long_features_are_refused() -> None:
    with pytest.raises(UserError, match=r"model's 64 positions; received max_length=65"):
        list(KerasEngine(tiny_model()).predict([make_features([3, 65])]))


def test_a_folder_is_opened_in_the_precision_asked_for(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    engine = KerasEngine.from_pretrained(folder, precision="bfloat16")
    assert engine.model.precision == "bfloat16"
    half = collected(engine, [make_features([9, 30])])
    full = collected(KerasEngine(load_model(folder)[0]), [make_features([9, 30])])
    np.testing.assert_allclose(half[1][0], full[1][0], atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert", "deberta-v3"])
def test_a_model_of_half_precision_is_read_in_float32(family: str) -> None:
    model = tiny_model(TINY[family], precision="bfloat16")
    half, full = (collected(KerasEngine(model, precision=precision), chunks()) for precision in (None, "float32"))
    right = collected(KerasEngine(tiny_model(TINY[family])), chunks())
    for row, logits in right.items():
        np.testing.assert_allclose(full[row][0], logits[0], atol=1e-5)
    assert max(np.abs(half[row][0] - right[row][0]).max() for row in right) > 1e-4


@pytest.mark.slow
def test_jax_predicts_the_same() -> None:
    pytest.importorskip("jax")
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "import tests.infer.test_keras as t; t.setup_module();"
        "model = t.tiny_model(); found = t.collected(t.KerasEngine(model, t.fitted(model, 128)), t.chunks());"
        "print(json.dumps({row: [a.tolist() for a in pair] for row, pair in found.items()}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parents[2])],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(run.stdout.splitlines()[-1])
    model = tiny_model()
    ours = collected(KerasEngine(model, fitted(model, 128)), chunks())
    assert sorted(map(int, theirs)) == sorted(ours)
    for row, pair in ours.items():
        np.testing.assert_allclose(pair[0], theirs[str(row)][0], atol=1e-5)
        np.testing.assert_allclose(pair[1], theirs[str(row)][1], atol=1e-5)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((4.0, 1.0, 1.0), "bfloat16"),
        ((1.0, 1.0), "float32"),
        ((1.0, 3.0, 0.2), "float16"),
        ((1.0, 0.9, 0.9), "float32"),
    ],
)
def test_the_fast_dtype_is_chosen(times: tuple[float, ...], expected: str) -> None:
    seconds = dict(zip(("float32", "bfloat16", "float16"), times, strict=False))
    choice = fastest(seconds)
    assert choice.value == expected
    assert "times as fast in bfloat16" in choice.reason


def test_times_that_were_all_disturbed_are_taken_again() -> None:
    """float32 is slowed in its first turns by different amounts, as by other work."""
    series = {"float32": iter([16.0, 14.0, 19.0, 15.0, 22.0, 10.1, 10.0, 10.2]), "bfloat16": iter([9.9] * 99)}
    assert shortest(lambda name: next(series[name]), list(series)) == {"float32": 10.0, "bfloat16": 9.9}
    quiet = dict.fromkeys(series, 0)

    def even(name: str) -> float:
        quiet[name] += 1
        return 1.0

    shortest(even, list(quiet))
    assert quiet == {"float32": 5, "bfloat16": 5}
    endless = (0.5**turn for turn in range(1000))
    assert shortest(lambda _: next(endless), ["float32"])["float32"] > 0  # comes to an end


def test_precision_is_measured_or_as_asked() -> None:
    assert choose_precision("float16").value == "float16"
    assert choose_precision("auto").value in ("float32", "bfloat16", "float16")
    with pytest.raises(UserError, match=r"precision must be one of auto, .*; received 'double'"):
        choose_precision("double")


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "null"])
def test_a_gpu_that_the_backend_does_not_see_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / name).touch()
    told = unseen_gpu(tmp_path)
    if name == "nvidia0":
        assert told is not None
        assert re.search(r"there is a GPU \(.*nvidia0\), but TensorFlow does not see it .*'qa-fast\[train\]'", told)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert unseen_gpu(tmp_path) is None
