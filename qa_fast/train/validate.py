"""Validation: loss, exact match and F1 in one pass over a split, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from qa_fast.infer.engine import Engine, Floats, Prediction
from qa_fast.schema import Features, Int32s
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.intervals import intervals_of_few
from qa_fast.scoring.options import EvaluateConfig
from qa_fast.scoring.rules import SQUAD
from qa_fast.shards import Split
from qa_fast.train.report import EpochReport


class LossMeter:
    """Passes predictions on and adds up their loss.

    The cross-entropy is over each feature's own tokens, so that it does not depend on padding.

    Args:
        engine: Computes the predictions.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sums = np.zeros(2)
        self._counts = np.zeros(2, np.int64)

    @property
    def loss(self) -> float:
        """Mean of start and end loss so far, over labels within their feature."""
        return float(np.mean(self._sums / np.maximum(self._counts, 1)))

    def predict(self, chunks: Sequence[Features]) -> Iterator[Prediction]:
        """Yield the same as `Engine.predict`."""
        starts = np.concatenate([chunk.start_positions for chunk in chunks])
        ends = np.concatenate([chunk.end_positions for chunk in chunks])
        for batch in self._engine.predict(chunks):
            for side, (logits, labels) in enumerate(((batch.start_logits, starts), (batch.end_logits, ends))):
                losses = label_losses(logits, labels[batch.rows], batch.lengths)
                self._sums[side] += losses.sum()
                self._counts[side] += len(losses)
            yield batch


def label_losses(logits: Floats, labels: Int32s, lengths: Int32s) -> Floats:
    """Return the cross-entropy of each row whose label is within its length.

    Args:
        logits: float32[B, L].
        labels: int32[B].
        lengths: int32[B].

    Returns:
        float32 [rows with such a label].
    """
    rows = np.flatnonzero((labels >= 0) & (labels < lengths))
    own = np.arange(logits.shape[1]) < lengths[rows, None]
    masked = np.where(own, logits[rows], -np.inf)
    highest = masked.max(axis=1, initial=-np.inf)
    total = np.log(np.exp(masked - highest[:, None]).sum(axis=1)) + highest
    return total - logits[rows, labels[rows]]


def validate(engine: Engine, split: Split, cls_token_id: int | None, config: EvaluateConfig) -> EpochReport:
    """Score a split; the caller fills in `epoch`, `step` and `saved`."""
    started = time.perf_counter()
    meter = LossMeter(engine)
    result = evaluate_split(meter.predict, split, config, cls_token_id=cls_token_id)
    intervals = intervals_of_few(*result.scores_of(result.predictions), config.seed)
    return EpochReport(
        epoch=0,
        step=0,
        loss=meter.loss,
        exact_match=result.exact_match,
        f1=result.f1,
        seconds=time.perf_counter() - started,
        saved=False,
        metric=result.metric,
        squad=[] if result.metric == SQUAD else [result.squad_exact_match, result.squad_f1],
        intervals=[] if intervals is None else [*intervals[0], *intervals[1]],
        precision=engine.precision,
    )
