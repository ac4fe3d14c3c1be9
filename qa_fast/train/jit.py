"""The choice of what XLA compiles. On GPUs this is measured on one block of the model before the run.

On CPUs the package's own kernels for element-wise operations were the fastest on every processor tested (AVX2, AVX-512
with BF16, AMX; see bench/README.md), and they hardly need compiling, so nothing is measured. On GPUs fusing the whole
step usually wins; a run too short to win back the time for measuring and compiling is not compiled.
"""

from __future__ import annotations

import time

import keras
import numpy as np

from qa_fast.batches import Batch
from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig
from qa_fast.model.encoder import EncoderModel
from qa_fast.model.precision import Choice, on_cpu
from qa_fast.train.optimizer import step_scalars
from qa_fast.train.steps import make_micros

SHORT_RUN = 150  # steps; compiling for all widths takes about as long as these
TIMED_STEPS = 3


def choose_jit(asked: str, config: EncoderConfig, precision: str, rows: int, width: int, steps: int) -> Choice:
    """Choose what is compiled.

    Args:
        asked: "auto", "on", "parts" or "off".
        config: Configuration of the model to be trained.
        precision: Its compute dtype.
        rows: B.
        width: A typical L.
        steps: Number of steps in the run.

    Raises:
        UserError: The backend cannot do what was asked for.
    """
    if keras.backend.backend() != "tensorflow":
        if asked in ("off", "parts"):
            raise UserError(
                f"--jit must be 'auto' or 'on' where KERAS_BACKEND is {keras.backend.backend()}, which compiles every "
                f"step; received {asked!r}: leave it out"
            )
        return Choice("on", f"{keras.backend.backend()} compiles every step")
    if asked != "auto":
        return Choice(asked, "as asked")
    if on_cpu():
        return Choice("parts", "fused CPU kernels for element-wise operations are the fastest on CPUs")
    if steps < SHORT_RUN:
        return Choice("off", f"compiling does not pay in a run of {steps} steps")
    milliseconds = {mode: 1000 * _block_seconds(config, precision, mode, rows, width) for mode in ("on", "off")}
    times = ", ".join(f"{mode} {value:.0f} ms" for mode, value in milliseconds.items())
    return Choice(min(milliseconds, key=milliseconds.__getitem__), f"a step of one block takes: {times}")


def _block_seconds(config: EncoderConfig, precision: str, mode: str, rows: int, width: int) -> float:
    """Return the shortest of a few steps of a model with one block and a small vocabulary."""
    from qa_fast.train.backend_tensorflow import TensorFlowEngine, training_devices

    small = config.shortened(512)
    model = EncoderModel(small, precision=precision)
    model.initialize(0)
    engine = TensorFlowEngine(model, mode, training_devices()[:1])
    generator = np.random.default_rng(0)
    labels = np.zeros(rows, np.int32)
    batch = Batch(
        rows=np.arange(rows),
        input_ids=generator.integers(0, small.embedding.vocab_size, (rows, width), dtype=np.int32),
        token_type_ids=np.zeros((rows, width), np.int8),
        lengths=np.full(rows, width, np.int32),
        starts=labels,
        ends=labels,
    )
    best = float("inf")
    for number in range(1 + TIMED_STEPS):
        begin = time.perf_counter()
        loss, norm = engine.step(make_micros([batch], 0, number, 1), step_scalars(1e-5, 0.0, 1.0, number + 1))
        float(loss), float(norm)
        if number:  # the first one compiles
            best = min(best, time.perf_counter() - begin)
    return best
