"""One optimisation step against torch and against itself: loss, AdamW, clipping, accumulation, devices."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qa_fast.batches import Batch, BatchCutter
from qa_fast.train.config import TrainConfig
from qa_fast.train.schedule import learning_rate_at
from tests.backend import JIT, untraced
from tests.processes import elsewhere
from tests.small_models import EACH_NETWORK, TINY, TINY_BERT, make_features, tiny_model
from tests.torch_models import opened_by_torch, torch_inputs


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global keras, load_model, make_engine, make_micros, save_model, span_loss, state_dict
    global step_scalars, update
    import keras

    from qa_fast.model.checkpoint import load_model, save_model, state_dict
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import span_loss, step_scalars, update
    from qa_fast.train.steps import make_micros


ROOT = str(Path(__file__).parents[2])
# What turns dropout off; ModernBERT's rates are 0 anyway.
NO_DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)


def batches(count: int, rows: int = 6, seed: int = 0, pad_id: int = 0) -> list[Batch]:
    """Batches of random features, each 48 wide."""
    made = []
    for number in range(count):
        lengths = np.random.default_rng([seed, number]).integers(6, 48, rows)
        made.append(BatchCutter([make_features(lengths, seed=100 * seed + number)], pad_id).cut(np.arange(rows), 48))
    return made


@functools.cache  # several tests compare with the same run
def losses_of_run(
    precision: str = "float32",
    jit: str = "off",
    steps: int = 6,
    group: int = 1,
    family: str = "bert",
    freeze: str | None = None,
) -> dict:
    """Losses and last weights of a few steps with dropout; also run in other processes."""
    model = tiny_model(TINY[family], precision=precision)
    for name in TrainConfig(freeze=freeze).frozen_parts(model.config):
        model.freezable[name].trainable = False
    engine = make_engine(model, jit)
    losses = []
    for step in range(steps):
        micros = make_micros(batches(steps * group)[step * group : (step + 1) * group], 3, step, engine.devices)
        loss, norm = engine.step(micros, step_scalars(1e-3, 0.01, 1.0, step + 1))
        losses.append([float(loss), float(norm)])
    engine.publish()
    weights = {
        path: keras.ops.convert_to_numpy(weight)
        for path, weight in model.by_path.items()
        # A shift of all scores moves no probability: these get gradients of rounding alone, blown up by Adam.
        if not path.endswith(("qkv_bias", "block_1/ffn_norm_beta", "head/output_bias"))
    }
    return {
        "backend": keras.backend.backend(),
        "devices": engine.devices,
        "losses": losses,
        "sums": {path: [float(value.sum()), float(np.abs(value).sum())] for path, value in weights.items()},
    }


def assert_same_run(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=tolerance)
    for ours_sums, theirs_sums in zip(ours["sums"].values(), theirs["sums"].values(), strict=True):
        np.testing.assert_allclose(ours_sums, theirs_sums, rtol=tolerance, atol=5e-3)


# One of each kind of encoder; tests/model/test_families.py compares the gradients of every family with torch's.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "albert", "mpnet", "deberta-v3", "modernbert"])
def test_twenty_steps_follow_torch(name: str, tmp_path: Path) -> None:
    """Same weights, batches, AdamW, clipping and schedule, float32, no dropout."""
    torch = pytest.importorskip("torch")
    raw = TINY[name] | (NO_DROPOUT if name != "modernbert" else {})
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps(raw))
    save_model(tiny_model(raw), tmp_path / "model", tmp_path / "source")
    model, _ = load_model(tmp_path / "model")
    reference = opened_by_torch(tmp_path / "model").train()
    decayed = [p for n, p in reference.named_parameters() if p.ndim > 1]
    others = [p for n, p in reference.named_parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    engine = make_engine(model, "off")
    losses = []
    for step, batch in enumerate(batches(20, pad_id=model.config.pad_id)):
        rate = learning_rate_at(step, 20, 1e-3, "linear", 0.1)
        loss, norm = engine.step(make_micros([batch], 0, step, engine.devices), step_scalars(rate, 0.01, 1.0, step + 1))
        inputs = torch_inputs(reference, batch.input_ids, batch.lengths, batch.token_type_ids)
        labels = {"start_positions": batch.starts, "end_positions": batch.ends}
        out = reference(**inputs, **{key: torch.tensor(column, dtype=torch.long) for key, column in labels.items()})
        optimizer.zero_grad()
        out.loss.backward()
        torch_norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append((float(loss), float(out.loss.detach())))
        assert abs(float(norm) - float(torch_norm)) < 2e-3 * float(torch_norm)
    ours, theirs = np.array(losses).T
    assert np.ptp(theirs) > 0.1
    assert np.abs(ours - theirs).max() < 1e-3
    if name != "bert":
        return
    engine.publish()
    expected = {key: value.detach().numpy() for key, value in reference.state_dict().items()}
    for key, value in state_dict(model).items():
        if key.endswith(("self.key.bias", "layer.1.output.LayerNorm.bias", "qa_outputs.bias")):
            continue  # a shift of all scores moves no probability: gradients of rounding alone, blown up by Adam
        np.testing.assert_allclose(value, expected[key], atol=2e-3)


@pytest.mark.skipif(JIT != "off", reason="JAX compiles a step for each width")
@pytest.mark.parametrize(("parts", "each_width"), [("kernels", False), ("compiled", True)])
def test_a_new_width_counts_as_compiled_only_where_xla_compiles_for_each(parts: str, each_width: bool) -> None:
    wide = batches(1)[0]
    narrow = replace(wide, input_ids=wide.input_ids[:, :40], token_type_ids=wide.token_type_ids[:, :40])
    narrow.lengths[:] = np.minimum(narrow.lengths, 40)
    counted = []
    with untraced():
        engine = make_engine(tiny_model(), "parts")
        engine.model.run_part.parts = parts
        for step, batch in enumerate((wide, wide, narrow, wide)):
            engine.step(make_micros([batch], 0, step, engine.devices), step_scalars(1e-3, 0.0, 1.0, step + 1))
            counted.append(engine.compiled())
    assert counted == [True, False, each_width, False]


@pytest.mark.slow
def test_the_loss_is_transformers_loss() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    batch = batches(1, rows=5)[0]
    batch.starts[1], batch.ends[2] = 47, 400  # outside their features: they do not count
    batch.rows[4] = -1
    micro = make_micros([batch], 0, 0, 1)[0]
    start, end = generator.standard_normal((2, 5, 48), dtype=np.float32)
    weights = (micro.starts, micro.ends, micro.start_weights, micro.end_weights)
    ours = float(keras.ops.convert_to_numpy(span_loss(start, end, *weights)))

    def theirs(logits: np.ndarray, labels: np.ndarray, rows: list[int]) -> float:
        chosen = torch.tensor(labels[rows], dtype=torch.long)
        return float(torch.nn.functional.cross_entropy(torch.tensor(logits[rows]), chosen))

    expected = (theirs(start, batch.starts, [0, 2, 3]) + theirs(end, batch.ends, [0, 1, 3])) / 2
    assert batch.lengths[1] < 47
    assert abs(ours - expected) < 1e-5


@pytest.mark.slow
def test_a_row_with_several_labels_may_have_any_of_them() -> None:
    generator = np.random.default_rng(0)
    start, end = generator.normal(0, 30, (2, 3, 16)).astype(np.float32)
    micro = make_micros([replace(batches(1, rows=3)[0], further=np.full((3, 2, 2), -1, np.int32))], 0, 0, 4)[0]
    assert micro.further.shape == (4, 2, 2)
    weights = (np.array([3, 4, 5], np.int32), np.array([6, 7, 8], np.int32), *np.full((2, 3), 1 / 6, np.float32))

    def loss(further: np.ndarray | None) -> float:
        return float(keras.ops.convert_to_numpy(span_loss(start, end, *weights, further)))

    none = np.full((3, 2, 2), -1, np.int32)
    assert loss(none) == loss(none[:, :, :0]) == loss(None)
    # The first row has two more starts and ends, the second the same label again, which changes nothing.
    further = none.copy()
    further[0], further[1] = [[1, 12], [2, 15]], [[4, 400], [7, 7]]
    chances = np.exp([start, end]) / np.exp([start, end]).sum(axis=2, keepdims=True, dtype=np.float64)
    right = np.stack([chances[side][np.arange(3), weights[side]] for side in (0, 1)])
    right[:, 0] += [chances[0, 0, [1, 12]].sum(), chances[1, 0, [2, 15]].sum()]
    assert loss(further) == pytest.approx(-np.log(right).sum() / 6, rel=1e-5)


def test_an_update_is_torch_s_adamw_and_adam() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    for decay in (0.0, 0.1):
        value = generator.standard_normal((4, 3)).astype(np.float32)
        parameter = torch.nn.Parameter(torch.tensor(value))
        optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=decay)
        first, second = np.zeros_like(value), np.zeros_like(value)
        for number in range(1, 6):
            gradient = generator.standard_normal((4, 3)).astype(np.float32)
            parameter.grad = torch.tensor(gradient)
            optimizer.step()
            new = update(
                [value], [gradient * 8], [first], [second], step_scalars(0.01, decay, 0, number, 8.0), decays=(True,)
            )
            value, first, second = (keras.ops.convert_to_numpy(group[0]) for group in new[:3])
            assert abs(float(new[3]) - np.linalg.norm(gradient)) < 1e-4
        np.testing.assert_allclose(value, parameter.detach().numpy(), atol=1e-5)


def test_an_update_that_is_not_finite_changes_nothing() -> None:
    value = np.ones((2, 2), np.float32)
    gradient = np.array([[1, np.inf], [0, 0]], np.float32)
    *new, norm = update([value], [gradient], [value], [value], step_scalars(0.1, 0.1, 1.0, 1), decays=(True,))
    for group in new:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(group[0]), value)
    assert not np.isfinite(float(norm))


@pytest.mark.slow
def test_micro_batches_add_up_to_the_batch() -> None:
    """Without dropout, two halves accumulated are one step over the whole."""
    raw = TINY_BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    whole = batches(1, rows=8)[0]
    halves = [Batch(*(column[rows] for column in vars(whole).values())) for rows in (slice(0, 4), slice(4, 8))]
    results = []
    for group in ([whole], halves):
        model = tiny_model(raw)
        engine = make_engine(model, "off")
        outcome = [
            [float(part) for part in engine.step(make_micros(group, 0, 0, engine.devices), step_scalars(1e-3, 0, 1, n))]
            for n in (1, 2, 3)
        ]
        results.append(outcome)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("jit", ["parts", "on"])
def test_compiling_changes_nothing(jit: str) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a choice on TensorFlow")
    assert_same_run(losses_of_run(), losses_of_run(jit=jit))


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_NETWORK[1:])
def test_kernels_between_products_change_nothing_in_any_family(family: str) -> None:
    """Parts without a kernel (DeBERTa's attention) are compiled by XLA."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a choice on TensorFlow")
    with untraced():
        plain = losses_of_run(steps=2, family=family)["losses"]
    parts = losses_of_run(jit="parts", steps=2, family=family)["losses"]
    np.testing.assert_allclose(plain, parts, rtol=1e-4)


@pytest.mark.slow
def test_kernels_between_products_learn_in_bfloat16() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a choice on TensorFlow")
    plain, parts = (losses_of_run("bfloat16", jit)["losses"] for jit in ("off", "parts"))
    np.testing.assert_allclose(plain, parts, rtol=0.05)


@pytest.mark.slow
def test_two_devices_train_as_one_on_tensorflow() -> None:
    call = (
        "import tensorflow as tf; two = [tf.config.LogicalDeviceConfiguration()] * 2;"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0], two);"
        "print(json.dumps(t.losses_of_run(jit='parts', group=2, freeze='1')))"
    )
    theirs = elsewhere(__name__, call, KERAS_BACKEND="tensorflow")
    assert theirs["devices"] == 2
    assert_same_run(losses_of_run(group=2, freeze="1"), theirs)


@pytest.mark.slow
def test_two_devices_train_as_one_on_jax() -> None:
    """With accumulation, and with frozen weights."""
    pytest.importorskip("jax")
    flags = "--xla_force_host_platform_device_count=2"
    call = "print(json.dumps([t.losses_of_run(jit='on', group=2), t.losses_of_run(jit='on', freeze='embeddings')]))"
    theirs = elsewhere(__name__, call, KERAS_BACKEND="jax", XLA_FLAGS=flags)
    for found, ours in zip(theirs, (losses_of_run(group=2), losses_of_run(freeze="embeddings")), strict=True):
        assert (found["backend"], found["devices"]) == ("jax", 2)
        assert_same_run(ours, found)


@pytest.mark.parametrize(
    ("family", "freeze", "frozen"),
    [
        ("bert", "1", {"embeddings", "block_0"}),
        pytest.param("bert", "2", {"embeddings", "block_0", "block_1"}, marks=pytest.mark.slow),
        pytest.param("albert", "embeddings", {"embeddings"}, marks=pytest.mark.slow),
        pytest.param("deberta-v3", "1", {"embeddings", "relative", "block_0"}, marks=pytest.mark.slow),
        pytest.param("mpnet", "embeddings", {"embeddings"}, marks=pytest.mark.slow),
    ],
)
@untraced()
def test_the_weights_that_are_not_frozen_get_the_same_step(family: str, freeze: str, frozen: set[str]) -> None:
    """Without clipping each weight's step depends on its own gradient alone."""
    after = []
    for choice in (None, freeze):
        model = tiny_model(TINY[family])
        before = {path: keras.ops.convert_to_numpy(weight).copy() for path, weight in model.by_path.items()}
        for name in TrainConfig(freeze=choice).frozen_parts(model.config):
            model.freezable[name].trainable = False
        engine = make_engine(model, JIT)
        engine.step(make_micros(batches(1), 3, 0, engine.devices), step_scalars(1e-3, 0.01, 0.0, 1))
        engine.publish()
        after.append({path: keras.ops.convert_to_numpy(weight) for path, weight in model.by_path.items()})
        sizes = {name: len(arrays) for name, arrays in engine.read().items()}
        untouched = sum(path.split("/")[0] in frozen for path in before) if choice else 0
        trained = len(before) - untouched
        assert sizes == {"weights": trained, "firsts": trained, "seconds": trained, "frozen": untouched}
    whole, rest = after
    for path, value in rest.items():
        if path.split("/")[0] in frozen:
            np.testing.assert_array_equal(value, before[path], err_msg=path)
        elif not path.endswith(("qkv_bias", "ffn_norm_beta", "head/output_bias")):  # see `losses_of_run`
            np.testing.assert_allclose(value, whole[path], atol=1e-4, err_msg=path)  # of a step of 1e-3
    assert {path.split("/")[0] for path in rest if (rest[path] != before[path]).any()}.isdisjoint(frozen)


def test_rows_are_filled_up_to_the_devices_without_weight() -> None:
    batch = batches(1, rows=5)[0]
    micro = make_micros([batch], 0, 0, 4)[0]
    assert micro.input_ids.shape == (8, 48)
    assert micro.lengths.tolist() == [*batch.lengths, 1, 1, 1]
    assert (micro.start_weights[5:] == 0).all()
    np.testing.assert_allclose(micro.start_weights[:5].sum() + micro.end_weights[:5].sum(), 1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_follows_float32(precision: str) -> None:
    full, half = losses_of_run(), losses_of_run(precision=precision)
    np.testing.assert_allclose(
        np.array(full["losses"])[:, 0], np.array(half["losses"])[:, 0], rtol=0.05 if precision == "bfloat16" else 0.01
    )


def test_learning_rates() -> None:
    rates = [learning_rate_at(step, 20, 1.0, "linear", 0.25) for step in range(20)]
    np.testing.assert_allclose(rates[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    np.testing.assert_allclose(rates[-1], 1 / 15)
    assert (np.diff(rates[5:]) < 0).all()
    assert learning_rate_at(7, 20, 0.3, "constant", 0.5) == 0.3
    assert learning_rate_at(0, 1, 0.3, "linear", 0.1) == 0.3
