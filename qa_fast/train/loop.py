"""Shards and a checkpoint in, a trained model folder out.

One loop for every backend; `backend_tensorflow` and `backend_jax` hold the few lines that differ. OUT holds the model
as transformers reads it and, under `training/`, checkpoints, `metrics.json`, `training.png` and TensorBoard's events.
In a job of several processes each runs this loop; the first alone measures, reads checkpoints, validates and writes.

`opening` is what comes before the first step, `learner` what learns, `saving` scores and writes, `record` tells.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.batches import Batch, Plan, batches_of, training_plan
from qa_fast.builder.staging import locked
from qa_fast.errors import UserError
from qa_fast.train.config import JobConfig, TrainConfig
from qa_fast.train.job import Job, join
from qa_fast.train.learner import Learner, make_learner
from qa_fast.train.loss_scale import follow_scale
from qa_fast.train.losses import Losses, behind
from qa_fast.train.mix import Place
from qa_fast.train.opening import Course, open_sources, set_course
from qa_fast.train.optimizer import step_scalars
from qa_fast.train.record import Record
from qa_fast.train.report import EpochReport, Progress
from qa_fast.train.saving import Saver
from qa_fast.train.schedule import learning_rate_at
from qa_fast.train.setup import clear_out, prepare_out
from qa_fast.train.state import discard, writing
from qa_fast.train.steps import Standing, make_micros
from qa_fast.train.stopping import Stopping, interruptible


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        out: The model folder.
        steps: Optimisation steps done, over all its sittings.
        loss: Mean training loss of the last log interval; NaN where there was no step.
        best: Of the validation whose model was saved, None without validation.
        metrics: What `metrics.json` says.
    """

    out: Path
    steps: int
    loss: float
    best: EpochReport | None
    metrics: dict[str, Any]


def train(
    shards_path: Place | Sequence[Place],
    config: TrainConfig,
    progress: Progress | None = None,
    job: JobConfig | None = None,
) -> TrainResult:
    """Fine-tune a checkpoint on shards.

    Args:
        shards_path: A folder (or URL) that `qa-fast featurize` made, or several, see `mix.open_mix`; validation is of
            the first.
        config: All options.
        progress: Called with a line of text, after each log interval, and after each validation; in the first process
            of a job alone.
        job: The processes that train together (JAX only). With None a job that `jax.distributed` is in already is
            taken, else this process trains by itself.

    Returns:
        Where the model is and how training went; in a job the same in all processes.

    Raises:
        UserError: An option, the shards, the model or the output folder is not usable, another run is at that folder,
            the loss is not a number, the disk is full, or another process of the job failed.
        KeyboardInterrupt: After a checkpoint was written; `resume` goes on from it.
    """
    config.check()
    with join(job or JobConfig()) as joined, ExitStack() as held:
        say = progress if progress and joined.first else lambda event: None
        with joined.agreed():
            sources = open_sources(shards_path, config)

        def prepare() -> None:
            held.enter_context(locked(Path(config.out)))
            prepare_out(Path(config.out), sources.folders(), config)

        joined.told(prepare)
        course, beginning = set_course(sources, config, joined, say)
        learner = make_learner(course, beginning, joined, say)
        return _Run(course, beginning.standing, learner, joined, say).run()


class _Run:
    """One sitting of a run: its steps, and what has its turn between them."""

    def __init__(self, course: Course, standing: Standing, learner: Learner, job: Job, say: Progress) -> None:
        self._course, self._standing, self._learner, self._job, self._say = course, standing, learner, job, say
        self._half = course.precision.value == "float16"
        config = course.config
        self._losses = Losses(
            course.checkpoints, config.learning_rate, skips_overflows=self._half, at_once=config.steps_per_execution
        )
        self._record = Record(course, standing, self._losses, learner.engine.devices, job, say)
        self._saver = Saver(course, standing, learner, self._losses, self._record, job, say)

    def run(self) -> TrainResult:
        """All remaining steps, then what is left behind."""
        standing = self._standing
        self._job.told(self._prepare)
        started = time.perf_counter()
        try:
            with interruptible() as interrupted:
                stopping = Stopping(self._job, interrupted, behind(self._course.config.steps_per_execution))
                while not standing.position.ended:
                    self._epoch(stopping)
        except UserError as error:
            raise self._job.known(error) from None  # a loss that is not a number is one in all processes
        finally:
            self._record.close()
        metrics = self._record.metrics(time.perf_counter() - started)
        self._job.told(lambda: self._finish(metrics))
        loss = standing.history.losses[-1] if standing.history.losses else math.nan
        return TrainResult(self._course.out, standing.position.step, loss, standing.best, metrics)

    def _prepare(self) -> None:
        if self._course.config.overwrite:  # not before: whatever might be refused has been
            clear_out(self._course.out)
        with writing("a run's record", self._course.training, self._course.checkpoints):
            self._course.training.mkdir(parents=True, exist_ok=True)
            self._record.open()

    def _finish(self, metrics: dict[str, Any]) -> None:
        self._record.write(metrics)
        discard(self._course.checkpoints)  # half a gigabyte that nobody resumes from any more

    def _epoch(self, stopping: Stopping) -> None:
        config, position, material, job = self._course.config, self._standing.position, self._course.material, self._job
        rows = material.mix.epoch(config.seed, position.epoch)
        lengths, widths = material.cutter.lengths, self._course.widths
        alike = config.steps_per_execution
        plan = training_plan(lengths, rows, config.batch_size, config.seed, position.epoch, widths, alike=alike)
        self._saver.within_epoch()
        if position.ended:
            return
        self._record.start_clock()
        share = plan.share(job.process_id, job.processes, self._learner.engine.devices)
        batches = batches_of(material.cutter, share, position.batch)
        for group in itertools.islice(_grouped(batches, config.accumulate), material.steps - position.step):
            self._step(group, plan)
            if stopping.asked():
                self._stop()
            if self._saver.within_epoch():
                self._record.start_clock()
            if position.ended:
                return
            if config.checkpoint_every and position.step % config.checkpoint_every == 0:
                self._saver.checkpoint()
                self._record.start_clock()
        if stopping.asked_so_far():
            self._stop()
        self._saver.end_of_epoch()

    def _stop(self) -> None:
        self._saver.checkpoint()
        self._say(f"stopped at step {self._standing.position.step}: --resume goes on from there")
        raise self._job.known(KeyboardInterrupt())

    def _step(self, group: list[Batch], plan: Plan) -> None:
        """One step over this process' rows of the batches that come next in the plan."""
        config, position, learner = self._course.config, self._standing.position, self._learner
        steps, cutter = self._course.material.steps, self._course.material.cutter
        rate = learning_rate_at(position.step, steps, config.learning_rate, config.schedule, config.warmup)
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        scalars = step_scalars(rate, decay, config.clip_norm, position.update + 1, position.loss_scale)
        these = slice(position.batch, position.batch + len(group))
        rows = np.concatenate(plan.rows[these])
        rows = rows[rows >= 0]  # of all processes
        devices = learner.engine.devices // self._job.processes
        micros = make_micros(group, config.seed, position.passes, devices, cutter.labels_that_count(rows))
        if learner.lessons is not None:
            micros = learner.lessons.taught(micros, group, len(rows))
        loss, norm = learner.engine.step(micros, scalars)
        if self._half:
            follow_scale(position, float(norm))
        else:
            position.update += 1
        position.step += 1
        position.batch += len(group)
        position.passes += len(group)
        self._losses.add(position.step, loss, norm)
        self._record.add_step(rate, len(rows), int(cutter.lengths[rows].sum()), learner.engine.compiled)


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(batches, size)):
        yield group
