"""Several steps in one call of JAX: the steps of a call each, in an order that lets like shapes follow each other."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from qa_fast.batches import BatchCutter, bucket_widths, training_plan
from qa_fast.errors import UserError
from qa_fast.train import TrainConfig
from tests.processes import elsewhere
from tests.small_models import make_features, tiny_model
from tests.small_runs import make_model_folder, make_shards

# Three of a width, one alone, three again, two that are not enough, read in between.
WIDTHS = [48, 48, 48, 32, 48, 48, 48, 32, 32, 48]


def steps_of(at_once: int) -> dict:
    """Losses, gradient norms, and the weights' sums after each step that is looked at; also run in other processes."""
    import keras

    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros

    model = tiny_model()
    engine = make_engine(model, "on", at_once=at_once)
    calls = {"single": 0, "several": 0}
    if keras.backend.backend() == "jax":
        for name in calls:
            function = getattr(engine, f"_{name}")

            def counted(*arguments, name=name, function=function):
                calls[name] += 1
                return function(*arguments)

            setattr(engine, f"_{name}", counted)
    scalars, sums = [], []
    for number, width in enumerate(WIDTHS):
        lengths = np.random.default_rng([0, number]).integers(6, width, 6)
        batch = BatchCutter([make_features(lengths, seed=number)], 0).cut(np.arange(6), width)
        micros = make_micros([batch], 3, number, engine.devices)
        scalars.append(engine.step(micros, step_scalars(1e-3, 0.01, 1.0, number + 1)))
        if number == 8:  # one that waits
            sums.append(float(np.abs(engine.read()["weights"][0]).sum()))
    losses = [[float(loss), float(norm)] for loss, norm in scalars]
    sums += [float(np.abs(weight).sum()) for weight in engine.read()["weights"]]
    return {"losses": losses, "sums": sums, "calls": calls, "devices": engine.devices}


@pytest.mark.slow
def test_several_steps_are_those_steps() -> None:
    """On two devices; the run below has one."""
    flags = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    found = elsewhere(__name__, "print(json.dumps([t.steps_of(1), t.steps_of(3)]))", **flags)
    alone, together = found
    assert (alone["devices"], together["devices"]) == (2, 2)
    assert alone["calls"] == {"single": 10, "several": 0}
    assert together["calls"] == {"single": 4, "several": 2}
    np.testing.assert_allclose(together["losses"], alone["losses"], rtol=1e-4)
    np.testing.assert_allclose(together["sums"], alone["sums"], rtol=1e-4, atol=5e-3)
    assert np.ptp(np.array(alone["losses"])[:, 0]) > 0.01


@pytest.mark.parametrize("alike", [2, 5, 8])
def test_batches_of_a_width_follow_each_other(alike: int) -> None:
    lengths = np.random.default_rng(0).gamma(6, 28, 1003).astype(np.int32).clip(8, 384)
    widths = bucket_widths(lengths, 5)
    plain = training_plan(lengths, np.arange(1003), 8, 0, 1, widths)
    plan = training_plan(lengths, np.arange(1003), 8, 0, 1, widths, alike=alike)
    # The same batches in another order; the short one is the last in both.
    assert sorted(map(tuple, plan.rows[:-1])) == sorted(map(tuple, plain.rows[:-1]))
    np.testing.assert_array_equal(plan.rows[-1], plain.rows[-1])
    counts = np.unique(plan.widths[:-1], return_counts=True)[1]
    packs = int((counts // alike).sum())
    for begin in range(0, packs * alike, alike):
        assert len(set(plan.widths[begin : begin + alike].tolist())) == 1
    firsts = plan.widths[: packs * alike : alike]
    assert len(list(itertools.groupby(firsts))) > len(set(firsts.tolist()))  # packs are shuffled
    assert training_plan(lengths, np.arange(3), 8, 0, 1, widths, alike=alike).rows[0].tolist().count(-1) == 5


def whole_run(folder: str) -> dict:
    """A run with the option, and one with the same order in which each step is a call."""
    from qa_fast.train import backend_jax, train

    shards, options = Path(folder) / "shards", {
        "batch_size": 2, "precision": "float32", "learning_rate": 1e-3, "steps_per_execution": 4, "epochs": 2,
        "batching": "fixed",
    }  # fmt: skip
    joined, flush, sizes = backend_jax.JaxEngine._joined, backend_jax.JaxEngine._flush, []

    def noted(self):
        sizes.append(len(self._waiting))
        flush(self)

    backend_jax.JaxEngine._flush = noted
    whole = train(shards, TrainConfig(out=f"{folder}/whole", **options))
    together = [size for size in sizes if size]

    def alone(self, micro, scalars):
        found = joined(self, micro, scalars)
        self._flush()
        return found

    backend_jax.JaxEngine._joined = alone
    single = train(shards, TrainConfig(out=f"{folder}/single", **options))
    return {
        "histories": [run.metrics["history"] for run in (whole, single)],
        "seconds": whole.metrics["seconds"],
        "together": together,
    }


@pytest.mark.slow
def test_a_run_is_that_of_single_steps(tmp_path: Path) -> None:
    """Points of the curve, of 10 steps, do not break up what waits for its pack; ends of epochs do."""
    from qa_fast.model.checkpoint import load_model, state_dict

    make_shards(tmp_path / "shards", make_model_folder(tmp_path / "tiny", head=False))
    found = elsewhere(__name__, f"print(json.dumps(t.whole_run({str(tmp_path)!r})))", KERAS_BACKEND="jax")
    assert found["together"] == [4, 4, 4, 4, 4, 4]
    whole, single = found["histories"]
    assert whole["steps"] == single["steps"] == [10, 20, 24]
    np.testing.assert_allclose(whole["losses"], single["losses"], rtol=1e-4)
    assert found["seconds"]["steps_that_compiled"] > 0
    whole, single = (state_dict(load_model(tmp_path / name)[0]) for name in ("whole", "single"))
    for name, value in whole.items():
        if not name.endswith(("self.key.bias", "layer.1.output.LayerNorm.bias", "qa_outputs.bias")):
            np.testing.assert_allclose(value, single[name], atol=1e-4, err_msg=name)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    import keras

    from qa_fast.train import train

    with pytest.raises(UserError, match=r"--steps-per-execution must be at least 1; received 0"):
        TrainConfig(steps_per_execution=0).check()
    with pytest.raises(UserError, match=r"--steps-per-execution and --accumulate exclude each other; received 4 and 2"):
        TrainConfig(steps_per_execution=4, accumulate=2).check()
    if keras.backend.backend() == "jax":
        return
    make_shards(tmp_path / "shards", make_model_folder(tmp_path / "tiny", head=False), validation=False)
    with pytest.raises(UserError, match=r"--steps-per-execution above 1 needs KERAS_BACKEND=jax; received 4 with 't"):
        train(tmp_path / "shards", TrainConfig(out=str(tmp_path / "out"), steps_per_execution=4))
