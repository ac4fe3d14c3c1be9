"""Averages of the weights: their rule against plain formulas, and whole runs that score and save them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from qa_fast.errors import UserError
from qa_fast.train import EpochReport, TrainConfig
from qa_fast.train.state import checkpoints, read_checkpoint
from tests.backend import JIT
from tests.processes import elsewhere
from tests.small_models import tiny_model
from tests.small_runs import make_model_folder, make_shards


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Average, EVERY, averaged_run, batches, keras, load_model, loop, make_engine, make_micros, published, saving
    global share_of, state_dict, step_scalars, train
    import keras

    import qa_fast.train.loop as loop
    import qa_fast.train.saving as saving
    from bench.averaged_run import averaged_run
    from qa_fast.model.checkpoint import load_model, state_dict
    from qa_fast.train import train
    from qa_fast.train.averaging import EVERY, Average, published, share_of
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros
    from tests.train.test_steps import batches


OPTIONS = {"batch_size": 4, "precision": "float32", "jit": JIT, "learning_rate": 1e-3, "log_every": 2}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("average")
    make_shards(folder / "shards", make_model_folder(folder / "tiny"))
    return folder


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return state_dict(load_model(folder)[0])


def averaged(kind: str, weights: np.ndarray, steps: int, decay: float, last: float) -> np.ndarray | None:
    """The average of weights [steps, n] as the class has it."""
    average = Average(kind, steps, decay, last)
    for step, weight in enumerate(weights, 1):
        average.add(step, [keras.ops.convert_to_tensor(weight)])
    return average.read()[0] if average.begun else None


@pytest.mark.parametrize(("steps", "last"), [(40, 0.25), (41, 0.25), (42, 0.5), (7, 1.0), (3, 0.5), (2, 0.1)])
def test_swa_is_the_mean_over_the_last_share(steps: int, last: float) -> None:
    weights = np.random.default_rng(0).normal(0, 1, (steps, 5)).astype(np.float32)
    looked_at = [s for s in range(1, steps + 1) if s > int(steps * (1 - last)) and (s % EVERY == 0 or s == steps)]
    expected = weights[np.array(looked_at) - 1].mean(axis=0)
    np.testing.assert_allclose(averaged("swa", weights, steps, 0.9, last), expected, atol=1e-6)


def test_ema_is_the_recurrence() -> None:
    """A long run has the decay asked for; its beginning is forgotten as it should."""
    steps, decay = 400, 0.9
    weights = np.random.default_rng(0).normal(0, 1, (steps, 3)).astype(np.float32)
    expected = weights[EVERY - 1].astype(np.float64)
    for step in range(2 * EVERY, steps + 1, EVERY):
        kept = min(decay, (1 + step) / (10 + step)) ** EVERY
        expected = kept * expected + (1 - kept) * weights[step - 1]
    np.testing.assert_allclose(averaged("ema", weights, steps, decay, 0.25), expected, atol=1e-5)
    assert share_of("ema", 400, 401, 0.9, 0.25) == pytest.approx(1 - 0.9**4)
    assert share_of("ema", 401, 401, 0.9, 0.25) == pytest.approx(1 - 0.9)
    assert share_of("ema", 399, 401, 0.9, 0.25) == 0.0
    assert share_of("ema", 20, 401, 0.999, 0.25) == pytest.approx(1 - (21 / 30) ** 4)  # short of its decay yet


def test_a_constant_stays_as_it_is() -> None:
    for kind in ("ema", "swa"):
        found = averaged(kind, np.full((30, 2), 1.25, np.float32), 30, 0.99, 0.5)
        np.testing.assert_array_equal(found, [1.25, 1.25])
        assert found.dtype == np.float32


def averages_of_run(precision: str = "float32", kind: str = "ema") -> dict:
    """Sums of averages beside the trained weights' after some steps; also run in other processes."""
    engine = make_engine(tiny_model(precision=precision), "on" if keras.backend.backend() == "jax" else "off")
    average = Average(kind, 9, 0.9, 1.0)
    expected: list[np.ndarray] = []
    for step in range(1, 10):
        micros = make_micros(batches(9)[step - 1 : step], 3, step, engine.devices)
        engine.step(micros, step_scalars(1e-3, 0.01, 1.0, step))
        average.add(step, engine.weights())
        share = share_of(kind, step, 9, 0.9, 1.0)
        now = engine.read()["weights"]
        if share:
            expected = [old + np.float32(share) * (new - old) for old, new in zip(expected or now, now, strict=True)]
    for ours, theirs in zip(average.read(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ours.dtype == np.float32
    before = engine.read()
    assert max(np.abs(a - w).max() for a, w in zip(expected, before["weights"], strict=True)) > 1e-4
    with published(engine, average):
        for variable, value in zip(engine.model.trainable_variables, average.read(), strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    for group, arrays in engine.read().items():
        for ours, theirs in zip(arrays, before[group], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return {"backend": keras.backend.backend(), "sums": [float(np.abs(value).sum()) for value in average.read()]}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_averages_are_of_the_trained_weights_which_go_on(precision: str) -> None:
    averages_of_run(precision)


@pytest.mark.slow
def test_jax_averages_the_same() -> None:
    pytest.importorskip("jax")
    flags = "--xla_force_host_platform_device_count=2"
    call = "print(json.dumps(t.averages_of_run(kind='swa')))"
    theirs = elsewhere(__name__, call, KERAS_BACKEND="jax", XLA_FLAGS=flags)
    assert theirs["backend"] == "jax"
    np.testing.assert_allclose(averages_of_run(kind="swa")["sums"], theirs["sums"], rtol=2e-3, atol=0.02)


def test_the_average_is_scored_and_saved_and_training_is_as_without(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[dict[str, np.ndarray]] = []
    report = EpochReport(epoch=0, step=0, loss=1.0, exact_match=20.0, f1=30.0, seconds=0.0, saved=False)
    monkeypatch.setattr(saving, "validate", lambda reader, *_: scored.append(state_dict(reader.model)) or report)
    options = OPTIONS | {"epochs": 1, "checkpoint_every": 0}
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "plain"), **options))
    result = train(workshop / "shards", TrainConfig(out=str(tmp_path / "ema"), average="ema", **options))
    plain, ema = weights_of(tmp_path / "plain"), weights_of(tmp_path / "ema")
    assert any((value != plain[name]).any() for name, value in ema.items())
    for name, value in ema.items():
        np.testing.assert_array_equal(value, scored[1][name])
    assert result.loss == pytest.approx(
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "again"), **options)).loss, rel=1e-6
    )


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_averaged_run_resumes_to_the_same_average(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Broken off within an epoch, at a step that no average looks at; the first epoch was validated before."""
    options = OPTIONS | {"epochs": 3, "average": kind, "average_share": 0.8, "checkpoint_every": 0}
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "whole"), **options))
    steps = iter(range(1, 100))
    original = loop.make_micros

    def stopping(*arguments: object) -> list:
        if next(steps) == 11:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(loop, "make_micros", stopping)
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(workshop / "shards", TrainConfig(out=str(out), **options))
    arrays, _ = read_checkpoint(checkpoints(out / "training" / "checkpoints")[-1])
    assert len(arrays["averages"]) == len(arrays["weights"])
    assert all(value.dtype == np.float32 for value in arrays["averages"])
    train(workshop / "shards", TrainConfig(out=str(out), resume=True, **options))
    expected = weights_of(tmp_path / "whole")
    for name, value in weights_of(out).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_score_before_the_average_begins_is_said_to_be_of_the_weights_as_trained(
    workshop: Path, tmp_path: Path
) -> None:
    said: list[object] = []
    options = OPTIONS | {"epochs": 2, "checkpoint_every": 0, "average": "swa", "average_share": 0.5}
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "out"), **options), said.append)
    lines = [line for line in said if "scored as trained" in str(line)]
    assert lines == ["step 6: scored as trained, for --average swa begins later"]


def test_one_run_of_the_bench_is_three_runs(workshop: Path, tmp_path: Path) -> None:
    """`bench/averaged_run.py` saves what three runs would that differ in `--average` alone."""
    options = OPTIONS | {"epochs": 2, "checkpoint_every": 0, "validation": ""}
    averaged_run(str(workshop / "shards"), tmp_path / "one", options)
    for kind in ("plain", "ema", "swa"):
        average = "none" if kind == "plain" else kind
        train(workshop / "shards", TrainConfig(out=str(tmp_path / kind), average=average, **options))
        found, expected = weights_of(tmp_path / "one" / kind), weights_of(tmp_path / kind)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"average": "mean"}, r"--average must be one of none, ema, swa; received 'mean'"),
        ({"average_decay": 1.0}, r"--average-decay must be above 0 and below 1; received 1.0"),
        ({"average_share": 0.0}, r"--average-share must be above 0 and at most 1; received 0.0"),
    ],
)
def test_options_of_an_average(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**change).check()
