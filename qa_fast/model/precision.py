"""Which compute dtype is fast on this device: measured, not believed.

Names of devices tell little (a CPU may or may not have bfloat16 tiles, a GPU may emulate bfloat16), so a product of
two matrices is timed in each dtype. bfloat16 goes before float16, since it needs no loss scaling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qa_fast.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Casts and element-wise work eat part of what faster products win.
WORTHWHILE = 1.3
# Two times that are this near each other were not disturbed, most likely.
_ALIKE = 1.05
_TURNS, _MOST_TURNS = 5, 25


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
    """Shortest of some times of a `size` by `size` product, in seconds, for each dtype."""
    from keras import ops

    values = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    factors = {dtype: ops.cast(ops.convert_to_tensor(values), dtype) for dtype in ("float32", "bfloat16", "float16")}

    def once(dtype: str) -> float:
        start = time.perf_counter()
        float(ops.cast(ops.matmul(factors[dtype], factors[dtype])[0, 0], "float32"))  # waits for the result
        return time.perf_counter() - start

    return shortest(once, list(factors))


def shortest(once: Callable[[str], float], names: Sequence[str]) -> dict[str, float]:
    """The shortest time of each: of five, but of more where what else runs here may be in all of them.

    Args:
        once: Takes a name's time, in seconds.
        names: Timed in turns, so that what else runs here for a while slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(_MOST_TURNS):
        if turn >= _TURNS and all(np.partition(seen, 1)[1] <= _ALIKE * min(seen) for seen in times.values()):
            break
        for name, seen in times.items():
            seen.append(once(name))
    return {name: min(seen) for name, seen in times.items()}
