"""Scoring during training, saving the best model, and writing checkpoints.

In a job of several processes the first alone scores and writes. It sends the score to all, and each process draws the
same conclusions from it: which score is the best, and whether to stop early.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from qa_fast.answer.settings import write_settings
from qa_fast.errors import UserError
from qa_fast.infer.keras_engine import KerasEngine
from qa_fast.model.checkpoint import save_model
from qa_fast.scoring.options import EvaluateConfig, are_few
from qa_fast.train.learner import Learner
from qa_fast.train.losses import Losses
from qa_fast.train.plan import Run, identity_of
from qa_fast.train.record import Record
from qa_fast.train.report import EpochReport
from qa_fast.train.state import how_to_continue, write_checkpoint
from qa_fast.train.validate import validate


class Saver:
    """Scores the model when it is time to, saves it if it is the best so far, and writes checkpoints.

    Args:
        run: The run; the saver updates the scores and the end of the run in its state.
        learner: Holds the model.
        losses: The run's losses. Nothing is saved after a loss that is not a number.
        record: Receives the scores.
    """

    def __init__(self, run: Run, learner: Learner, losses: Losses, record: Record) -> None:
        self._plan, self._state, self._job, self._say = run.plan, run.state, run.job, run.say
        self._learner, self._losses, self._record = learner, losses, record
        validation = run.plan.data.validation
        examples = None if validation is None else validation.examples
        few = examples is not None and are_few(len(examples), run.plan.config.validation_examples)
        # As `evaluate` does, so that both give the same score.
        self._reader = KerasEngine(learner.model, precision="float32" if few else None)

    def within_epoch(self) -> bool:
        """Score the model if `validate_every` says so; a run that was stopped just before a score begins with it.

        Returns:
            Whether the model was scored.
        """
        config, position = self._plan.config, self._state.position
        every, step = config.validate_every, position.step
        due = every is not None and step % every == 0 and position.validated < step < self._plan.data.steps
        if due:
            self._losses.read()
            self._score_and_save(position.epoch + 1)
            if position.ended and config.checkpoint_every:
                self.checkpoint()
        return due

    def end_of_epoch(self) -> None:
        """Score and save. The position moves on first, so that the checkpoint says that the epoch is done."""
        position = self._state.position
        self._losses.read()
        epoch = position.epoch + 1
        position.ended = position.step >= self._plan.data.steps
        if not position.ended:
            position.epoch, position.batch = epoch, 0
        if position.validated < position.step:
            self._score_and_save(epoch)
        if self._plan.config.checkpoint_every:
            self.checkpoint()

    def _score_and_save(self, epoch: int) -> None:
        position, patience = self._state.position, self._plan.config.patience
        position.validated = position.step
        report = self._job.from_first(lambda: self._scored_and_saved(epoch))
        if report is not None:
            self._state.add(EpochReport(**report))
        if patience is not None and position.stale >= patience and not position.ended:
            position.ended = True
            self._say(f"stopped at step {position.step}: the last {position.stale} validations had no better F1")
        if self._job.first:
            self._record.draw()

    def _scored_and_saved(self, epoch: int) -> dict[str, Any] | None:
        """Score the model and save it if it is the best so far; return the score, or None without validation."""
        data, config, best = self._plan.data, self._plan.config, self._state.best
        self._learner.engine.publish()
        if data.validation is None:
            self._save_model()
            return None
        cls_token_id = self._plan.sources.shards.manifest["model"].get("cls_token_id")
        rules = EvaluateConfig(max_examples=config.validation_examples, seed=config.seed, metric=config.metric).over(
            self._plan.answering
        )
        self._say(f"scoring the split {data.validation.name}")
        report = validate(self._reader, data.validation, cls_token_id, rules)
        saved = best is None or report.f1 > best.f1
        report = dataclasses.replace(report, epoch=epoch, step=self._state.position.step, saved=saved)
        self._record.add_validation(report)
        if saved:
            self._save_model()
        return dataclasses.asdict(report)

    def _save_model(self) -> None:
        try:
            save_model(self._learner.model, self._plan.out, self._plan.sources.models["--model"], replace=True)
            write_settings(self._plan.out, self._plan.answering)
        except UserError as error:
            raise UserError(f"{error}; {how_to_continue(self._plan.checkpoints)}") from None

    def checkpoint(self) -> None:
        """Write a checkpoint.

        Raises:
            LossNotANumber: A loss is not a number, and nothing was written.
        """
        self._losses.read()
        self._job.from_first(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        plan = self._plan
        saved = self._state.to_dict() | plan.choices()
        saved |= {"config": plan.config.to_dict(), "data": plan.data.identity()}
        saved |= {"model": identity_of(plan.sources.encoder), "teacher": plan.teacher}
        write_checkpoint(plan.checkpoints, self._state.position.step, self._learner.engine.read(), saved)
