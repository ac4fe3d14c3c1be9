"""The record of a run: points of its curves, TensorBoard events and `metrics.json`.

Every process of a job keeps the same record; the first alone writes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras

from qa_fast.hub.card import write_card
from qa_fast.model.identity import hash_of_weights
from qa_fast.train.losses import Losses
from qa_fast.train.plan import Run
from qa_fast.train.report import EpochReport, EventLog, Pace, StepReport, draw, versions, write_json
from qa_fast.train.setup import base_model
from qa_fast.train.state import writing


class Record:
    """Measures and reports the steps of a run; owns the event log and the clock.

    Args:
        run: The run; the record adds to the history in its state.
        losses: The run's losses.
        devices: Number of devices of all processes.
    """

    def __init__(self, run: Run, losses: Losses, devices: int) -> None:
        self._plan, self._state, self._job, self._say = run.plan, run.state, run.job, run.say
        self._losses, self._devices = losses, devices
        self._pace = Pace()
        self._mark = self._rate = 0.0
        self._log: EventLog | None = None

    def open(self) -> None:
        """Begin the event log; only the first process does."""
        self._log = EventLog(self._plan.training / "tensorboard")

    def _writing(self) -> AbstractContextManager[None]:
        return writing("a run's record", self._plan.training, self._plan.checkpoints)

    def close(self) -> None:
        """Close the event log."""
        if self._log is not None:
            self._log.close()

    def start_clock(self) -> None:
        """Begin to measure the next step; the time since the end of the last one does not count."""
        self._mark = time.perf_counter()

    def add_step(self, rate: float, features: int, tokens: int, compiled: Callable[[], bool]) -> None:
        """Count a step, and report at the end of a log interval.

        Args:
            rate: Learning rate of the step.
            features: Number of features in all processes together.
            tokens: Number of their tokens, without padding.
            compiled: Returns whether the step compiled something.
        """
        step, last, loss = self._state.position.step, self._plan.data.steps, None
        if step % self._plan.config.log_every == 0 or step == last:
            loss = self._losses.mean(last=step == last)  # waits for the device: part of the steps' time
        now = time.perf_counter()
        self._pace.add(now - self._mark, features, tokens, compiled())
        self._mark, self._rate = now, rate
        if loss is not None:
            self._add_point(rate, loss)

    def add_rest(self) -> None:
        """Report the steps since the last log interval, if the run ended before the next one."""
        loss = self._losses.mean(last=True)
        if loss is not None:
            self._add_point(self._rate, loss)

    def _add_point(self, rate: float, loss: float) -> None:
        position, history, data = self._state.position, self._state.history, self._plan.data
        norm = self._losses.norm
        history.steps.append(position.step)
        history.losses.append(loss)
        history.learning_rates.append(rate)
        features, tokens = self._pace.rates()
        tokens_a_step = data.tokens / max(1, data.steps_an_epoch)
        steps_left = data.steps - position.step
        left = steps_left * tokens_a_step / max(tokens, 1e-9)
        left += self._pace.compiling_left(min(len(self._plan.widths), self._pace.compilations + steps_left))
        epoch, compiling = position.epoch + 1, self._pace.compile_seconds
        self._say(StepReport(position.step, data.steps, epoch, loss, rate, norm, features, tokens, left, compiling))
        values = {"train/loss": loss, "train/learning_rate": rate, "train/gradient_norm": norm}
        if features:
            values |= {"speed/features_per_second": features, "speed/tokens_per_second": tokens}
        self._log_scalars(position.step, values)

    def add_validation(self, report: EpochReport) -> None:
        """Report a validation; only the first process does."""
        self._say(report)
        values = {name: getattr(report, name) for name in ("loss", "exact_match", "f1")}
        self._log_scalars(report.step, {f"validation/{name}": value for name, value in values.items()})

    def _log_scalars(self, step: int, values: dict[str, float]) -> None:
        if self._log is not None:
            with self._writing():
                self._log.add(step, time.time(), values)

    def draw(self) -> None:
        """Draw the curves so far."""
        with self._writing():
            draw(self._state.history, self._plan.training / "training.png")

    def write(self, metrics: dict[str, Any]) -> None:
        """Write the metrics, with a hash of the saved weights, the curves and the model card."""
        with self._writing():
            metrics["weights"] = hash_of_weights(self._plan.out)
            write_json(self._plan.training / "metrics.json", metrics)
            self.draw()
            write_card(self._plan.out, self._plan.sources.shards.manifest)

    def metrics(self, seconds: float) -> dict[str, Any]:
        """Return the contents of `metrics.json`.

        Args:
            seconds: Duration of the run since it was started or resumed.
        """
        plan, pace, position = self._plan, self._pace, self._state.position
        sources, data = plan.sources, plan.data
        state = self._state.to_dict()
        return {
            "model": sources.models["--model"].name,
            "base_model": base_model(plan.config, sources.shards),
            "config": self._public_options(),
            "tokenizer_hash": sources.shards.manifest["model"]["tokenizer_hash"],
            "features": len(data.mix.rows),
            "tokens": data.tokens,
            "mix": data.mix.facts(),
            "widths": plan.widths.tolist(),
            "steps": position.step,
            "updates": position.update,
            "loss_scale": position.loss_scale,
            **plan.choices(),
            "best": state["best"],
            "history": state["history"],
            "seconds": {"all": seconds, "steps": pace.seconds, "steps_that_compiled": pace.compile_seconds},
            "features_per_second": pace.features / pace.seconds if pace.seconds else None,
            "tokens_per_second": pace.tokens / pace.seconds if pace.seconds else None,
            "devices": self._devices,
            "processes": self._job.processes,
            "process_id": self._job.process_id,
            "backend": keras.backend.backend(),
            "versions": versions(),
        }

    def _public_options(self) -> dict[str, Any]:
        """Return the options with names of folders instead of their paths on this machine."""
        config = self._plan.config
        names = {
            option.removeprefix("--").replace("-", "_"): path.name for option, path in self._plan.sources.models.items()
        }
        return config.to_dict() | names | {"out": self._plan.out.name, "model": config.model and names["model"]}
