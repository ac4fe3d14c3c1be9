"""The choice of attention and of widths in a training run, and the message about it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig
from qa_fast.model.families import read_encoder_config
from qa_fast.train import TrainConfig
from tests.small_models import TINY, squad_like_lengths


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Choice, _widths, against_device, choose_attention, keras
    import keras

    from qa_fast.model.precision import Choice
    from qa_fast.train.attention import against_device, choose_attention
    from qa_fast.train.plan import _widths


def config_of(name: str, **changes: object) -> EncoderConfig:
    return read_encoder_config(TINY[name] | changes)


def test_auto_changes_nothing_that_is_trained() -> None:
    """Dropout in attention is kept, and the line says what would be faster and at which price."""
    choice = choose_attention("auto", config_of("bert"), "bfloat16", None)
    assert choice.value == "exact"
    assert choice.reason == (
        "--attention cudnn is faster, but trains without the model's dropout of attention probabilities (0.1), which "
        "the kernel lacks"
    )
    assert (
        choose_attention("auto", config_of("bert", attention_probs_dropout_prob=0.0), "bfloat16", None).value == "cudnn"
    )
    assert choose_attention("auto", config_of("modernbert"), "float16", None).value == "cudnn"
    assert choose_attention("auto", config_of("bert").with_dropout(0.0), "bfloat16", None).value == "cudnn"


def test_what_is_asked_for_is_taken_and_its_price_told() -> None:
    asked = choose_attention("cudnn", config_of("bert"), "bfloat16", None)
    assert (asked.value, asked.reason) == (
        "cudnn", "as asked; without the model's dropout of attention probabilities (0.1), which the kernel lacks"
    )  # fmt: skip
    assert choose_attention("cudnn", config_of("modernbert"), "bfloat16", None).reason == "as asked"
    assert choose_attention("exact", config_of("modernbert"), "bfloat16", None).value == "exact"


@pytest.mark.parametrize(
    ("config", "precision", "device", "reason"),
    [
        (config_of("bert"), "float32", None, "cuDNN's kernel computes in half precision, not in float32"),
        (config_of("bert"), "bfloat16", "there is no card", "there is no card"),
        (config_of("mpnet"), "bfloat16", None, "this model's attention depends on distances"),
        (config_of("deberta-v3"), "bfloat16", None, "this model's attention depends on distances"),
        (config_of("bert", hidden_size=48), "bfloat16", None, "heads whose size is a multiple of 8 up to 128, not 12"),
        (
            config_of("bert", hidden_size=1024),
            "bfloat16",
            None,
            "heads whose size is a multiple of 8 up to 128, not 256",
        ),
    ],
)
def test_where_the_kernel_cannot_be_had(config: EncoderConfig, precision: str, device: str | None, reason: str) -> None:
    choice = choose_attention("auto", config, precision, device)
    assert choice.value == "exact"
    assert reason in choice.reason
    with pytest.raises(
        UserError, match=rf"--attention cudnn needs JAX on a CUDA device.*{reason}: use --attention auto"
    ):
        choose_attention("cudnn", config, precision, device)


def test_windows_in_every_block_leave_nothing_to_the_kernel() -> None:
    config = config_of("modernbert")
    positions = dataclasses.replace(config.attention.positions, windows=(6, 6, 6, 6))
    local = dataclasses.replace(config, attention=dataclasses.replace(config.attention, positions=positions))
    assert choose_attention("auto", local, "bfloat16", None).reason == "every block of this model has a window"


def test_a_machine_without_a_card_says_so() -> None:
    backend = keras.backend.backend()
    expected = "needs a CUDA device, not cpu" if backend == "jax" else f"called through JAX, not through {backend}"
    assert expected in (against_device() or "")


def test_the_option_is_checked() -> None:
    with pytest.raises(UserError, match=r"--attention must be one of auto, exact, cudnn; received 'flash'"):
        TrainConfig(attention="flash").check()


@pytest.mark.parametrize(
    ("cpu", "jit", "precision", "attention", "widths"),
    [
        (True, "on", "float32", "exact", 12),
        (True, "parts", "float32", "exact", 44),
        (True, "parts", "bfloat16", "exact", 22),
        (True, "off", "bfloat16", "exact", 22),
        (False, "on", "bfloat16", "exact", [144, 192, 256, 384]),
        (False, "on", "bfloat16", "cudnn", [128, 192, 256, 384]),
    ],
)
def test_few_widths_are_compiled(
    monkeypatch: pytest.MonkeyPatch, cpu: bool, jit: str, precision: str, attention: str, widths: int | list[int]
) -> None:
    monkeypatch.setattr("qa_fast.train.plan.on_cpu", lambda: cpu)
    lengths = squad_like_lengths(20_000)
    data, config = SimpleNamespace(lengths=lengths), config_of("bert", max_position_embeddings=512)
    choices = (Choice(value, "") for value in (precision, attention, jit))
    found = _widths(data, config, TrainConfig(), *choices).tolist()
    assert (len(found) if cpu else found) == widths
