"""Our kernels compute the same as the parts that they replace, forward and backward."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.backend import BACKEND
from tests.small_models import TINY, tiny_batch, tiny_model

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="kernels are called by TensorFlow's graphs alone")


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global CHUNKS, FEW, KEY, KernelUpdate, PartRunner, PlainUpdate, _Buffers, activation_part, after_part
    global before_part, distances_part, dropout_key, embed_norm_part, empty, gate_part, head_part, heads_part
    global keep_mask, keras
    global attention_part, kernel_attention, kernel_calls, merge_part, probabilities_part, run_by_kernels, share_out
    global site_key, spread
    global step_scalars, supported, tf
    import keras
    import tensorflow as tf

    from qa_fast.kernels.tiles import supported
    from qa_fast.model import kernel_attention, kernel_calls
    from qa_fast.model.dropout import dropout_key, keep_mask, site_key
    from qa_fast.model.islands import PartRunner
    from qa_fast.model.kernel_calls import CHUNKS, FEW, _Buffers, empty, share_out, spread
    from qa_fast.model.kernel_parts import run_by_kernels
    from qa_fast.model.parts import (
        activation_part,
        after_part,
        attention_part,
        before_part,
        distances_part,
        embed_norm_part,
        gate_part,
        head_part,
        heads_part,
        merge_part,
        probabilities_part,
    )
    from qa_fast.train.optimizer import step_scalars
    from qa_fast.train.updates import KernelUpdate, PlainUpdate

    KEY = site_key(dropout_key(0, 1, row_start=5), 3)


B, L, H, HEADS, INNER = 3, 21, 48, 4, 96
LENGTHS = np.array([21, 7, 13])
THERE = np.arange(L) < LENGTHS[:, None]  # bool[B, L]
SEEN = THERE[:, None, None, :]
# A window to both sides; the last queries of the second row see no key.
NEAR = SEEN & (np.abs(np.arange(L)[:, None] - np.arange(L)) < 4)
BOTH = SEEN & THERE[:, None, :, None]  # DeBERTa's: padding sees nothing
# Tolerance relative to the largest number: sums and polynomials differ, and in bfloat16 one rounding of 1 / 256.
CLOSE = {"float32": 5e-6, "bfloat16": 1e-2}

CASES = [
    *("probabilities", "no dropout", "a window", "a bias", "distances", "distances of keys"),
    *("heads", "rotated heads", "merge"),
    *("after", "before", "gate", "head", "embeddings"),
    *("masked embeddings", "gelu", "gelu_new", "relu", "silu"),
]


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    values = np.random.default_rng((*shape, seed)).standard_normal(shape, np.float32)
    return tf.cast(tf.constant(values), dtype)


def cases(dtype: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    scores, x = normal(B, HEADS, L, L, dtype=dtype) * 3, normal(B, L, H, dtype=dtype)
    vectors = [normal(H, seed=seed) for seed in range(3)]
    distances = [normal(B, HEADS, L, 2 * L, dtype=dtype, seed=seed) for seed in range(2)]
    norm = {"epsilon": 1e-5, "rate": 0.2}
    inner = normal(B, L, INNER, dtype=dtype) * 3, normal(INNER), KEY
    return {
        "probabilities": (probabilities_part, (scores, SEEN, None, KEY), {"rate": 0.2}),
        "no dropout": (probabilities_part, (scores, SEEN, None, KEY), {"rate": 0.0}),
        "a window": (probabilities_part, (scores, NEAR, None, KEY), {"rate": 0.2}),
        "a bias": (probabilities_part, (scores, SEEN, normal(1, HEADS, L, L), KEY), {"rate": 0.2}),
        "distances": (distances_part, (scores, *distances, BOTH, None, KEY), {"rate": 0.2}),
        "distances of keys": (distances_part, (scores, None, distances[1], BOTH, None, KEY), {"rate": 0.0}),
        "heads": (
            heads_part,
            (normal(B, L, 3 * H, dtype=dtype), normal(3 * H), None, None),
            {"heads": HEADS, "scale": 0.3},
        ),
        "rotated heads": (
            heads_part,
            (normal(B, L, 3 * H, dtype=dtype), None, *(normal(L, H // HEADS // 2, seed=seed) for seed in range(2))),
            {"heads": HEADS, "scale": 0.25},
        ),
        "merge": (merge_part, (normal(B, HEADS, L, H // HEADS, dtype=dtype),), {}),
        "after": (after_part, (x, vectors[0], normal(B, L, H, dtype=dtype, seed=1), *vectors[1:], KEY), norm),
        "before": (before_part, (x, None, normal(B, L, H, seed=1), vectors[1], None, KEY), norm),
        "gate": (gate_part, (normal(B, L, 2 * INNER, dtype=dtype), None, KEY), {"name": "gelu", "rate": 0.0}),
        "head": (head_part, (x, None, vectors[1], None), {"name": "gelu", "epsilon": 1e-5}),
        "embeddings": (
            embed_norm_part,
            (normal(B, L, H), THERE, *vectors[1:], KEY),
            {**norm, "masked": False, "dtype": dtype},
        ),
        "masked embeddings": (
            embed_norm_part,
            (normal(B, L, H), THERE, *vectors[1:], KEY),
            {**norm, "masked": True, "dtype": dtype},
        ),
        **{
            name: (activation_part, inner, {"name": name, "rate": 0.0}) for name in ("gelu", "gelu_new", "relu", "silu")
        },
    }


def results_and_gradients(run: Callable[..., Any], tensors: tuple[Any, ...]) -> list[Any]:
    """Return results and gradients of a part within a graph, as float32, for fixed upstream gradients."""
    given = [None if tensor is None else tf.convert_to_tensor(tensor) for tensor in tensors]
    floats = [tensor for tensor in given if tensor is not None and tensor.dtype.is_floating]

    @tf.function(autograph=False)
    def graph() -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outs = tf.nest.flatten(run(*given))
        upstream = [
            tf.cast(tf.random.stateless_normal(tf.shape(out), [at, 7]), out.dtype) for at, out in enumerate(outs)
        ]
        gradients = tape.gradient(outs, floats, output_gradients=upstream)
        return [*outs, *(gradient for gradient in gradients if gradient is not None)]

    return [tf.cast(tensor, tf.float32).numpy() for tensor in graph()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_computes_its_part(name: str, dtype: str) -> None:
    part, tensors, static = cases(dtype)[name]
    found = results_and_gradients(lambda *given: run_by_kernels(part, given, static), tensors)
    expected = results_and_gradients(lambda *given: part(*given, **static), tensors)
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE[dtype] * max(1.0, np.abs(theirs).max()))
    if name == "probabilities":  # the same elements are dropped
        np.testing.assert_array_equal(found[0] == 0, expected[0] == 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("length", "size", "rate"), [(21, 32, 0.2), (50, 64, 0.0), (64, 32, 0.3)])
def test_attention_is_one_kernel(length: int, size: int, rate: float, dtype: str) -> None:
    """In bfloat16 as in float32, with the same weights dropped; the third row sees no key, and so all keys equally."""
    if not supported(dtype):
        pytest.skip("the kernel needs AVX-512 BF16 for bfloat16, and AVX2 for float32")
    seen = (np.arange(length) < np.array([length, 7, 0])[:, None])[:, None, None, :]
    tensors = normal(B, length, 3 * HEADS * size, dtype=dtype), normal(3 * HEADS * size), seen, KEY
    how = {"heads": HEADS, "scale": 0.2, "rate": rate}
    found = results_and_gradients(lambda *given: run_by_kernels(attention_part, given, how), tensors)
    exact = tf.cast(tensors[0], tf.float32), *tensors[1:]
    expected = results_and_gradients(lambda *given: attention_part(*given, **how), exact)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE[dtype] * np.abs(theirs).max())


def test_attention_is_one_kernel_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"heads": HEADS, "scale": 0.2, "rate": 0.0}
    qkv, bias = normal(B, L, 3 * HEADS * 32, dtype="bfloat16"), normal(3 * HEADS * 32)
    for fast in ("float32", "bfloat16"):
        monkeypatch.setattr(kernel_attention, "supported", lambda dtype, fast=fast: dtype == fast)
        assert kernel_attention._fits_attention(qkv, bias, SEEN, KEY, **how) == (fast == "bfloat16")
        assert kernel_attention._fits_attention(tf.cast(qkv, tf.float32), bias, SEEN, KEY, **how) == (fast == "float32")
    assert not kernel_attention._fits_attention(qkv[:, :, : 3 * H], bias, SEEN, KEY, **how)  # heads of 12 numbers
    assert not kernel_attention._fits_attention(qkv, bias, NEAR, KEY, **how)


def test_no_number_is_hidden() -> None:
    scores = normal(B, HEADS, L, L).numpy()
    scores[0, 0, 0, 0], scores[1, 1, 1, 1] = np.nan, np.inf
    weights = run_by_kernels(probabilities_part, (scores, SEEN, None, KEY), {"rate": 0.0}).numpy()
    assert np.isnan(weights[0, 0, 0]).all()
    assert np.isnan(weights[1, 1, 1]).any()
    assert np.isfinite(weights).sum() == weights.size - 2 * L + np.isfinite(weights[1, 1, 1]).sum()
    x = normal(B, L, H).numpy()
    x[0, 0, 0] = np.nan
    normed = run_by_kernels(
        after_part, (x, *(normal(H) for _ in range(1)), x, normal(H), normal(H), KEY), {"epsilon": 1e-5, "rate": 0.0}
    ).numpy()
    assert np.isnan(normed[0, 0]).all()
    assert np.isfinite(normed[0, 1:]).all()
    active = run_by_kernels(activation_part, (x, normal(H), KEY), {"name": "gelu", "rate": 0.0}).numpy()
    assert np.isnan(active).sum() == 1


def test_no_weight_that_is_no_number_is_hidden() -> None:
    """For all its bits: simple rounding would turn 0x7FFFFFFF (CUDA's) into zero and 0x7F800001 into infinity."""
    bias = np.zeros(INNER, np.float32)
    bias[:4] = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    bias[4:6] = np.inf, -np.inf
    given = normal(B, L, INNER, dtype="bfloat16"), bias, KEY
    active = tf.cast(run_by_kernels(activation_part, given, {"name": "relu", "rate": 0.0}), tf.float32).numpy()
    assert np.isnan(active[..., :4]).all()
    assert (active[..., 4] == np.inf).all()
    assert (active[..., 5] == 0).all()


def test_what_is_dropped_does_not_count() -> None:
    """Neither forward nor backward, even if it is infinite; the same holds for padding."""
    x, residual, vectors = normal(B, L, H).numpy(), normal(B, L, H, seed=1), [normal(H, seed=seed) for seed in range(3)]
    kept = keras.ops.convert_to_numpy(keep_mask((B, L, H), KEY, 0.2))
    row, at = next((row, at) for row, at in zip(*np.nonzero(~kept[0]), strict=True))
    x[0, row, at] = np.inf
    tensors = (x, vectors[0], residual, *vectors[1:], KEY)
    how = {"epsilon": 1e-5, "rate": 0.2}
    for found in results_and_gradients(lambda *given: run_by_kernels(after_part, given, how), tensors):
        assert np.isfinite(found).all()
    x[1, LENGTHS[1] :] = np.inf
    embedded = run_by_kernels(
        embed_norm_part, (x, THERE, *vectors[1:], KEY), {**how, "masked": True, "dtype": "bfloat16"}
    )
    np.testing.assert_array_equal(tf.cast(embedded, tf.float32)[1, LENGTHS[1] :], 0)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_each_element_is_dropped_as_everywhere(rate: float) -> None:
    """The rate is not rounded to float32, which would drop other elements."""
    least, factor = kernel_calls.dropout_bits(rate)
    assert least == np.uint32(rate * 2**32)
    assert least != np.uint32(float(np.float32(rate)) * 2**32)
    assert factor == np.float32(1 / (1 - rate))


def test_what_has_no_kernel_is_left_to_others() -> None:
    embeddings = normal(B, L, H), THERE, normal(H), normal(H), KEY
    half_precision = {"masked": False, "epsilon": 1e-5, "rate": 0.0, "dtype": "float16"}
    assert run_by_kernels(embed_norm_part, embeddings, half_precision) is None
    half = normal(B, HEADS, L, L, dtype="float16")
    assert run_by_kernels(probabilities_part, (half, SEEN, None, KEY), {"rate": 0.0}) is None
    assert run_by_kernels(len, (half,), {}) is None
    given, how = (normal(B, L, INNER), normal(INNER), KEY), {"name": "relu", "rate": 0.2}
    assert run_by_kernels(activation_part, given, how) is None
    run = PartRunner("kernels")
    np.testing.assert_allclose(run(activation_part, *given, **how), activation_part(*given, **how), atol=1e-6)


@pytest.mark.parametrize("family", TINY)
def test_each_family_has_kernels_for_all_its_parts(family: str) -> None:
    model, missing = tiny_model(TINY[family], precision="bfloat16", parts=True), set()

    def by_kernel(part: Any, *tensors: Any, **static: Any) -> Any:
        result = run_by_kernels(part, tensors, static)
        missing.update({part} if result is None else ())
        return result

    model.run_part.by_kernel = by_kernel
    model(*tiny_batch(), dropout_key=dropout_key(0, 1))
    assert missing <= {attention_part}  # the heads are too small here


@pytest.mark.parametrize("numbers", ["one", "few"])
def test_rows_are_shared_out_once(numbers: str) -> None:
    seen: list[tuple[int, int, int]] = []
    spread(lambda *chunk: seen.append(chunk), 21, 1 if numbers == "one" else FEW)
    assert sorted(chunk for chunk, _, _ in seen) == list(range(CHUNKS))
    assert sorted(row for _, begin, end in seen for row in range(begin, end)) == list(range(21))


@pytest.mark.parametrize("who", ["the caller", "another"])
def test_an_error_in_any_thread_is_raised_once_all_have_stopped(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_calls, "processors", lambda: 2)
    caller, met, at_work = threading.current_thread(), threading.Barrier(2, timeout=60), []

    def work(job: int) -> None:
        if job < 2:
            met.wait()  # both threads have a job
        if (threading.current_thread() is caller) == (who == "the caller"):
            raise ValueError(f"job {job}")
        at_work.append(job)
        time.sleep(0.05)
        at_work.remove(job)

    with pytest.raises(ValueError, match="job"):
        share_out(work, range(8), 8)
    assert not at_work


def test_memory_is_used_again_and_never_twice_at_once() -> None:
    buffers = _Buffers()
    first = buffers.take(1000)
    assert buffers.take(1000) is not first
    at = first.ctypes.data
    view = first[10:20].view(np.int16)
    del first
    gc.collect()
    assert buffers.take(1000).ctypes.data != at  # a view is a use
    del view
    gc.collect()
    assert buffers.take(1001).ctypes.data == at
    assert buffers.take(400).ctypes.data == at  # so that a narrow batch uses the memory of a wide one
    assert buffers.take(100).ctypes.data != at  # but not all of it


def test_memory_that_is_free_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.model.kernel_calls._KEPT_BYTES", 10_000)
    buffers = _Buffers()
    for size in range(1000, 9000, 1000):
        buffers.take(size)
    assert sum(size * len(some) for size, some in buffers._kept.items()) <= 10_000 + 2000
    used = [buffers.take(4000) for _ in range(10)]
    assert len({array.ctypes.data for array in used}) == 10


def test_results_are_aligned() -> None:
    for size in (1, 63, 4097):
        assert empty((size,), np.float32).ctypes.data % 64 == 0


def test_the_update_is_the_optimizers() -> None:
    shapes = [(700, 800), (5,), (3, 4)]
    values = [normal(*shape).numpy() for shape in shapes]

    def after_three_steps(make: Callable[[list[Any]], Any], broken: bool) -> list[Any]:
        weights = [tf.Variable(value) for value in values]
        update = make(weights)
        step = tf.function(lambda gradients, scalars: update(gradients, scalars), autograph=False)
        norms = []
        for number in range(1, 4):
            gradients = [normal(*shape, seed=number) for shape in shapes]
            if broken and number == 2:
                gradients[1] = gradients[1] * np.inf
            norms.append(step(gradients, step_scalars(1e-2, 0.1, 1.0, number, loss_scale=8.0)).numpy())
        firsts, seconds = update.state()
        return [np.array(norms), *(weight.numpy() for weight in weights), *firsts, *seconds]

    for broken in (False, True):
        found = after_three_steps(KernelUpdate, broken)
        expected = after_three_steps(lambda weights: PlainUpdate(weights, compiled=False), broken)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)
        assert np.isfinite(found[0]).all() != broken


def test_without_clipping_small_gradients_are_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    weights = [tf.Variable(normal(4, 5))]
    norm = KernelUpdate(weights)([normal(4, 5) * 1e-3], step_scalars(1e-2, 0.1, 0.0, 1))
    assert 0 < float(norm) < 1
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


def test_an_update_goes_with_its_run() -> None:
    """TensorFlow keeps the functions of a traced step for ever: they must not hold weights and state."""
    weights = [tf.Variable(normal(4, 5))]
    update = KernelUpdate(weights)
    step = tf.function(update.__call__, autograph=False)
    step([normal(4, 5)], step_scalars(1e-2, 0.1, 1.0, 1))
    gone = weakref.ref(update)
    del step, update
    gc.collect()
    assert gone() is None


def test_the_updates_state_goes_out_and_in() -> None:
    weights = [tf.Variable(normal(4, 5))]
    update = KernelUpdate(weights)
    update([normal(4, 5, seed=1)], step_scalars(1e-2, 0.1, 1.0, 1))
    firsts, seconds = update.state()
    assert np.any(firsts[0])
    before = firsts[0].copy()
    update([normal(4, 5, seed=2)], step_scalars(1e-2, 0.1, 1.0, 2))
    np.testing.assert_array_equal(firsts[0], before)  # a copy
    other = KernelUpdate(weights)
    other.set_state(firsts, seconds)
    np.testing.assert_array_equal(other.state()[0][0], before)
    np.testing.assert_array_equal(other.state()[1][0], seconds[0])
