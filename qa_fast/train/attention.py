"""The choice of how attention is computed in training: exactly, or by cuDNN's kernel without dropout."""

from __future__ import annotations

import keras

from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig, Rotary
from qa_fast.model.precision import Choice

WIDTH_MULTIPLE = 64  # tokens in a tile of cuDNN's kernel
LARGEST_HEAD = 128  # for cuDNN's kernel before Hopper


def choose_attention(asked: str, config: EncoderConfig, precision: str, device: str | None) -> Choice:
    """Choose how attention is computed in training.

    "auto" never changes the result of training: it takes cuDNN's kernel only if the model has no dropout of attention
    probabilities, and otherwise the reason names the faster option. A user who follows a recipe expects its
    regularization.

    Args:
        asked: One of `config.ATTENTIONS`.
        config: Configuration of the model to be trained.
        precision: Its compute dtype.
        device: Why cuDNN's kernel cannot run on this device, or None if it can; see `against_device`.

    Raises:
        UserError: "cudnn" was asked for and cannot be used.
    """
    against = device or _against(config, precision)
    rate = config.attention.dropout or 0.0
    without = f"without the model's dropout of attention probabilities ({rate:g}), which the kernel lacks"
    if asked == "cudnn":
        if against:
            raise UserError(
                "--attention cudnn needs JAX on a CUDA device, half precision, and blocks that see all tokens; "
                f"{against}: use --attention auto"
            )
        return Choice("cudnn", f"as asked; {without}" if rate else "as asked")
    if asked == "exact":
        return Choice("exact", "as asked")
    if against:
        return Choice("exact", against)
    if rate:
        return Choice("exact", f"--attention cudnn is faster, but trains {without}")
    return Choice("cudnn", "the model has no dropout of attention probabilities")


def _against(config: EncoderConfig, precision: str) -> str | None:
    """Return why cuDNN's kernel cannot compute a model's attention, or None if it can."""
    positions, size = config.attention.positions, config.hidden_size // config.attention.heads
    if precision not in ("bfloat16", "float16"):
        return f"cuDNN's kernel computes in half precision, not in {precision}"
    if size % 8 or size > LARGEST_HEAD:
        return f"cuDNN's kernel takes heads whose size is a multiple of 8 up to {LARGEST_HEAD}, not {size}"
    if isinstance(positions, Rotary):
        return None if 0 in positions.windows else "every block of this model has a window"
    return None if positions is None else "this model's attention depends on distances"


def against_device() -> str | None:
    """Return why cuDNN's kernel cannot run on this machine, or None if it can."""
    if keras.backend.backend() != "jax":
        return f"cuDNN's kernel is called through JAX, not through {keras.backend.backend()}"
    import jax

    device = jax.local_devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version.lower():
        return f"cuDNN's kernel needs a CUDA device, not {device.platform}"
    if tuple(int(part) for part in device.compute_capability.split(".")) < (8, 0):
        return f"cuDNN's kernel needs compute capability 8.0, not {device.compute_capability}"
    return None
