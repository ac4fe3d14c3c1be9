"""The training loop, which makes a fine-tuned model folder from shards and a pretrained model.

The loop is the same for every backend; `backend_tensorflow` and `backend_jax` run the steps. OUT holds the model as
transformers reads it and, under `training/`, checkpoints, `metrics.json`, `training.png` and TensorBoard events. In a
job of several processes each one runs this loop; the first alone measures, reads checkpoints, validates and writes.

`plan` comes before the first step, `learner` holds model and engine, `saving` scores and writes, `record` reports.
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

import keras
import numpy as np

from qa_fast.backend import keep_compiled
from qa_fast.batches import Batch, Plan, batches_of, training_plan
from qa_fast.builder.staging import locked
from qa_fast.errors import UserError
from qa_fast.train.config import JobConfig, TrainConfig
from qa_fast.train.job import join
from qa_fast.train.learner import Learner, make_learner
from qa_fast.train.loss_scale import follow_scale
from qa_fast.train.losses import Losses, behind
from qa_fast.train.mix import Place
from qa_fast.train.optimizer import step_scalars
from qa_fast.train.plan import Run, open_sources, plan_run
from qa_fast.train.record import Record
from qa_fast.train.report import EpochReport, Progress
from qa_fast.train.saving import Saver
from qa_fast.train.schedule import learning_rate_at
from qa_fast.train.setup import clear_out, prepare_out
from qa_fast.train.state import discard, writing
from qa_fast.train.steps import make_micros
from qa_fast.train.stopping import Stopping, interruptible


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        out: The model folder.
        steps: Optimization steps done, including those before the run was resumed.
        loss: Mean training loss of the last log interval; NaN if there was no step.
        best: The validation whose model was saved; None without validation.
        metrics: The contents of `metrics.json`.
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
    """Fine-tune a model on shards.

    Args:
        shards_path: A folder (or URL) that `qa-fast featurize` made, or several, see `mix.open_mix`. The first one
            holds the validation split.
        config: All options.
        progress: Called with a line of text, after each log interval, and after each validation; in a job only in the
            first process.
        job: The processes that train together (JAX only). With None this process joins a job that
            `jax.distributed.initialize` has set up, or else trains by itself.

    Returns:
        The model folder and the metrics, the same in all processes of a job.

    Raises:
        UserError: An option, the shards, the model or the output folder cannot be used, another run uses that folder,
            the loss is not a number, the disk is full, or another process of the job failed.
        KeyboardInterrupt: The run was interrupted and has written a checkpoint, from which `resume` continues.
    """
    config.check()
    with join(job or JobConfig()) as joined, ExitStack() as stack:
        say = progress if progress and joined.first else lambda event: None
        if keras.backend.backend() == "jax":
            keep_compiled()
        with joined.agreed():
            sources = open_sources(shards_path, config)

        def prepare() -> None:
            stack.enter_context(locked(Path(config.out)))
            prepare_out(Path(config.out), sources.folders(), config)

        joined.from_first(prepare)
        run, arrays = plan_run(sources, config, joined, say)
        return _Loop(run, make_learner(run, arrays)).run()


class _Loop:
    """The steps of a run, and the scores, checkpoints and reports between them."""

    def __init__(self, run: Run, learner: Learner) -> None:
        plan = run.plan
        self._plan, self._state, self._job, self._learner = plan, run.state, run.job, learner
        self._say = run.say
        self._half = plan.precision.value == "float16"
        self._losses = Losses(
            plan.checkpoints,
            plan.learning_rate,
            skips_overflows=self._half,
            at_once=plan.config.steps_per_execution,
        )
        self._record = Record(run, self._losses, learner.engine.devices)
        self._saver = Saver(run, learner, self._losses, self._record)

    def run(self) -> TrainResult:
        """Run all remaining steps and write the record."""
        self._job.from_first(self._prepare)
        started = time.perf_counter()
        try:
            with interruptible() as interrupted:
                stopping = Stopping(self._job, interrupted, behind(self._plan.config.steps_per_execution))
                while not self._state.position.ended:
                    self._epoch(stopping)
                self._record.add_rest()
        except UserError as error:
            raise self._job.known(error) from None  # a loss that is not a number is the same in all processes
        finally:
            self._record.close()
        metrics = self._record.metrics(time.perf_counter() - started)
        self._job.from_first(lambda: self._finish(metrics))
        losses = self._state.history.losses
        return TrainResult(
            self._plan.out, self._state.position.step, losses[-1] if losses else math.nan, self._state.best, metrics
        )

    def _prepare(self) -> None:
        if self._plan.config.overwrite:  # only now, after all inputs and options are validated
            clear_out(self._plan.out)
        with writing("a run's record", self._plan.training, self._plan.checkpoints):
            self._plan.training.mkdir(parents=True, exist_ok=True)
            self._record.open()

    def _finish(self, metrics: dict[str, Any]) -> None:
        self._record.write(metrics)
        discard(self._plan.checkpoints)  # a finished run needs none, and they are large

    def _epoch(self, stopping: Stopping) -> None:
        config, position, data, job = self._plan.config, self._state.position, self._plan.data, self._job
        order = training_plan(
            data.cutter.lengths,
            data.mix.epoch(config.seed, position.epoch),
            config.batch_size,
            config.seed,
            position.epoch,
            self._plan.widths,
            alike=config.steps_per_execution,
        )
        self._saver.within_epoch()
        if position.ended:
            return
        self._record.start_clock()
        share = order.share(job.process_id, job.processes, self._learner.engine.devices)
        groups = _grouped(batches_of(data.cutter, share, position.batch), config.accumulate)
        for group in itertools.islice(groups, data.steps - position.step):
            self._step(group, order)
            if stopping.requested():
                self._stop()
            if self._saver.within_epoch():
                self._record.start_clock()
            if position.ended:
                return
            if config.checkpoint_every and position.step % config.checkpoint_every == 0:
                self._saver.checkpoint()
                self._record.start_clock()
        if stopping.requested(last=True):
            self._stop()
        self._saver.end_of_epoch()

    def _stop(self) -> None:
        self._saver.checkpoint()
        self._say(f"stopped at step {self._state.position.step}: --resume continues from there")
        raise self._job.known(KeyboardInterrupt())

    def _step(self, group: list[Batch], order: Plan) -> None:
        """Run one step over this process' rows of the next batches."""
        config, position, learner = self._plan.config, self._state.position, self._learner
        data, cutter = self._plan.data, self._plan.data.cutter
        rate = learning_rate_at(position.step, data.steps, self._plan.learning_rate, config.schedule, config.warmup)
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        scalars = step_scalars(rate, decay, config.clip_norm, position.update + 1, position.loss_scale)
        rows = np.concatenate(order.rows[position.batch : position.batch + len(group)])
        rows = rows[rows >= 0]  # the rows of all processes
        devices = learner.engine.devices // self._job.processes
        micros = make_micros(group, config.seed, position.passes, devices, cutter.labels_that_count(rows))
        if learner.distillation is not None:
            micros = learner.distillation.add_targets(micros, group, len(rows))
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
