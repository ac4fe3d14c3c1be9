"""Choose the compute dtype that is fast on this device, by measurement.

The name of a device says little (a CPU may lack bfloat16 tiles, a GPU may emulate bfloat16), so a product of two
matrices is timed in each dtype. bfloat16 is preferred to float16, since it needs no loss scaling.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qa_fast.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# The dtypes that are timed. A CPU gets no float16, which needs loss scaling.
_ON_CPU, _ON_ACCELERATOR = PRECISIONS[1:3], PRECISIONS[1:]
# Casts and element-wise work cost part of the time that faster products save.
WORTHWHILE = 1.3
# The two shortest times are most likely undisturbed if they are this close.
_ALIKE = 1.05
_TURNS, _MOST_TURNS = 5, 25


@dataclass(frozen=True)
class Choice:
    """A setting and why it was chosen.

    Attributes:
        value: The setting.
        reason: One line for the user.
    """

    value: str
    reason: str


def choose_precision(asked: str = "auto") -> Choice:
    """Choose the compute dtype.

    Args:
        asked: One of `PRECISIONS`.

    Raises:
        UserError: `asked` is not one of them.
    """
    if asked not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}; received {asked!r}")
    if asked != "auto":
        return Choice(asked, "as asked")
    return fastest(product_seconds(1024, _ON_CPU) if on_cpu() else product_seconds(4096, _ON_ACCELERATOR))


def fastest(seconds: dict[str, float]) -> Choice:
    """Choose a dtype by the time of a product in each."""
    gains = {name: seconds["float32"] / taken for name, taken in seconds.items()}
    reason = f"matrix products are {gains['bfloat16']:.1f} times as fast in bfloat16 as in float32 on this device"
    if gains["bfloat16"] >= WORTHWHILE:
        return Choice("bfloat16", reason)
    if gains.get("float16", 0) >= WORTHWHILE:
        return Choice("float16", f"{reason}, {gains['float16']:.1f} times in float16")
    return Choice("float32", reason)


def on_cpu() -> bool:
    """Return whether the backend computes on the CPU."""
    import keras

    return not any(name.lower().startswith(("gpu", "cuda", "tpu")) for name in keras.distribution.list_devices())


def unseen_gpu(devices: Path = Path("/dev")) -> str | None:
    """Return a line about an NVIDIA GPU that the backend does not see, or None.

    Packages without CUDA's libraries compute on the CPU beside an idle GPU and say nothing.

    Args:
        devices: The folder in which Linux lists its devices.
    """
    import keras

    found = sorted(devices.glob("nvidia[0-9]*"))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1") or os.environ.get("JAX_PLATFORMS") == "cpu"
    if not found or hidden or not on_cpu():
        return None
    backend, extra = ("JAX", "train-jax-cuda") if keras.backend.backend() == "jax" else ("TensorFlow", "train")
    return (
        f"there is a GPU ({found[0]}), but {backend} does not see it and computes on the CPU: install "
        f"'qa-fast[{extra}]' and a recent driver, or set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU"
    )


def product_seconds(size: int, dtypes: Sequence[str]) -> dict[str, float]:
    """Return the shortest time of a `size` by `size` product in each dtype, in seconds."""
    from keras import ops

    values = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    factors = {dtype: ops.cast(ops.convert_to_tensor(values), dtype) for dtype in dtypes}

    def once(dtype: str) -> float:
        start = time.perf_counter()
        float(ops.cast(ops.matmul(factors[dtype], factors[dtype])[0, 0], "float32"))  # waits for the result
        return time.perf_counter() - start

    return shortest(once, list(factors))


def shortest(once: Callable[[str], float], names: Sequence[str]) -> dict[str, float]:
    """Return the shortest time of each name: of five, or of more if other work may have slowed all of them.

    Args:
        once: Takes the time of a name, in seconds.
        names: Names, timed in turns, so that other work slows all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(_MOST_TURNS):
        if turn >= _TURNS and all(np.partition(taken, 1)[1] <= _ALIKE * min(taken) for taken in times.values()):
            break
        for name, taken in times.items():
            taken.append(once(name))
    return {name: min(taken) for name, taken in times.items()}
