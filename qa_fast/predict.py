"""Features in, logits out, batch by batch: never more logits in memory than two batches hold.

Features are grouped by length, so little of a batch is padding; batches come in the order of their widths, and each
says which rows it holds. The consumer reduces a batch while the next one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from qa_fast.batches import Batch, BatchCutter, batches_of, bucket_widths, prediction_plan
from qa_fast.checkpoint import load_model
from qa_fast.model.config import check_length
from qa_fast.model.encoder import SpanModel
from qa_fast.model.precision import choose_precision, on_cpu
from qa_fast.schema import Features, Int32s, Int64s

BATCH_TOKENS_CPU = 8192
BATCH_TOKENS_GPU = 131072
# Compiling parts pays off from here on; before, plain TensorFlow answers at once.
MANY_BATCHES = 48

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """Logits of one batch.

    Attributes:
        rows: int32[B], feature rows over all chunks.
        start_logits: float32[B, L]; positions at and beyond a row's length mean nothing.
        end_logits: float32[B, L].
        lengths: int32[B].
    """

    rows: Int32s
    start_logits: Floats
    end_logits: Floats
    lengths: Int32s


class Predictor:
    """Computes logits of features; holds the model and its compiled functions.

    Args:
        model: The model; later changes of its weights are seen.
        batch_tokens: Padded tokens a batch, at most; chosen by the device if None.
    """

    def __init__(self, model: SpanModel, batch_tokens: int | None = None) -> None:
        self.model = model
        self.batch_tokens = batch_tokens or (BATCH_TOKENS_CPU if on_cpu() else BATCH_TOKENS_GPU)
        self._functions: dict[bool, Callable[..., tuple[Any, Any]]] = {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, precision: str = "auto", batch_tokens: int | None = None) -> Predictor:
        """Read a model folder.

        Args:
            folder: A Hugging Face folder, such as `qa-fast train` writes.
            precision: "auto" (measured), "float32", "bfloat16" or "float16".
            batch_tokens: See the class.

        Raises:
            UserError: The folder cannot be read, see `checkpoint.load_model`.
        """
        model, _ = load_model(folder, precision=choose_precision(precision).value)
        return cls(model, batch_tokens)

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Logits of every feature, each once.

        Args:
            chunks: Features; rows are counted over all of them.

        Yields:
            Batches in the order of their widths.

        Raises:
            UserError: A feature is longer than the model's positions.
        """
        cutter = BatchCutter(chunks, self.model.config.pad_id)
        lengths = cutter.lengths[: sum(len(chunk) for chunk in chunks)]
        check_length(self.model.config, int(lengths.max(initial=0)))
        limit = self.model.config.max_length
        plan = prediction_plan(lengths, self.batch_tokens, np.minimum(bucket_widths(lengths), limit))
        compute = self._function(many=len(plan) >= MANY_BATCHES)
        waiting: tuple[Batch, tuple[Any, Any]] | None = None
        for batch in batches_of(cutter, plan):
            logits = compute(batch.input_ids, batch.lengths, batch.token_type_ids)
            if waiting is not None:
                yield _fetched(*waiting)
            waiting = batch, logits
        if waiting is not None:
            yield _fetched(*waiting)

    def _function(self, many: bool) -> Callable[..., tuple[Any, Any]]:
        if many not in self._functions:
            tensorflow = keras.backend.backend() == "tensorflow"
            self._functions[many] = _tensorflow(self.model, many) if tensorflow else _jax(self.model)
        return self._functions[many]


def _fetched(batch: Batch, logits: tuple[Any, Any]) -> Prediction:
    start, end = (np.asarray(keras.ops.convert_to_numpy(part)) for part in logits)
    if len(batch.rows) and batch.rows[-1] < 0:  # padding rows are a batch's last
        there: Int64s = np.flatnonzero(batch.rows >= 0)
        return Prediction(batch.rows[there].astype(np.int32), start[there], end[there], batch.lengths[there])
    return Prediction(batch.rows.astype(np.int32), start, end, batch.lengths)


def _tensorflow(model: SpanModel, many: bool) -> Callable[..., tuple[Any, Any]]:
    """One graph for all shapes; for many batches its parts (CPU) or all of it (GPU) are compiled for each shape."""
    import tensorflow as tf

    cpu = on_cpu()
    signature = [
        tf.TensorSpec((None, None), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None, None), tf.int8),
    ]

    @tf.function(input_signature=signature, jit_compile=many and not cpu)
    def compute(input_ids: Any, lengths: Any, types: Any) -> tuple[Any, Any]:
        before = model.run_part.compile_parts
        model.run_part.compile_parts = many and cpu
        try:
            return model(input_ids, lengths, types)
        finally:
            model.run_part.compile_parts = before

    return compute


def _jax(model: SpanModel) -> Callable[..., tuple[Any, Any]]:
    import jax

    @jax.jit
    def compute(weights: list[Any], input_ids: Any, lengths: Any, types: Any) -> tuple[Any, Any]:
        return model.stateless_call(weights, [], input_ids, lengths, types)[0]

    def call(*batch: Any) -> tuple[Any, Any]:
        return compute([variable.value for variable in model.trainable_variables], *batch)

    return call
