"""The model as Keras users know one: the trainer's losses by Keras' own loop, callbacks, files, refusals."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qa_fast
from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import read_settings, write_settings
from qa_fast.batches import Batch
from qa_fast.errors import UserError
from qa_fast.shards import open_shards
from qa_fast.train.validate import LossMeter
from tests.backend import untraced
from tests.processes import elsewhere
from tests.small_models import TINY_BERT, TINY_DISTILBERT, make_features, tiny_model
from tests.small_runs import make_model_folder, make_shards


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global batches, dropout_key, keras, make_engine, make_micros, optimizer, step_scalars, traced_key
    import keras

    from qa_fast.model.dropout import dropout_key, traced_key
    from qa_fast.train import optimizer
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.steps import make_micros
    from tests.train.test_steps import batches


ROOT = str(Path(__file__).parents[2])
STEPS = 6
NO_DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and shards with validation."""
    folder = tmp_path_factory.mktemp("keras")
    make_shards(folder / "shards", make_model_folder(folder / "tiny", head=False))
    return folder


def features(batch: Batch) -> dict[str, np.ndarray]:
    """A batch as a user has it; its padding rows become rows without a token."""
    lengths = np.where(batch.rows >= 0, batch.lengths, 0)
    return {
        "input_ids": batch.input_ids,
        "attention_mask": (np.arange(batch.input_ids.shape[1]) < lengths[:, None]).astype(np.int32),
        "token_type_ids": batch.token_type_ids.astype(np.int32),
        "start_positions": batch.starts,
        "end_positions": batch.ends,
    }


def unlabelled(x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in x.items() if not name.endswith("positions")}


def some() -> dict[str, np.ndarray]:
    return features(batches(1)[0])


def some_batches(count: int = STEPS) -> list[Batch]:
    """Labels of some rows lie outside; the third batch has a padding row."""
    made = batches(count)
    for number, batch in enumerate(made):
        batch.starts[number % 6], batch.ends[(number + 1) % 6] = 47, 200
    if count > 2:
        made[2].rows[5] = -1
    return made


def small(raw: dict = TINY_BERT, **options: object) -> qa_fast.SpanModel:
    model = qa_fast.SpanModel(raw, **options)
    model.network.initialize(3)
    return model


def adam(rate: float) -> keras.optimizers.Adam:
    """Return Keras' Adam with the epsilon of the trainer (and of torch), which is added to the corrected root."""

    class Adam(keras.optimizers.Adam):
        def update_step(self, gradient: object, variable: object, learning_rate: object) -> None:
            step = keras.ops.cast(self.iterations + 1, "float32")
            self.epsilon = optimizer.EPSILON * keras.ops.sqrt(1.0 - keras.ops.power(np.float32(0.999), step))
            super().update_step(gradient, variable, learning_rate)

    return Adam(rate)


@functools.cache  # several tests compare with the same run
def fitted_losses(dropout: bool = True, jit: object = "auto", **options: object) -> list[float]:
    """The loss of each step of `fit`; also run in other processes."""
    model = small(TINY_BERT if dropout else TINY_BERT | NO_DROPOUT, seed=3, **options)
    model.compile(adam(1e-3), jit_compile=jit)
    given = ((features(batch),) for batch in some_batches())
    return model.fit(given, epochs=STEPS, steps_per_epoch=1, verbose=0).history["loss"]


@functools.cache
def trainer_losses(dropout: bool = True) -> list[float]:
    """The same steps as `qa-fast train` makes them with Adam, a constant rate and no clipping."""
    model = tiny_model(TINY_BERT if dropout else TINY_BERT | NO_DROPOUT)
    engine = make_engine(model, "off" if keras.backend.backend() == "tensorflow" else "on")
    losses = []
    for step, batch in enumerate(some_batches()):
        micros = make_micros([batch], 3, step, engine.devices)
        losses.append(float(engine.step(micros, step_scalars(1e-3, 0.0, 0.0, step + 1))[0]))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [False, True])
def test_fit_makes_the_trainer_s_steps(dropout: bool) -> None:
    """With dropout, too: the masks are the same."""
    expected = trainer_losses(dropout)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(fitted_losses(dropout), expected, rtol=1e-5)


def on_jax() -> dict[str, object]:
    """Run the checks of a process on JAX: losses, a file's round trip, the state after a mistake."""
    import tempfile

    model = small()
    rows, width = some()["input_ids"].shape
    assert model.predict(unlabelled(some()), verbose=0)["start_logits"].shape == (rows, width)  # also before compile
    narrow = {name: value[:, :20] for name, value in unlabelled(some()).items()}
    with pytest.raises(UserError, match="predict needs batches of one width"):
        model.predict(((x,) for x in (narrow, unlabelled(some()))), verbose=0)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(some(), epochs=2, verbose=0)
    before = model.evaluate(some(), verbose=0)
    with pytest.raises(UserError, match="x must hold"):
        model.fit({"input_ids": some()["input_ids"]}, verbose=0)
    after_mistake = model.evaluate(some(), verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/m.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        model.fit(some(), shuffle=False, verbose=0)
        loaded.fit(some(), shuffle=False, verbose=0)
        pair = model.evaluate(some(), verbose=0), loaded.evaluate(some(), verbose=0)
    return {
        "backend": keras.backend.backend(),
        "fitted": [fitted_losses(), fitted_losses(False)],
        "trained": [trainer_losses(), trainer_losses(False)],
        "mistake": [before, after_mistake],
        "loaded": pair,
    }


def frozen(parts: Sequence[str]) -> qa_fast.SpanModel:
    """A fitted model without training of some parts; all parts if none is named."""
    model = small()
    for layer in model.network.variables_of_parts if parts else [model]:
        layer.trainable = layer.name not in (parts or [model.name])
    model.compile(keras.optimizers.Adam(1e-2))
    before = {path: np.array(weight) for path, weight in model.network.by_path.items()}
    model.fit(some(), epochs=2, shuffle=False, verbose=0)
    after = {path: np.array(weight) for path, weight in model.network.by_path.items()}
    changed = {path.split("/")[0] for path in after if (after[path] != before[path]).any()}
    assert changed == {path.split("/")[0] for path in before} - set(parts) if parts else not changed
    return model


FROZEN = [("embeddings",), ("embeddings", "block_0"), ("head",), ()]


def check_frozen(parts: Sequence[str], folder: Path) -> None:
    """Check that a frozen model is saved whole in every form, and goes on as it was."""
    from qa_fast.graph.standard import standard_model
    from qa_fast.infer.keras_engine import KerasEngine

    model = frozen(parts)
    model.save_pretrained(folder / "model")
    opened = qa_fast.SpanModel.from_pretrained(folder / "model")
    assert opened.report.made == ()
    for path, weight in model.network.by_path.items():
        np.testing.assert_array_equal(opened.network.by_path[path], weight)
    features = [make_features([9, 30])]
    ours, theirs = (next(KerasEngine(one.network).predict(features)).start_logits for one in (model, opened))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len(standard_model(model.network).weights) == len(model.network.weights)
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    names = [[weight.path for weight in one.trainable_variables] for one in (model, loaded)]
    assert names[0] == names[1]
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)
    if parts:
        fitted = [one.fit(some(), epochs=2, shuffle=False, verbose=0).history["loss"] for one in (model, loaded)]
        np.testing.assert_allclose(*fitted, rtol=1e-6)
    for one in (model, loaded):
        for layer in one.network.variables_of_parts if parts else [one]:
            layer.trainable = True
        assert len(one.trainable_variables) == len(one.network.weights)


@pytest.mark.slow
@pytest.mark.parametrize("parts", FROZEN)
def test_a_frozen_model_is_saved_whole(parts: Sequence[str], tmp_path: Path) -> None:
    with nullcontext() if parts == FROZEN[0] else untraced():
        check_frozen(parts, tmp_path)


@pytest.mark.slow
def test_a_frozen_model_is_saved_whole_on_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    elsewhere(
        __name__, f"t.check_frozen(['embeddings'], t.Path({str(tmp_path)!r})); print('{{}}')", KERAS_BACKEND="jax"
    )


def test_what_is_frozen_exists() -> None:
    model = small(frozen=["embeddings/words"])
    assert model.get_config()["frozen"] == ["embeddings/words"]
    with pytest.raises(
        UserError, match=r"frozen must name parts or weights of the model; received \['words'\]: choose"
    ):
        small(frozen=["words"])


@pytest.mark.slow
def test_jax_does_the_same() -> None:
    pytest.importorskip("jax")
    found = elsewhere(__name__, "print(json.dumps(t.on_jax()))", KERAS_BACKEND="jax")
    assert isinstance(found, dict)
    assert found["backend"] == "jax"
    np.testing.assert_allclose(found["fitted"], found["trained"], rtol=1e-5)
    np.testing.assert_allclose(found["fitted"][0], trainer_losses(), rtol=1e-4)
    assert found["mistake"][0] == found["mistake"][1]
    np.testing.assert_allclose(*found["loaded"], rtol=1e-6)


def test_the_traced_key_is_the_key() -> None:
    for seed, step, row in ((0, 0, 0), (7, 12345, 3), (2**31, 99, 0)):
        key = keras.ops.convert_to_numpy(traced_key(seed, keras.ops.convert_to_tensor(np.int32(step)), row))
        np.testing.assert_array_equal(key, dropout_key(seed, step, row))


def test_dropout_follows_the_seed_and_is_on_in_training_alone() -> None:
    x = some()
    runs = []
    for seed in (0, 0, 1):
        model = small(seed=seed)
        runs.append([keras.ops.convert_to_numpy(model(x, training=True)["start_logits"]) for _ in range(2)])
        plain = [keras.ops.convert_to_numpy(model(x)["start_logits"]) for _ in range(2)]
        np.testing.assert_array_equal(*plain)
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0][0] - runs[0][1]).max() > 0.01
    assert np.abs(runs[0][0] - runs[2][0]).max() > 0.01
    none = small(dropout=0.0)
    np.testing.assert_allclose(*(none(x, training=True)["end_logits"] for _ in range(2)))


def test_labels_may_be_y_and_weights_count() -> None:
    model = small(TINY_BERT | NO_DROPOUT)
    model.compile()
    x = some()
    bare, y = unlabelled(x), {name: x[name] for name in ("start_positions", "end_positions")}
    expected = model.evaluate(x, verbose=0)
    assert model.evaluate(bare, y, verbose=0) == pytest.approx(expected)
    assert model.evaluate(bare, tuple(y.values()), verbose=0) == pytest.approx(expected)
    weights = np.array([2, 0, 0, 0, 0, 0], np.float32)
    single = model.evaluate({name: value[:1] for name, value in x.items()}, verbose=0)
    assert model.evaluate(bare, y, sample_weight=weights, verbose=0) == pytest.approx(single / 3, rel=1e-5)
    with pytest.raises(UserError, match=r"sample_weight needs y, .*; received no y: pass the labels as y"):
        model.evaluate(x, sample_weight=weights, verbose=0)


def test_evaluate_gives_the_validation_loss_of_the_trainer() -> None:
    from qa_fast.batches import BatchCutter
    from qa_fast.infer.keras_engine import KerasEngine

    model, chunk = small(), make_features([20, 33, 48, 7], seed=5)
    meter = LossMeter(KerasEngine(model.network))
    list(meter.predict([chunk]))
    model.compile()
    batch = BatchCutter([chunk], 0).cut(np.arange(4), 64)
    assert model.evaluate(features(batch), verbose=0) == pytest.approx(meter.loss, rel=1e-5)


def test_padding_never_wins() -> None:
    x = unlabelled(some())
    found = small().predict(x, verbose=0)
    there = x["attention_mask"].astype(bool)
    assert set(found) == {"start_logits", "end_logits"}
    for logits in found.values():
        assert logits.dtype == np.float32
        assert (logits[~there] == -1e9).all()
        assert there[np.arange(len(logits)), logits.argmax(axis=1)].all()


def test_types_may_be_left_out() -> None:
    x = unlabelled(some())
    zeros = x | {"token_type_ids": np.zeros_like(x["input_ids"])}
    bare = {name: value for name, value in x.items() if name != "token_type_ids"}
    model = small()
    np.testing.assert_allclose(model(bare)["start_logits"], model(zeros)["start_logits"], atol=1e-6)
    assert np.abs(np.subtract(model(x)["start_logits"], model(zeros)["start_logits"])).max() > 0.01
    plain = small(TINY_DISTILBERT)  # knows no types: those of another model's shards do no harm
    np.testing.assert_array_equal(plain(x)["end_logits"], plain(bare)["end_logits"])


def test_losses_and_metrics_of_the_user() -> None:
    x = some()
    model = small(TINY_BERT | NO_DROPOUT)
    model.compile(
        loss={
            name: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            for name in ("start_logits", "end_logits")
        },
        metrics={"start_logits": "accuracy"},
    )
    found = model.evaluate(x, verbose=0, return_dict=True)
    logits = model.predict(x, verbose=0)["start_logits"]
    assert found["start_logits_accuracy"] == pytest.approx((logits.argmax(1) == x["start_positions"]).mean())
    model = small(TINY_BERT | NO_DROPOUT)
    model.compile()
    assert found["loss"] == pytest.approx(2 * model.evaluate(x, verbose=0), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_policy_is_followed(precision: str) -> None:
    full, half = fitted_losses(), fitted_losses(precision=precision)
    np.testing.assert_allclose(full, half, rtol=0.05 if precision == "bfloat16" else 0.01)
    keras.mixed_precision.set_global_policy(f"mixed_{precision}")
    try:
        model = small()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.compile("adam")
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert (model.network.precision, scaled) == (precision, precision == "float16")
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert small().network.precision == "float32"


def test_a_policy_that_no_model_has() -> None:
    keras.config.set_dtype_policy("float64")
    try:
        with pytest.raises(UserError, match=r"global dtype policy must be float32, .*; received float64"):
            small()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_accumulated_gradients_are_one_step() -> None:
    """Two halves in one step of the optimizer are the whole in one."""
    x, weights = some(), []
    for parts in (1, 2):
        model = small(TINY_BERT | NO_DROPOUT)
        accumulate = parts if parts > 1 else None
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulate))
        model.fit(x, batch_size=6 // parts, shuffle=False, verbose=0)
        weights.append(model.network.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.slow
def test_parts_and_whole_steps_may_be_compiled() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a choice on TensorFlow")
    expected = fitted_losses()
    np.testing.assert_allclose(fitted_losses(jit="parts"), expected, rtol=1e-4)
    np.testing.assert_allclose(fitted_losses(jit=True), expected, rtol=1e-4)


@pytest.mark.slow
def test_an_export_holds_nothing_of_this_process(tmp_path: Path) -> None:
    """Our kernels are functions of a Python process; a SavedModel is for others."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("kernels are called by TensorFlow's graphs alone")
    import tensorflow as tf

    model, x = small(), unlabelled(some())
    model.compile(jit_compile="parts")
    expected = model.predict(x, verbose=0)["start_logits"]
    model.export(tmp_path / "saved")
    with pytest.raises(
        UserError, match=r"format must be one that Keras can write here; received 'zz': Unrec.*qa-fast exp"
    ):
        model.export(tmp_path / "other", format="zz")
    assert b"PyFunc" not in (tmp_path / "saved" / "saved_model.pb").read_bytes()
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    found = saved.serve({name: tf.constant(x[name]) for name in x})
    np.testing.assert_allclose(found["start_logits"], expected, atol=1e-5)
    assert model.network.run_part.parts == "kernels"


def test_parts_are_tensorflow_s(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"jit_compile must be 'auto' or True where KERAS_BACKEND is jax"):
        model.compile(jit_compile="parts")


@pytest.mark.slow
@untraced()
def test_callbacks_see_the_metrics(workshop: Path, tmp_path: Path) -> None:
    validation = open_shards(workshop / "shards").split("validation")
    model = qa_fast.SpanModel.from_pretrained(workshop / "tiny")
    assert model.report is not None
    assert model.report.made == ("qa_outputs.weight", "qa_outputs.bias")
    seen: list[dict] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
    model.compile(keras.optimizers.Adam(0.0))
    history = model.fit(
        some(),
        epochs=5,
        verbose=0,
        callbacks=[
            qa_fast.SquadMetrics(validation, max_examples=6),
            watch,
            keras.callbacks.EarlyStopping(monitor="val_f1", mode="max", patience=2),
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_f1", mode="max", save_best_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True),
        ],
    ).history
    assert len(history["val_f1"]) == 3  # nothing is learnt at a rate of 0
    assert [logs["val_exact_match"] for logs in seen] == history["val_exact_match"]
    model.save_pretrained(tmp_path / "folder")
    from qa_fast.scoring.evaluation import evaluate

    score = evaluate(workshop / "shards", tmp_path / "folder", max_examples=6, engine="keras", precision="float32")
    assert history["val_f1"][-1] == pytest.approx(score.f1)
    other = small(model.source.config)
    other.load_weights(tmp_path / "last.weights.h5")
    best = keras.saving.load_model(tmp_path / "best.keras")
    expected = model.predict(some(), verbose=0)["start_logits"]
    for loaded in (other, best):
        np.testing.assert_allclose(loaded.predict(some(), verbose=0)["start_logits"], expected, atol=1e-6)


@pytest.mark.slow
def test_a_folder_opens_everywhere(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForQuestionAnswering

    model = qa_fast.SpanModel.from_pretrained(make_model_folder(tmp_path / "tiny"))
    shutil.rmtree(tmp_path / "tiny")  # the model needs it no more
    model.save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "out")
    x = unlabelled(some())
    with torch.no_grad():
        inputs = {name: torch.tensor(value.astype(np.int64)) for name, value in x.items()}
        theirs = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").eval()(**inputs)
    there = x["attention_mask"].astype(bool)
    ours = model.predict(x, verbose=0)
    np.testing.assert_allclose(ours["start_logits"][there], theirs.start_logits.numpy()[there], atol=1e-4)
    question = ("Who was the keeper?", "Its keeper was Ane Skou, who wrote the log-book.")
    answerer = qa_fast.Answerer.from_model(model)
    saved = qa_fast.Answerer.from_pretrained(tmp_path / "out", engine="keras", precision="float32")(*question)
    assert answerer(*question) == pytest.approx(saved)
    model.network.set_weights([-value for value in model.network.get_weights()])
    assert answerer(*question)["score"] != pytest.approx(saved["score"])  # it reads the weights as they are now


@pytest.mark.slow
@untraced()
def test_options_of_answering_stay_with_a_model_and_a_threshold_with_its_weights(tmp_path: Path) -> None:
    make_model_folder(tmp_path / "tiny")
    calibration = Calibration(0.7, 0.2, -1.0, "harbours", "validation", "f00d", 0, 600, 0.1, 0.02)
    options = AnswerOptions(
        max_answer_len=3, null_threshold=-2.5, handle_impossible_answer=True, calibration=calibration
    )
    write_settings(tmp_path / "tiny", options)
    model = qa_fast.SpanModel.from_pretrained(tmp_path / "tiny")
    model.save_pretrained(tmp_path / "same")
    assert read_settings(tmp_path / "same") == options
    assert qa_fast.Answerer.from_model(model).options == options
    model.compile("sgd")
    model.fit(some(), verbose=0)
    model.save_pretrained(tmp_path / "same")
    assert read_settings(tmp_path / "same") == AnswerOptions(max_answer_len=3, handle_impossible_answer=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.source.answering == read_settings(tmp_path / "same")


@pytest.mark.slow
def test_a_file_opens_in_a_process_that_imported_the_package_alone(tmp_path: Path) -> None:
    model = small(TINY_BERT, name="mine")
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    model.fit(some(), epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    # Optimizer and dropout go on where they were.
    losses = model.fit(some(), epochs=2, shuffle=False, verbose=0).history["loss"]
    for first, epochs in (("import qa_fast, keras", 2), ("import keras, qa_fast", 0)):
        program = (
            f"{first}; import sys, json, numpy as np; sys.path.insert(0, {ROOT!r});"
            f"m = keras.saving.load_model({str(tmp_path / 'm.keras')!r});"
            "import tests.keras_model.test_keras_model as t; t.setup_module();"
            f"h = m.fit(t.some(), epochs={epochs}, shuffle=False, verbose=0).history.get('loss', []);"
            "print(json.dumps([type(m) is qa_fast.SpanModel, m.name, m.report is None, h]))"
        )
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        same, name, bare, found = json.loads(run.stdout.splitlines()[-1])
        assert (same, name, bare) == (True, "mine", True)
        np.testing.assert_allclose(found, losses[:epochs], rtol=1e-5)


@pytest.mark.slow
def test_habits() -> None:
    lines: list[str] = []
    model = small()
    model.summary(print_fn=lambda line, line_break=False: lines.append(line))
    assert "block_1" in "".join(lines)
    assert model.count_params() == 1 + tiny_model().count_params()  # the number of the pass is one
    model.compile()
    assert np.isfinite(model.train_on_batch(some()))


def mirrored_losses() -> list[float]:
    """Losses of `fit` with rows shared by two devices."""
    import tensorflow as tf

    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = small(seed=3)
        model.compile(adam(1e-3))
    given = {name: np.concatenate([features(batch)[name] for batch in some_batches()]) for name in some()}
    dataset = tf.data.Dataset.from_tensor_slices(given).batch(6)
    assert model.distribute_strategy.num_replicas_in_sync == 2
    return model.fit(dataset, epochs=STEPS, steps_per_epoch=1, verbose=0).history["loss"]


@pytest.mark.slow
def test_two_devices_train_as_one() -> None:
    """Masks, and the mean over labels that count in the whole batch, are those of one device."""
    pytest.importorskip("tensorflow")
    found = elsewhere(__name__, "print(json.dumps(t.mirrored_losses()))", KERAS_BACKEND="tensorflow")
    np.testing.assert_allclose(found, trainer_losses(), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": None}, r"x must hold input_ids and attention_mask; received .*: add attention_mask"),
        ({"input_ids": np.zeros((6, 48), np.float32)}, r"input_ids must be integers; received float32: pass them as"),
        ({"start_positions": np.zeros(6, np.float32)}, r"start_positions must be integers; received float32"),
        (
            {"end_positions": None},
            r"labels must be start_positions and end_positions, in x or as y; received input_ids",
        ),
        ({"input_ids": np.zeros((6, 65), np.int32)}, r"^features must not be longer than the model's 64 positions"),
        ({"input_ids": np.zeros(6, np.int32)}, r"input_ids must have the shape \[rows, tokens\]; received \(\w+,\)"),
    ],
)
def test_what_cannot_be_fitted(change: dict, message: str) -> None:
    x = {name: value for name, value in (some() | change).items() if value is not None}
    model = small()
    model.compile()
    batch = ((given,) for given in [x])  # whole, as a data set gives it
    with pytest.raises(UserError, match=message) as told:
        model.fit(batch, steps_per_epoch=1, verbose=0)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_width_that_a_graph_learns_late_is_refused_too() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("JAX traces every width")
    import tensorflow as tf

    long = {name: np.pad(value, ((0, 0), (0, 20))) if value.ndim == 2 else value for name, value in some().items()}
    signature = {name: tf.TensorSpec((None,) * value.ndim, tf.int32) for name, value in some().items()}
    data = tf.data.Dataset.from_generator(lambda: iter([some(), long]), output_signature=signature)
    model = small()
    model.compile()
    with pytest.raises(UserError, match=r"model's 64 positions; received longer ones: featurize again with") as told:
        model.fit(data, verbose=0)
    assert "\n" not in str(told.value)


def test_other_things_than_a_dict_are_refused() -> None:
    model = small()
    with pytest.raises(UserError, match=r"x must be a dict with input_ids and attention_mask; received ndarray"):
        model(some()["input_ids"])
    model.compile()
    with pytest.raises(UserError, match=r"labels must be .*; received \w+: featurize"):
        model.fit(unlabelled(some()), some()["start_positions"], verbose=0)


@pytest.mark.parametrize(
    ("method", "given", "options", "message"),
    [
        ("fit", None, {}, "x must be a dict of features, or batches of them; received NoneType: pass a split"),
        ("evaluate", [1], {}, "x must be a dict of features, or batches of them; received list: "),
        ("predict", "train", {}, "x must be a dict of features, or batches of them; received str: "),
        ("predict_on_batch", "split", {}, "received a Split"),
        ("test_on_batch", "split", {}, "received a Split"),
        ("fit", "split", {}, r"received a Split: pass split\.to_tf_dataset\(16\)"),
        ("fit", "shards", {}, "received Shards: pass a split"),
        ("fit", {}, {"class_weight": {0: 1.0}}, "class_weight must be left out, because labels are places"),
        ("train_on_batch", {}, {"class_weight": {0: 1.0}}, "class_weight must be left out"),
    ],
)
def test_other_data_has_one_sentence(workshop: Path, method: str, given: Any, options: dict, message: str) -> None:
    shards = open_shards(workshop / "shards")
    given = {"split": shards["train"], "shards": shards}.get(given, given) if isinstance(given, str) else given
    with pytest.raises(UserError, match=message):
        getattr(small(), method)(given, **options)


def test_a_model_without_weights_reads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = qa_fast.SpanModel(TINY_BERT)
    model.compile("adam")
    for read in (model.predict, model.evaluate):
        with pytest.raises(UserError, match="must have weights; received one that was made from a config alone: open"):
            read(some(), verbose=0)
    for read in (model.predict_on_batch, model.test_on_batch):
        with pytest.raises(UserError, match="must have weights; received one that was made from a config alone: open"):
            read(some())
    with pytest.raises(UserError, match=r"config must be the contents of a config\.json, as a dict; received 'minilm'"):
        qa_fast.SpanModel("minilm")
    model.train_on_batch(some())
    assert "training begins from random weights" in capsys.readouterr().err
    model.train_on_batch(some())
    assert capsys.readouterr().err == ""
    model.predict_on_batch(unlabelled(some()))
    model.check_trained()


def test_what_cannot_be_scored(workshop: Path) -> None:
    shards = open_shards(workshop / "shards")
    with pytest.raises(UserError, match=r"a split must hold questions, documents and answers .*; 'train' does not"):
        qa_fast.SquadMetrics(shards.split("train"))
    metrics = qa_fast.SquadMetrics(shards.split("validation"))
    with pytest.raises(UserError, match=r"SquadMetrics needs a qa_fast\.SpanModel; received Sequential"):
        metrics.set_model(keras.Sequential())


def test_a_split_of_another_tokenizer_is_refused(workshop: Path) -> None:
    import dataclasses

    split = dataclasses.replace(open_shards(workshop / "shards")["validation"], tokenizer_hash="f" * 64)
    model = qa_fast.SpanModel.from_pretrained(workshop / "tiny")
    with pytest.raises(UserError, match="made with the model's tokenizer; 'validation' was made with another"):
        qa_fast.SquadMetrics(split).set_model(model)


def test_where_a_model_is_saved(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = qa_fast.SpanModel.from_pretrained(make_model_folder(tmp_path / "whole"))
    model.save_pretrained("~/saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the output must be a writable folder"):
        model.save_pretrained(tmp_path / "file" / "model")
    assert qa_fast.evaluate(open_shards(workshop / "shards"), tmp_path / "saved", engine="onnx").f1 >= 0


def test_a_file_of_an_untrained_model_stays_untrained(workshop: Path, tmp_path: Path) -> None:
    model = qa_fast.SpanModel.from_pretrained(workshop / "tiny")
    model.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    with pytest.raises(UserError, match=r"head that was trained; received a new one \(it was saved untrained\)"):
        loaded.save_pretrained(tmp_path / "out")
    again = qa_fast.SpanModel.from_config(loaded.get_config())
    again.set_weights(loaded.get_weights())
    with pytest.raises(UserError, match="it was saved untrained"):
        again.save_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match="head that was trained"):
        qa_fast.Answerer.from_model(loaded)("Who was the keeper?", "Its keeper was Ane Skou.")
    loaded.call(unlabelled(some()), training=True)  # as a step of `fit` does
    loaded.save(tmp_path / "trained.keras")
    keras.saving.load_model(tmp_path / "trained.keras").check_trained()


def test_records_of_replaced_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small()
    model.save_pretrained(tmp_path / "model")
    assert "replaced" not in capsys.readouterr().err
    (tmp_path / "model" / "training").mkdir()
    (tmp_path / "model" / "training" / "metrics.json").write_text("{}")
    model.save_pretrained(tmp_path / "model")
    assert "describe the weights that were replaced: remove both before" in capsys.readouterr().err


def test_an_interrupted_save_leaves_no_threshold_of_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model = small()
    model.save_pretrained(tmp_path / "model")
    write_settings(tmp_path / "model", AnswerOptions(handle_impossible_answer=True, null_threshold=-3.0))
    monkeypatch.setattr("qa_fast.keras_model.span_model.save_model", stop)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "model")
    assert read_settings(tmp_path / "model").null_threshold is None
