"""What is told of a run while it goes on, and left behind: points of its curves, TensorBoard's events, `metrics.json`.

Every process of a job keeps the same record; the first alone writes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras

from qa_fast.hub.card import write_card
from qa_fast.train.job import Job
from qa_fast.train.losses import Losses
from qa_fast.train.opening import Course
from qa_fast.train.report import EpochReport, EventLog, Pace, Progress, StepReport, draw, versions, write_json
from qa_fast.train.setup import base_model
from qa_fast.train.state import writing
from qa_fast.train.steps import Standing


class Record:
    """One sitting's; owns the event log and the clock.

    Args:
        course: What does not change.
        standing: Of the run; the record adds to its history.
        losses: Of the run.
        devices: Of all processes.
        job: The processes.
        say: Told each point of the curve, and each validation.
    """

    def __init__(
        self, course: Course, standing: Standing, losses: Losses, devices: int, job: Job, say: Progress
    ) -> None:
        self._course, self._standing, self._losses = course, standing, losses
        self._devices, self._job, self._say = devices, job, say
        self._pace = Pace()
        self._mark = 0.0
        self._log: EventLog | None = None

    def open(self) -> None:
        """Make ready to write; the first process' alone."""
        self._log = EventLog(self._course.training / "tensorboard")

    def _writing(self) -> AbstractContextManager[None]:
        return writing("a run's record", self._course.training, self._course.checkpoints)

    def close(self) -> None:
        """No more events."""
        if self._log is not None:
            self._log.close()

    def start_clock(self) -> None:
        """The next step begins now: what lay before it is none of its time."""
        self._mark = time.perf_counter()

    def add_step(self, rate: float, features: int, tokens: int, compiled: Callable[[], bool]) -> None:
        """After a step: count it, and tell where the run stands if it is time for that.

        Args:
            rate: Learning rate of the step.
            features: Of all processes together.
            tokens: Real ones.
            compiled: Asked whether something was compiled within it.
        """
        step, last, loss = self._standing.position.step, self._course.material.steps, None
        if step % self._course.config.log_every == 0 or step == last:
            loss = self._losses.mean(last=step == last)  # waits for the device, which is part of the steps' time
        now = time.perf_counter()
        self._pace.add(now - self._mark, features, tokens, compiled())
        self._mark = now
        if loss is not None:
            self._add_point(rate, loss)

    def _add_point(self, rate: float, loss: float) -> None:
        position, history, material = self._standing.position, self._standing.history, self._course.material
        norm = self._losses.norm
        history.steps.append(position.step)
        history.losses.append(loss)
        history.learning_rates.append(rate)
        features, tokens = self._pace.rates()
        tokens_a_step = material.tokens / max(1, material.steps_an_epoch)
        left = (material.steps - position.step) * tokens_a_step / max(tokens, 1e-9)
        self._say(
            StepReport(position.step, material.steps, position.epoch + 1, loss, rate, norm, features, tokens, left)
        )
        values = {"train__loss": loss, "train__learning_rate": rate, "train__gradient_norm": norm}
        if features:
            values |= {"speed__features_per_second": features, "speed__tokens_per_second": tokens}
        if self._log is not None:
            with self._writing():
                self._log.add(position.step, time.time(), **values)

    def add_validation(self, report: EpochReport) -> None:
        """Tell what validation found; the first process' alone."""
        self._say(report)
        if self._log is not None:
            with self._writing():
                self._log.add(
                    report.step,
                    time.time(),
                    validation__loss=report.loss,
                    validation__exact_match=report.exact_match,
                    validation__f1=report.f1,
                )

    def draw(self) -> None:
        """Draw the curves so far."""
        with self._writing():
            draw(self._standing.history, self._course.training / "training.png")

    def write(self, metrics: dict[str, Any]) -> None:
        """Leave the figures, the picture and the model's card."""
        with self._writing():
            write_json(self._course.training / "metrics.json", metrics)
            self.draw()
            write_card(self._course.out, self._course.sources.shards.manifest)

    def metrics(self, seconds: float) -> dict[str, Any]:
        """What `metrics.json` says.

        Args:
            seconds: Of this sitting.
        """
        course, pace, position = self._course, self._pace, self._standing.position
        sources, material = course.sources, course.material
        standing = self._standing.to_dict()
        return {
            "model": sources.models["--model"].name,
            "base_model": base_model(course.config, sources.shards),
            "config": self._told_options(),
            "tokenizer_hash": sources.shards.manifest["model"]["tokenizer_hash"],
            "features": len(material.mix.rows),
            "tokens": material.tokens,
            "mix": material.mix.facts(),
            "widths": course.widths.tolist(),
            "steps": position.step,
            "updates": position.update,
            "loss_scale": position.loss_scale,
            **course.choices(),
            "best": standing["best"],
            "history": standing["history"],
            "seconds": {"all": seconds, "steps": pace.seconds, "steps_that_compiled": pace.compile_seconds},
            "features_per_second": pace.features / pace.seconds if pace.seconds else None,
            "tokens_per_second": pace.tokens / pace.seconds if pace.seconds else None,
            "devices": self._devices,
            "processes": self._job.processes,
            "process_id": self._job.process_id,
            "backend": keras.backend.backend(),
            "versions": versions(),
        }

    def _told_options(self) -> dict[str, Any]:
        """The options, with names in place of this machine's paths."""
        config = self._course.config
        named = {
            option.removeprefix("--").replace("-", "_"): path.name
            for option, path in self._course.sources.models.items()
        }
        return config.to_dict() | named | {"out": self._course.out.name, "model": config.model and named["model"]}
