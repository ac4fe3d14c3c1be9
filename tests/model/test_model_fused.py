"""Fused attention: the same numbers as ours, and the module for CUDA, examined without a GPU."""

import re

import numpy as np
import pytest

from tests.processes import elsewhere
from tests.small_models import TINY, tiny_batch, tiny_model

pytestmark = pytest.mark.slow


def setup_module() -> None:
    pytest.importorskip("jax")


# Families with at least one block that can use fused attention.
WHOLE = ["bert", "distilbert", "roberta", "electra", "albert", "modernbert"]
PLAIN = ["mpnet", "deberta-v2", "deberta-v3"]
# One of each kind of attention that can be fused: plain, in shared layers, within windows. The steps of the others are
# traced alone.
TRAINED = ["bert", "albert", "modernbert"]
ROWS, LENGTH, HEADS = 4, 64, 4
CALLS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")


def without_dropout(name: str) -> dict:
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "qa_dropout")
    return TINY[name] | dict.fromkeys(rates, 0.0)


def micro_of(name: str) -> object:
    from qa_fast.train.steps import Micro

    input_ids, lengths, types = tiny_batch(ROWS, LENGTH - (2 if name in ("roberta", "mpnet") else 0))
    labels = np.array([0, 1, 2, 3], np.int32)
    weights = np.full(ROWS, 1 / (2 * ROWS), np.float32)
    targets, further = (np.zeros((ROWS, 2, 0), dtype) for dtype in (np.float32, np.int32))
    key = np.array([1, 0], np.uint32)
    return Micro(input_ids, lengths, types, labels, labels + 1, weights, weights, targets, further, key)


def runs(name: str) -> dict:
    """Return losses and mean gradients of three steps, ours and fused, and the number of fused calls in one.

    Of a family that is not trained the step's program takes the place of the losses.
    """
    import jax

    from qa_fast.train.backend_jax import JaxEngine
    from qa_fast.train.optimizer import step_scalars

    calls = []
    attend = jax.nn.dot_product_attention

    def counted(*arguments: object, **options: object) -> object:
        calls.append(options["implementation"])
        return attend(*arguments, **options)

    jax.nn.dot_product_attention = counted
    outcome = {}
    for attention in ("exact", "xla"):
        model = tiny_model(without_dropout(name))
        engine = JaxEngine(model, attention)
        calls.clear()
        losses = []
        if name in TRAINED:
            for number in (1, 2, 3):
                loss, norm = engine.step([micro_of(name)], step_scalars(1e-5, 0.0, 1.0, number))
                losses.append([float(loss), float(norm)])
        else:
            step = jax.make_jaxpr(engine._single)(engine._state, micro_of(name), step_scalars(1e-5, 0.0, 1.0, 1))
            losses.append(hash(re.sub(r"0x[0-9a-f]+", "", str(step))))  # without addresses
        # Adam's means of the gradients, not the weights: it blows the rounding of small gradients up to whole steps.
        means = np.concatenate([mean.ravel() for mean in engine.read()["firsts"]]).tolist()
        outcome[attention] = {
            "losses": losses,
            "means": means,
            "calls": len(calls),
            "blocks": len(model.config.order),
        }
    jax.nn.dot_product_attention = attend
    return outcome


def all_runs(names: list[str]) -> dict:
    return {name: runs(name) for name in names}


@pytest.fixture(scope="module")
def on_jax() -> tuple[dict, dict]:
    """The outcomes of the runs, and the facts of the modules, all of one process."""
    return elsewhere(
        __name__, f"print(json.dumps([t.all_runs({WHOLE + PLAIN!r}), t.both_modules()]))", KERAS_BACKEND="jax"
    )


@pytest.fixture(scope="module")
def outcomes(on_jax: tuple[dict, dict]) -> dict:
    return on_jax[0]


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_same_in_one_piece(name: str, outcomes: dict) -> None:
    ours, theirs = outcomes[name]["exact"], outcomes[name]["xla"]
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-5)
    assert np.abs(ours["means"]).max() > 1e-2
    np.testing.assert_allclose(ours["means"], theirs["means"], atol=1e-6)


@pytest.mark.parametrize("name", WHOLE + PLAIN)
def test_every_block_that_can_be_fused_is(name: str, outcomes: dict) -> None:
    ours, theirs = outcomes[name]["exact"], outcomes[name]["xla"]
    assert ours["calls"] == 0
    # ModernBERT's first and every third block after it see all tokens; a bias by distance is nothing for the kernel.
    expected = {"modernbert": 2}.get(name, 0 if name in PLAIN else theirs["blocks"])
    assert theirs["calls"] == expected
    if name not in TRAINED:
        assert (theirs["losses"] == ours["losses"]) == (name in PLAIN)


def lowered(attention: str, precision: str = "bfloat16", raw: dict | None = None, at_once: int = 1) -> str:
    """The module of a training step for CUDA, of several in one call, or (0) of a pass whose gradients are added up.

    No card is asked: JAX looks up the version of cuDNN before it lowers its kernel, and that look-up alone is replaced
    here, by a version that has the kernel. The rest is JAX's own lowering. Whether a card runs it is not tested.
    """
    import jax
    from jax._src.cudnn import fused_attention_stablehlo as fused

    from qa_fast.train.backend_jax import JaxEngine
    from qa_fast.train.optimizer import step_scalars

    fused.check_cudnn_version = lambda: 90500
    engine = JaxEngine(tiny_model(raw or TINY["bert"], precision=precision), attention, at_once=at_once)
    micro, scalars = micro_of("bert"), step_scalars(1e-5, 0.0, 1.0, 1)
    step, arguments = {
        0: (engine._add, (engine._state, engine._state[1], np.float32(0), micro, scalars)),
        1: (engine._single, (engine._state, micro, scalars)),
    }.get(at_once) or (engine._several, (engine._state, [micro] * at_once, np.stack([scalars] * at_once)))
    specs = jax.tree.map(lambda array: jax.ShapeDtypeStruct(np.shape(array), array.dtype), arguments)
    # A file of it would have to outlive versions of cuDNN; a text that is read at once need not.
    named = [jax.export.DisabledSafetyCheck.custom_call(name) for name in CALLS]
    return jax.export.export(step, platforms=["cuda"], disabled_checks=named)(*specs).mlir_module()


def module_facts(attention: str, at_once: int = 1, name: str = "bert") -> dict:
    text = lowered(attention, at_once=at_once, raw=TINY[name])
    scores = f"{ROWS}x{HEADS}x{LENGTH}x{LENGTH}x"
    return {
        "calls": [text.count(f"custom_call @{name}(") for name in CALLS],
        "float32 scores": text.count(f"tensor<{scores}f32>"),
        "bfloat16 scores": text.count(f"tensor<{scores}bf16>"),
        "loops": text.count("stablehlo.while"),
        "donated": text.count("tf.aliasing_output") + text.count("jax.buffer_donor"),
        "arrays": len(tiny_model(TINY["bert"]).trainable_variables) * 3,
    }


def both_modules() -> dict:
    return {attention: module_facts(attention) for attention in ("exact", "cudnn")} | {
        "several": module_facts("cudnn", at_once=4),
        "added up": module_facts("cudnn", at_once=0),
        "modernbert": module_facts("cudnn", name="modernbert"),
        "deberta-v3": module_facts("exact", name="deberta-v3"),
    }


def test_a_step_for_cuda_calls_cudnn_and_writes_no_scores(on_jax: tuple[dict, dict]) -> None:
    facts = on_jax[1]
    exact, cudnn, several = facts["exact"], facts["cudnn"], facts["several"]
    assert exact["float32 scores"] > 0
    assert exact["calls"] == [0, 0]
    assert cudnn["float32 scores"] == cudnn["bfloat16 scores"] == 0
    assert cudnn["calls"] == [2, 2]  # forward and backward of two blocks
    assert cudnn["donated"] == cudnn["arrays"]
    assert facts["added up"]["calls"] == facts["modernbert"]["calls"] == [2, 2]
    assert facts["deberta-v3"]["calls"] == [0, 0]
    assert several == cudnn | {"loops": cudnn["loops"] + 1}  # the step once, in a loop over the state that is donated
