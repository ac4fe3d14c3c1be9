"""Distillation: a teacher's probabilities become targets of each step's micro batches.

With the teacher's weight w and the temperature T the loss is (1 - w) labels + w T^2 KL(teacher || student), where both
distributions are softened by T (Hinton et al. 2015). The labels' weights are scaled here; the teacher's part of the
loss is computed from `Micro.targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qa_fast.batches import Batch
from qa_fast.buffers import offsets_of
from qa_fast.schema import Int32s, Int64s
from qa_fast.train.config import TrainConfig
from qa_fast.train.job import Job
from qa_fast.train.mix import Mix
from qa_fast.train.steps import Floats, Micro
from qa_fast.train.teacher import Halves, Say, TeacherLogits, teacher_logits

_SENT = 1 << 24  # tokens of logits that are sent at a time: 64 MiB


def read_teacher(teacher: Path, mix: Mix, config: TrainConfig, job: Job, say: Say) -> Distillation:
    """Return a teacher's logits for the features of a run; those that are not kept beside the shards are computed.

    The first process of a job reads them and sends them to the others: on another machine the teacher might be computed
    in another way, with logits that differ by rounding.

    Raises:
        UserError: See `teacher_logits`.
    """
    parts: list[TeacherLogits] = []

    def read() -> None:
        first = 0
        for part, pool in zip(mix.parts, mix.pools, strict=True):
            parts.append(teacher_logits(teacher, part.shards, pool - first, say))
            first += len(part.train)

    job.from_first(read)
    with job.agreed():
        lengths = np.concatenate([part.train.lengths for part in mix.parts])
        offsets = offsets_of(lengths[mix.rows])
        values = np.zeros((2, offsets[-1]), np.float16)
        if parts:
            np.concatenate([part.starts for part in parts], out=values[0])
            np.concatenate([part.ends for part in parts], out=values[1])
            parts.clear()
    _send(values, job)
    logits = TeacherLogits(values[0], values[1], offsets)
    return Distillation(mix.rows, len(lengths), logits, config.teacher_weight, config.temperature)


def _send(values: Halves, job: Job) -> None:
    """Copy the first process' values, float16[2, tokens], into the arrays of the others, which have the same shape."""
    if job.processes == 1:
        return
    whole = values.reshape(-1).view(np.int32)  # two float16 in one integer: devices add integers exactly
    size = min(_SENT, len(whole))
    for begin in range(0, len(whole), size):
        piece = whole[begin : begin + size]
        received = job.arrays(np.pad(piece, (0, size - len(piece))))  # of one size, which is compiled once
        piece[:] = np.asarray(received)[: len(piece)]


class Distillation:
    """A teacher's logits, looked up by feature rows.

    Args:
        rows: int64[n], the features that have logits.
        features: F; all rows are below it.
        logits: The logits of `rows`.
        weight: w, the teacher's weight in the loss, in (0, 1].
        temperature: T, above 0.
    """

    def __init__(self, rows: Int64s, features: int, logits: TeacherLogits, weight: float, temperature: float) -> None:
        self._weight, self._temperature, self._logits = weight, temperature, logits
        self._index = np.full(features, -1, np.int64)
        self._index[rows] = np.arange(len(rows))

    def add_targets(self, micros: Sequence[Micro], batches: Sequence[Batch], rows: int | None = None) -> list[Micro]:
        """Return a step's micro batches with the teacher's targets.

        Every real row has the same weight, even if its label lies outside the window: the teacher has probabilities for
        that window, too.

        Args:
            micros: What `make_micros` made of `batches`.
            batches: The batches of the step.
            rows: Number of real rows in the whole step; None counts those of `batches`, which is right in one process.
        """
        if rows is None:
            rows = sum(int((batch.rows >= 0).sum()) for batch in batches)
        mass = self._weight * self._temperature**2 / max(1, 2 * rows)
        labels = np.float32(1 - self._weight)
        with_targets = []
        for micro, batch in zip(micros, batches, strict=True):
            targets = np.zeros((len(micro.lengths), 2, micro.input_ids.shape[1]), np.float32)
            real = np.flatnonzero(batch.rows >= 0)
            targets[real] = mass * self.probabilities(batch.rows[real], batch.lengths[real], targets.shape[2])
            starts, ends = micro.start_weights * labels, micro.end_weights * labels
            with_targets.append(micro._replace(start_weights=starts, end_weights=ends, targets=targets))
        return with_targets

    def probabilities(self, rows: Int64s, lengths: Int32s, width: int) -> Floats:
        """Return float32[B, 2, width], the softened start and end probabilities over each row's own tokens."""
        first = self._logits.offsets[self._index[rows]]
        own = np.arange(width) < lengths[:, None]
        places = (first[:, None] + np.arange(width))[own]
        both = np.zeros((len(rows), 2, width), np.float32)
        for side, values in enumerate((self._logits.starts, self._logits.ends)):
            # The highest logit of a row is 0, so no exponential overflows.
            exponentials = np.zeros((len(rows), width), np.float32)
            exponentials[own] = np.exp(values[places].astype(np.float32) / np.float32(self._temperature))
            both[:, side] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return both
