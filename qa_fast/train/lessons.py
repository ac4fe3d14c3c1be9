"""What a teacher says of a step's rows, as part of the step's micro batches.

The loss becomes (1 - w) labels + w T^2 KL(teacher || student), both softened by the temperature T (Hinton et al. 2015):
the labels' weights are scaled here, the teacher's part goes along as `Micro.targets`.
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

# Tokens of logits that are sent at a time: 64 MiB.
_SENT = 1 << 24


def lessons_of(teacher: Path, mix: Mix, config: TrainConfig, job: Job, say: Say) -> Lessons:
    """A teacher's lessons on what a run trains on; what is not kept beside the shards yet is computed.

    The first process of a job reads them and tells the others: another machine might read the teacher in another way,
    to logits that differ by its rounding.

    Raises:
        UserError: See `teacher_logits`.
    """
    parts: list[TeacherLogits] = []

    def read() -> None:
        first = 0
        for part, pool in zip(mix.parts, mix.pools, strict=True):
            parts.append(teacher_logits(teacher, part.shards, pool - first, say))
            first += len(part.train)

    job.told(read)
    with job.agreed():
        lengths = np.concatenate([part.train.lengths for part in mix.parts])
        offsets = offsets_of(lengths[mix.rows])
        values = np.zeros((2, offsets[-1]), np.float16)
        if parts:
            np.concatenate([part.starts for part in parts], out=values[0])
            np.concatenate([part.ends for part in parts], out=values[1])
            parts.clear()
    _send(values, job)
    return Lessons(
        mix.rows, len(lengths), TeacherLogits(values[0], values[1], offsets), config.teacher_weight, config.temperature
    )


def _send(values: Halves, job: Job) -> None:
    """Write the first process' values, float16 [2, tokens], over those of the others; every one has as many."""
    if job.processes == 1:
        return
    whole = values.reshape(-1).view(np.int32)  # two numbers in one; devices add integers exactly
    size = min(_SENT, len(whole))
    for begin in range(0, len(whole), size):
        piece = whole[begin : begin + size]
        told = job.arrays(np.pad(piece, (0, size - len(piece))))  # of one size, which is compiled once
        piece[:] = np.asarray(told)[: len(piece)]


class Lessons:
    """A teacher's logits, looked up by feature rows.

    Args:
        rows: int64[n], the features that there are logits of.
        features: F; rows are below it.
        logits: Of `rows`.
        weight: w, what the teacher counts, in (0, 1]; labels count the rest.
        temperature: T, above 0.
    """

    def __init__(self, rows: Int64s, features: int, logits: TeacherLogits, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature
        self._starts, self._ends, self._offsets = logits.starts, logits.ends, logits.offsets
        self._index = np.full(features, -1, np.int64)
        self._index[rows] = np.arange(len(rows))

    def taught(self, micros: Sequence[Micro], batches: Sequence[Batch], rows: int | None = None) -> list[Micro]:
        """A step's micro batches with the teacher's part.

        Each real row counts the same, also one whose label lies outside it: the teacher knows of that window, too.

        Args:
            micros: As `make_micros` made them of `batches`.
            batches: Of the step.
            rows: How many real rows the whole step has; None counts those of `batches`, which hold all but where other
                processes have the rest.
        """
        if rows is None:
            rows = sum(int((batch.rows >= 0).sum()) for batch in batches)
        mass = self.weight * self.temperature**2 / max(1, 2 * rows)
        labels = np.float32(1 - self.weight)
        taught = []
        for micro, batch in zip(micros, batches, strict=True):
            targets = np.zeros((len(micro.lengths), 2, micro.input_ids.shape[1]), np.float32)
            real = np.flatnonzero(batch.rows >= 0)
            targets[real] = mass * self.probabilities(batch.rows[real], batch.lengths[real], targets.shape[2])
            starts, ends = micro.start_weights * labels, micro.end_weights * labels
            taught.append(micro._replace(start_weights=starts, end_weights=ends, targets=targets))
        return taught

    def probabilities(self, rows: Int64s, lengths: Int32s, width: int) -> Floats:
        """float32[B, 2, width]: softmax of start and end logits over the temperature, over each row's own tokens."""
        first = self._offsets[self._index[rows]]
        own = np.arange(width) < lengths[:, None]
        places = (first[:, None] + np.arange(width))[own]
        found = np.zeros((len(rows), 2, width), np.float32)
        for side, values in enumerate((self._starts, self._ends)):
            # Logits were shifted to a highest of 0, so that no exponential overflows.
            exponentials = np.zeros((len(rows), width), np.float32)
            exponentials[own] = np.exp(values[places].astype(np.float32) / np.float32(self.temperature))
            found[:, side] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return found
