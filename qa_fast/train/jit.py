"""What to compile with XLA. On GPUs: measured on one block of the model, on this device, before the run.

On CPUs kernels of our own between TensorFlow's products are the fastest on every processor that was at hand (AVX2,
AVX-512 with BF16, AMX; see bench/README.md) and there is next to nothing to compile, so nothing is measured. On GPUs
fusing the whole step wins as a rule; a run too short to win the measuring time back is not compiled.
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
    """Settle what is compiled.

    Args:
        asked: "auto", "on", "parts" or "off".
        config: Of the model to be trained.
        precision: Its compute dtype.
        rows: B.
        width: A typical L.
        steps: Of the run.

    Raises:
        UserError: The backend cannot do what is asked.
    """
    if keras.backend.backend() != "tensorflow":
        if asked in ("off", "parts"):
            raise UserError(
                f"--jit must be 'auto' or 'on' where KERAS_BACKEND is {keras.backend.backend()}, which compiles every "
                f"step; received {asked!r}"
            )
        return Choice("on", f"{keras.backend.backend()} compiles every step")
    if asked != "auto":
        return Choice(asked, "as asked")
    if on_cpu():
        return Choice("parts", "kernels for what lies between products are the fastest on CPUs")
    if steps < SHORT_RUN:
        return Choice("off", f"{steps} steps are too few to compile for")
    milliseconds = {mode: 1000 * _block_seconds(config, precision, mode, rows, width) for mode in ("on", "off")}
    told = ", ".join(f"{mode} {value:.0f} ms" for mode, value in milliseconds.items())
    return Choice(min(milliseconds, key=milliseconds.__getitem__), f"a step of one block takes: {told}")


def _block_seconds(config: EncoderConfig, precision: str, mode: str, rows: int, width: int) -> float:
    """Shortest of a few steps of a model of one block and a small vocabulary."""
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
        start = time.perf_counter()
        loss, norm = engine.step(make_micros([batch], 0, number, 1), step_scalars(1e-5, 0.0, 1.0, number + 1))
        float(loss), float(norm)
        if number:  # the first one compiles
            best = min(best, time.perf_counter() - start)
    return best
