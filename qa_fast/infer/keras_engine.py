"""The Keras engine: batches of similar lengths, compiled if that pays.

Features are grouped by length, so that batches have little padding. Batches are yielded in the order of their widths,
each with its rows. The consumer decodes a batch while the next ones are computed, so that memory holds the logits of a
few batches only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from qa_fast.backend import keep_compiled, refuse_fork
from qa_fast.batches import Batch, BatchCutter
from qa_fast.errors import UserError
from qa_fast.infer.engine import Prediction
from qa_fast.infer.shapes import Effort, Fitted, Fixed, blank
from qa_fast.model.checkpoint import load_model
from qa_fast.model.config import check_length
from qa_fast.model.encoder import EncoderModel
from qa_fast.model.islands import parts_mode
from qa_fast.model.precision import choose_precision, on_cpu
from qa_fast.schema import Features, Int64s

BATCH_TOKENS_CPU = 8192
BATCH_TOKENS_GPU = 131072
# For a process that lives long. On a CPU larger batches leave the caches: 1536 tokens take the least time per token.
FIXED_TOKENS_CPU, FIXED_ROWS_CPU = 2048, 8
# On a GPU with JAX each shape is compiled at the start.
FIXED_ROWS_COMPILED_GPU = 32
# The small operations between kernels use one core, so that two batches run at a time.
_AT_A_TIME_CPU = 2


class KerasEngine:
    """An `Engine` around a Keras model and its compiled functions.

    Args:
        model: The model; later changes of its weights take effect.
        shapes: How features become batches; None means `fitted`.
        precision: Precision to compute in; None means the model's.
    """

    name = "keras"
    at_once = 1

    def __init__(self, model: EncoderModel, shapes: Fitted | Fixed | None = None, precision: str | None = None) -> None:
        refuse_fork()
        self.model, self.precision = model, precision or model.precision
        self.shapes = shapes or fitted(model)
        self._at_a_time = _AT_A_TIME_CPU if on_cpu() else 1
        self._threads = ThreadPoolExecutor(self._at_a_time, thread_name_prefix="batches")
        self._functions: dict[Effort, Callable[..., tuple[Any, Any]]] = {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, precision: str = "auto", serving: bool = False) -> KerasEngine:
        """Open a model folder.

        Args:
            folder: A Hugging Face folder, such as `qa-fast train` writes.
            precision: "auto" (measured), "float32", "bfloat16" or "float16".
            serving: Use few fixed shapes, for a process that lives long.

        Raises:
            UserError: The folder cannot be read, see `checkpoint.load_model`; or see `refuse_fork`.
        """
        model, _ = load_model(folder, precision=choose_precision(precision).value)
        return cls(model, fixed(model) if serving else None)

    def __reduce__(self) -> tuple[Any, ...]:
        raise UserError(
            "an engine to send to other processes must be onnx or openvino; received keras: open the model with one of "
            "them, or open it in each process"
        )

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Yield logits as `Engine.predict`, in the order of the batches' widths."""
        refuse_fork()
        cutter = BatchCutter(chunks, self.model.config.pad_id)
        lengths = cutter.lengths[: sum(len(chunk) for chunk in chunks)]
        check_length(self.model.config, int(lengths.max(initial=0)))
        plan = self.shapes.plan(lengths)
        compute = self._function(self.shapes.effort(len(plan)))

        def predict_batch(rows: Int64s, width: int) -> Prediction:
            batch = cutter.cut(rows, width)
            return _fetched(batch, compute(batch.input_ids, batch.lengths, batch.token_type_ids))

        running: deque[Future[Prediction]] = deque()
        for rows, width in zip(plan.rows, plan.widths.tolist(), strict=True):
            running.append(self._threads.submit(predict_batch, rows, width))
            if len(running) > self._at_a_time:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def warm_up(self) -> None:
        """Run every shape of `Fixed` once; shapes of `Fitted` are not known in advance."""
        if isinstance(self.shapes, Fixed):
            for rows, width in self.shapes.usual():
                for _ in self.predict([blank(rows, width)]):
                    pass

    def _function(self, effort: Effort) -> Callable[..., tuple[Any, Any]]:
        tensorflow = keras.backend.backend() == "tensorflow"
        if not tensorflow:
            effort = "compiled"  # JAX compiles everything that it runs
        elif effort == ("compiled" if on_cpu() else "kernels"):  # a CPU has kernels alone, a GPU none
            effort = "kernels" if on_cpu() else "plain"
        if effort not in self._functions:
            make = _tensorflow if tensorflow else _jax
            self._functions[effort] = make(self.model, effort, self.precision)
        return self._functions[effort]


def fitted(model: EncoderModel, batch_tokens: int | None = None) -> Fitted:
    """Return shapes for a data set on this device, with at most `batch_tokens` padded tokens in a batch."""
    tokens = batch_tokens or (BATCH_TOKENS_CPU if on_cpu() else BATCH_TOKENS_GPU)
    return Fitted(tokens, model.config.max_length, recurring=not on_cpu())


def fixed(model: EncoderModel, batch_tokens: int | None = None) -> Fixed:
    """Return shapes for a process that lives long, with at most `batch_tokens` padded tokens in a batch."""
    # TensorFlow on a GPU would compile the whole model for each shape, for many seconds; it is fast without.
    compiled = on_cpu() or keras.backend.backend() != "tensorflow"
    most = FIXED_ROWS_CPU if on_cpu() else FIXED_ROWS_COMPILED_GPU
    tokens = batch_tokens or (FIXED_TOKENS_CPU if on_cpu() else BATCH_TOKENS_GPU)
    return Fixed(tokens, model.config.max_length, most if compiled else None)


def _fetched(batch: Batch, logits: tuple[Any, Any]) -> Prediction:
    start, end = (np.asarray(keras.ops.convert_to_numpy(part)) for part in logits)
    if len(batch.rows) and batch.rows[-1] < 0:  # padding rows are at the end
        real: Int64s = np.flatnonzero(batch.rows >= 0)
        return Prediction(batch.rows[real].astype(np.int32), start[real], end[real], batch.lengths[real])
    return Prediction(batch.rows.astype(np.int32), start, end, batch.lengths)


def _tensorflow(model: EncoderModel, effort: Effort, precision: str) -> Callable[..., tuple[Any, Any]]:
    """Return one graph for all shapes, with kernels for its parts (CPU), or compiled for each shape (GPU)."""
    import tensorflow as tf

    parts = parts_mode(effort == "kernels")
    signature = [
        tf.TensorSpec((None, None), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None, None), tf.int8),
    ]

    @tf.function(input_signature=signature, jit_compile=effort == "compiled", autograph=False)
    def compute(input_ids: Any, lengths: Any, types: Any) -> tuple[Any, Any]:
        with model.run_part.tracing(parts=parts):
            return model(input_ids, lengths, types, precision=precision)

    return compute


def _jax(model: EncoderModel, effort: Effort, precision: str) -> Callable[..., tuple[Any, Any]]:
    import jax

    keep_compiled()

    @jax.jit
    def compute(trained: list[Any], frozen: list[Any], ids: Any, lengths: Any, types: Any) -> tuple[Any, Any]:
        return model.stateless_call(trained, frozen, ids, lengths, types, precision=precision)[0]

    def call(*batch: Any) -> tuple[Any, Any]:
        trained, frozen = model.trainable_variables, model.non_trainable_variables
        return compute([weight.value for weight in trained], [weight.value for weight in frozen], *batch)

    return call
