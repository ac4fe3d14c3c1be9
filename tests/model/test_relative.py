"""Buckets of distances against transformers' own rules, and scores over distances against look-ups."""

from __future__ import annotations

import numpy as np
import pytest


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global bias_buckets, disentangled_buckets, falling, keras, rising, skewed
    import keras

    from qa_fast.model.relative import bias_buckets, disentangled_buckets, falling, rising, skewed


DISTANCES = np.arange(-600, 600)


def test_mpnet_s_buckets_are_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    # transformers counts from the query to the key.
    expected = MPNetEncoder.relative_position_bucket(torch.tensor(-DISTANCES), num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(bias_buckets(32, 128, 600), expected.numpy())


@pytest.mark.parametrize(("buckets", "furthest"), [(256, 512), (8, 64), (32, 128)])
def test_deberta_s_buckets_are_transformers(buckets: int, furthest: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    places = make_log_bucket_position(torch.tensor(DISTANCES), buckets, furthest).to(torch.long).numpy()
    expected = np.clip(places + buckets, 0, 2 * buckets - 1)
    np.testing.assert_array_equal(disentangled_buckets(buckets, furthest, 600), expected)


def test_without_buckets_each_distance_is_its_own_up_to_the_furthest() -> None:
    found = disentangled_buckets(0, 12, 20)
    np.testing.assert_array_equal(found, np.clip(np.arange(-20, 20) + 12, 0, 23))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_skewed_scores_are_those_of_each_pair_s_distance(length: int) -> None:
    buckets = np.arange(20, dtype=np.int32)  # of distances from -10 to 9: each its own
    ids = np.zeros((2, length), np.int32)
    pairs = np.arange(length)[:, None] - np.arange(length)[None, :] + 10
    by_query = keras.ops.convert_to_numpy(falling(buckets, ids)).astype(np.float32)
    by_key = keras.ops.convert_to_numpy(rising(buckets, ids)).astype(np.float32)
    rows = np.broadcast_to(by_query, (1, 1, length, 2 * length))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(skewed(rows))[0, 0], pairs)
    rows = np.broadcast_to(by_key, (1, 1, length, 2 * length))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(skewed(rows))[0, 0].T, pairs)
