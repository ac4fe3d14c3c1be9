"""Scoring a model in the midst of training, keeping the best, and writing checkpoints.

In a job of several processes the first alone scores and writes. What it found is told to all, and every process draws
the same conclusions from it: which score is the best, and whether patience has run out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qa_fast.errors import UserError
from qa_fast.infer.keras_engine import KerasEngine
from qa_fast.model.checkpoint import save_model
from qa_fast.train.job import Job
from qa_fast.train.learner import Learner
from qa_fast.train.losses import Losses
from qa_fast.train.opening import Course, identity_of
from qa_fast.train.record import Record
from qa_fast.train.report import EpochReport, Progress
from qa_fast.train.state import going_on, write_checkpoint
from qa_fast.train.steps import Standing
from qa_fast.train.validate import validate


class Saver:
    """Says when to score, and does what follows from it.

    Args:
        course: What does not change.
        standing: Of the run; `validated`, `stale`, `ended`, the best score and the history move on here.
        learner: What is scored and saved.
        losses: Of the run: nothing is kept of one whose loss is not a number.
        record: Told what validation found.
        job: The processes.
        say: Told where patience runs out.
    """

    def __init__(
        self,
        course: Course,
        standing: Standing,
        learner: Learner,
        losses: Losses,
        record: Record,
        job: Job,
        say: Progress,
    ) -> None:
        self._course, self._standing, self._learner, self._losses = course, standing, learner, losses
        self._record, self._job, self._say = record, job, say
        self._reader = KerasEngine(learner.model)

    def within_epoch(self) -> bool:
        """Score where it is the step for it; a run that was cut off before that begins with it.

        Returns:
            Whether it was.
        """
        config, position = self._course.config, self._standing.position
        every, step = config.validate_every, position.step
        due = every is not None and step % every == 0 and position.validated < step < self._course.material.steps
        if due:
            self._losses.read()
            self._score_and_save(position.epoch + 1)
            if position.ended and config.checkpoint_every:
                self.checkpoint()
        return due

    def end_of_epoch(self) -> None:
        """Score and save; the position moves on first, so that the checkpoint at the end says that this is done."""
        position = self._standing.position
        self._losses.read()
        epoch = position.epoch + 1
        position.ended = position.step >= self._course.material.steps
        if not position.ended:
            position.epoch, position.batch = epoch, 0
        if position.validated < position.step:
            self._score_and_save(epoch)
        if self._course.config.checkpoint_every:
            self.checkpoint()

    def _score_and_save(self, epoch: int) -> None:
        standing, position, patience = self._standing, self._standing.position, self._course.config.patience
        position.validated = position.step
        told = self._job.told(lambda: self._scored_and_saved(epoch))
        if told is not None:
            standing.add(EpochReport(**told))
        if patience is not None and position.stale >= patience and not position.ended:
            position.ended = True
            self._say(f"stopped at step {position.step}: the last {position.stale} validations found no better F1")
        if self._job.first:
            self._record.draw()

    def _scored_and_saved(self, epoch: int) -> dict[str, Any] | None:
        """What validation in an epoch found, None without it; the best model so far is saved."""
        material, config, best = self._course.material, self._course.config, self._standing.best
        self._learner.engine.publish()
        if material.validation is None:
            self._save_model()
            return None
        cls_token_id = self._course.sources.shards.manifest["model"].get("cls_token_id")
        report = validate(self._reader, material.validation, cls_token_id, config.validation_examples, config.seed)
        saved = best is None or report.f1 > best.f1
        report = dataclasses.replace(report, epoch=epoch, step=self._standing.position.step, saved=saved)
        self._record.add_validation(report)
        if saved:
            self._save_model()
        return dataclasses.asdict(report)

    def _save_model(self) -> None:
        try:
            save_model(self._learner.model, self._course.out, self._course.sources.models["--model"], replace=True)
        except UserError as error:
            raise UserError(f"{error}; {going_on(self._course.checkpoints)}") from None

    def checkpoint(self) -> None:
        """Keep where the run stands.

        Raises:
            LossNotANumber: There is nothing worth keeping.
        """
        self._losses.read()
        self._job.told(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        course = self._course
        state = self._standing.to_dict() | course.choices()
        state |= {"config": course.config.to_dict(), "data": course.material.identity()}
        state |= {"model": identity_of(course.sources.encoder), "teacher": course.teacher}
        write_checkpoint(course.checkpoints, self._standing.position.step, self._learner.arrays(), state)
