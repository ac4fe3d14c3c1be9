"""The encoder: masks, dropout, parts, backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qa_fast.errors import UserError
from qa_fast.model.config import check_length
from qa_fast.model.families import read_encoder_config
from tests.small_models import TINY_BERT, TINY_DISTILBERT, logits, tiny_batch, tiny_model


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global EncoderModel, drop, dropout_key, keep_mask, keras, site_key
    import keras

    from qa_fast.model.dropout import drop, dropout_key, keep_mask, site_key
    from qa_fast.model.encoder import EncoderModel


ROOT = str(Path(__file__).parents[2])


@pytest.mark.parametrize("raw", [TINY_BERT, TINY_DISTILBERT], ids=["bert", "distilbert"])
def test_what_stands_behind_a_row_s_end_changes_nothing(raw: dict) -> None:
    model = tiny_model(raw)
    input_ids, lengths, types = tiny_batch()
    there = np.arange(16) < lengths[:, None]
    before = logits(model, input_ids, lengths, types)
    after = logits(model, np.where(there, input_ids, 5), lengths, types)
    np.testing.assert_allclose(before[:, there], after[:, there], atol=1e-6)
    wider = np.pad(input_ids, ((0, 0), (0, 8))), lengths, np.pad(types, ((0, 0), (0, 8)))
    np.testing.assert_allclose(logits(model, *wider)[:, :, :16][:, there], before[:, there], atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_and_finite(precision: str) -> None:
    batch = tiny_batch()
    batch[1][0] = 1
    there = np.arange(16) < batch[1][:, None]
    full, half = logits(tiny_model(), *batch), logits(tiny_model(precision=precision), *batch)
    assert np.isfinite(half).all()
    assert half.dtype == np.float32
    np.testing.assert_allclose(full[:, there], half[:, there], atol=0.15 if precision == "bfloat16" else 0.03)


def test_parts_compute_the_same_values_and_gradients() -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("parts are TensorFlow's")
    import tensorflow as tf

    batch = tiny_batch()
    key = tf.constant(dropout_key(1, 2))
    results = []
    for parts in (False, True):
        model = tiny_model(parts=parts)

        @tf.function
        def step(model: EncoderModel = model) -> tuple:
            with tf.GradientTape() as tape:
                start, end = model(*batch, dropout_key=key)
                loss = tf.reduce_mean(start * start + tf.sin(end))
            weights = [variable.value for variable in model.trainable_variables]
            return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]

        results.append(step())
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    assert len(results[0][1]) == len(results[1][1]) > 20
    for plain, compiled in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(plain, compiled, atol=1e-5)


def test_dropout_is_a_pure_function_of_seed_and_step() -> None:
    model, batch = tiny_model(), tiny_batch()
    first = logits(model, *batch, key=dropout_key(1, 2))
    np.testing.assert_array_equal(first, logits(model, *batch, key=dropout_key(1, 2)))
    for other in (dropout_key(1, 3), dropout_key(2, 2)):
        assert np.abs(first - logits(model, *batch, key=other)).max() > 0.01


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = np.ones((50, 40, 60), np.float32)
    y = keras.ops.convert_to_numpy(drop(x, site_key(dropout_key(0, 0), 4), 0.1))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.9)}
    assert abs((y == 0).mean() - 0.1) < 0.003
    assert drop(x, None, 0.0) is x


@pytest.mark.slow
def test_masks_of_sites_and_steps_are_independent() -> None:
    def mask(seed: int, step: int, site: int) -> np.ndarray:
        return (
            keras.ops.convert_to_numpy(keep_mask((64, 64, 32), site_key(dropout_key(seed, step), site), 0.5)).ravel()
            - 0.5
        )

    masks = [mask(0, 0, 0), mask(0, 1, 0), mask(0, 0, 1), mask(1, 0, 0), np.roll(mask(0, 0, 0), 1)]
    correlations = np.corrcoef(masks) - np.eye(len(masks))
    assert np.abs(correlations).max() < 0.015  # five standard deviations at 131,072 draws


def test_a_device_s_share_of_the_rows_gets_its_share_of_the_mask() -> None:
    whole = keras.ops.convert_to_numpy(keep_mask((6, 5), site_key(dropout_key(9, 9), 1), 0.3))
    part = keras.ops.convert_to_numpy(keep_mask((2, 5), site_key(dropout_key(9, 9, row_start=4), 1), 0.3))
    np.testing.assert_array_equal(whole[4:], part)


@pytest.mark.slow
def test_the_other_backend_gives_the_same_logits_and_masks() -> None:
    """Run in a separate process, since Keras reads KERAS_BACKEND once."""
    pytest.importorskip("jax")
    pytest.importorskip("tensorflow")
    other = "jax" if keras.backend.backend() == "tensorflow" else "tensorflow"
    here = logits(tiny_model(), *tiny_batch(), key=dropout_key(5, 6))
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "import keras, tests.small_models as t; from qa_fast.model.dropout import dropout_key;"
        "x = t.logits(t.tiny_model(), *t.tiny_batch(), key=dropout_key(5, 6));"
        "print(json.dumps([keras.backend.backend(), x.tolist()]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, ROOT],
        env=os.environ | {"KERAS_BACKEND": other, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    backend, there = json.loads(run.stdout.splitlines()[-1])
    assert backend == other
    np.testing.assert_allclose(here, np.array(there), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, r"model_type must be one of albert, bert, .*xlm-roberta; received 't5'"),
        ({"model_type": None}, r"model_type must be one of albert, .*; received None"),
        ({"hidden_act": "mish"}, r"activation must be one of .*; received 'mish'"),
        ({"position_embedding_type": "relative_key"}, r"must be 'absolute'; received 'relative_key'"),
        ({"num_attention_heads": 5}, r"multiple of the number of heads; received 32 and 5"),
    ],
)
def test_configs_that_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_encoder_config(TINY_BERT | change)


def test_a_config_without_a_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"config.json of a bert model must hold 'hidden_size'"):
        read_encoder_config({key: value for key, value in TINY_BERT.items() if key != "hidden_size"})


def test_features_longer_than_the_positions_are_refused() -> None:
    config = read_encoder_config(TINY_BERT)
    check_length(config, 64)
    with pytest.raises(UserError, match=r"model's 64 positions; received max_length=65"):
        check_length(config, 65)
