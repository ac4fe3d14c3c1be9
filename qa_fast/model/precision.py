"""Which compute dtype is fast on this device: measured, not believed.

Names of devices tell little (a CPU may or may not have bfloat16 tiles, a GPU may emulate bfloat16), so a product of
two matrices is timed in each dtype. bfloat16 goes before float16, since it needs no loss scaling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from qa_fast.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Casts and element-wise work eat part of what faster products win.
WORTHWHILE = 1.3


@dataclass(frozen=True)
class Choice:
    """A setting and why it was chosen.

    Attributes:
        value: The setting.
        reason: For the user, one line.
    """

    value: str
    reason: str


def choose_precision(asked: str = "auto") -> Choice:
    """Settle the compute dtype.

    Args:
        asked: One of `PRECISIONS`.

    Raises:
        UserError: `asked` is none of them.
    """
    if asked not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}; received {asked!r}")
    if asked != "auto":
        return Choice(asked, "as asked")
    return fastest(product_seconds(1024 if on_cpu() else 4096), accelerator=not on_cpu())


def fastest(seconds: dict[str, float], *, accelerator: bool) -> Choice:
    """The dtype to choose given the time of a product in each; float16 only where there is an accelerator."""
    gains = {name: seconds["float32"] / seconds[name] for name in ("bfloat16", "float16")}
    told = f"a product of matrices is {gains['bfloat16']:.1f} times as fast in bfloat16 as in float32 on this device"
    if gains["bfloat16"] >= WORTHWHILE:
        return Choice("bfloat16", told)
    if accelerator and gains["float16"] >= WORTHWHILE:
        return Choice("float16", f"{told}, {gains['float16']:.1f} times in float16")
    return Choice("float32", told)


def on_cpu() -> bool:
    """Whether the backend computes on the CPU."""
    import keras

    return not any(name.lower().startswith(("gpu", "cuda", "tpu")) for name in keras.distribution.list_devices())


def product_seconds(size: int) -> dict[str, float]:
    """Shortest of a few times of a `size` by `size` product, in seconds, for each dtype."""
    from keras import ops

    values = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    factors = {dtype: ops.cast(ops.convert_to_tensor(values), dtype) for dtype in ("float32", "bfloat16", "float16")}
    times = dict.fromkeys(factors, float("inf"))
    for _ in range(5):  # in turns, so that what else runs here for a while slows all of them
        for dtype, x in factors.items():
            start = time.perf_counter()
            float(ops.cast(ops.matmul(x, x)[0, 0], "float32"))  # waits for the result
            times[dtype] = min(times[dtype], time.perf_counter() - start)
    return times
