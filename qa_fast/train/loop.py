"""Shards and a checkpoint in, a trained model folder out.

One loop for every backend; `backend_tensorflow` and `backend_jax` hold the few lines that differ. OUT holds the model
as transformers reads it and, under `training/`, checkpoints, `metrics.json`, `training.png` and TensorBoard's events.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from qa_fast.batches import Batch, BatchCutter, batches_of, bucket_widths, training_plan
from qa_fast.checkpoint import load_weights, save_model, start_head
from qa_fast.errors import UserError
from qa_fast.hub.card import write_card
from qa_fast.infer.keras_engine import KerasEngine
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.model.encoder import SpanModel
from qa_fast.model.folder import folder_config
from qa_fast.model.precision import Choice, choose_precision
from qa_fast.scoring import check_tokenizer
from qa_fast.sources import resolve_model
from qa_fast.train.averaging import Average, published
from qa_fast.train.config import TrainConfig
from qa_fast.train.jit import choose_jit
from qa_fast.train.lessons import lessons_of
from qa_fast.train.losses import Losses
from qa_fast.train.mix import Part, open_mix, select_mix
from qa_fast.train.optimizer import step_scalars
from qa_fast.train.report import EpochReport, EventLog, History, Pace, StepReport, draw, versions, write_json
from qa_fast.train.schedule import learning_rate_at
from qa_fast.train.setup import (
    base_model,
    check_unchanged,
    prepare_out,
    validation_split,
)
from qa_fast.train.state import checkpoints, read_checkpoint, sweep, write_checkpoint
from qa_fast.train.steps import Engine, Position, make_micros
from qa_fast.train.teacher import check_teacher
from qa_fast.train.validate import validate

FIRST_SCALE = 2.0**15  # of float16's loss
STEADY_STEPS = 1000  # without an overflow before the scale is doubled

Progress = Callable[[StepReport | EpochReport | str], None]


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        out: The model folder.
        steps: Optimisation steps done, over all its sittings.
        loss: Mean training loss of the last log interval; NaN where there was no step.
        best: Of the epoch that was saved, None without validation.
        metrics: What `metrics.json` says.
    """

    out: Path
    steps: int
    loss: float
    best: EpochReport | None
    metrics: dict[str, Any]


def train(
    shards_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    config: TrainConfig,
    progress: Progress | None = None,
) -> TrainResult:
    """Fine-tune a checkpoint on shards.

    Args:
        shards_path: A folder that `qa-fast featurize` made, or several, see `mix.open_mix`; validation is of the first.
        config: All options.
        progress: Called with a line of text, after each log interval, and after each validation.

    Returns:
        Where the model is and how training went.

    Raises:
        UserError: An option, the shards, the model or the output folder is not usable, or the loss is not a number.
        KeyboardInterrupt: After a checkpoint was written; `resume` goes on from it.
    """
    config.check()
    say = progress or (lambda event: None)
    parts = open_mix([shards_path] if isinstance(shards_path, str | os.PathLike) else shards_path)
    shards = parts[0].shards
    folder = resolve_model(config.model or shards.manifest["model"]["name"])
    check_tokenizer(shards, folder)
    encoder = folder_config(folder)
    if config.dropout is not None:
        encoder = encoder.with_dropout(config.dropout)
    out = Path(config.out)
    sources = {"--model": folder}
    if config.teacher is not None:
        sources["--teacher"] = resolve_model(config.teacher)
        check_teacher(sources["--teacher"], shards)
    if config.init_head is not None:
        sources["--init-head"] = resolve_model(config.init_head)
    prepare_out(out, sources, config)
    return _Run(parts, sources, encoder, config, say).run()


class _Run:
    """One sitting of a run: owns the model, the engine, the event log and where the run stands."""

    def __init__(
        self, parts: list[Part], sources: dict[str, Path], encoder: EncoderConfig, config: TrainConfig, say: Progress
    ) -> None:
        self.sources, self.config, self.say = sources, config, say
        self.shards = shards = parts[0].shards
        self.folder = folder = sources["--model"]
        self.out = Path(config.out)
        self.training = self.out / "training"
        self.checkpoints = self.training / "checkpoints"
        self.validation = validation_split(shards, config)
        self.mix = select_mix(parts, config)
        self.cutter = BatchCutter(self.mix.chunks, encoder.pad_id)
        self.selected = self.mix.rows
        lengths = self.cutter.lengths[self.selected]
        check_length(encoder, int(lengths.max(initial=0)))
        fixed = min(self.mix.max_length, encoder.max_length)
        self.widths = np.array([fixed], np.int32)
        if config.batching == "grouped":
            self.widths = np.minimum(bucket_widths(lengths), encoder.max_length).astype(np.int32)
        self.batches = -(-sum(self.mix.sizes) // config.batch_size)
        self.steps_an_epoch = -(-self.batches // config.accumulate)
        self.steps = self.steps_an_epoch * config.epochs
        self.steps = min(self.steps, config.max_steps or self.steps)
        self.tokens = self.mix.tokens(self.cutter.lengths)

        found = checkpoints(self.checkpoints) if config.resume else []
        arrays, state = read_checkpoint(found[-1]) if found else (None, None)
        self.position = Position(**state["position"]) if state else Position()
        self.history = History(**state["history"]) if state else History()
        self.best = EpochReport(**state["best"]) if state and state["best"] else None
        if state:
            check_unchanged(state, config, self.mix.identity())
            self.precision, self.jit = Choice(**state["precision"]), Choice(**state["jit"])
            say(f"going on from step {self.position.step} of {self.steps}")
        else:
            self.precision = choose_precision(config.precision)
            width = int(self.widths[np.searchsorted(self.widths, np.median(lengths))])
            self.jit = choose_jit(config.jit, encoder, self.precision.value, config.batch_size, width, self.steps)
            if self.precision.value == "float16":
                self.position.loss_scale = FIRST_SCALE
        say(f"precision {self.precision.value}: {self.precision.reason}")
        say(f"jit {self.jit.value}: {self.jit.reason}")

        self.model = SpanModel(encoder, precision=self.precision.value)
        report = load_weights(self.model, folder, seed=config.seed)
        if "--init-head" in sources:
            start_head(self.model, sources["--init-head"])
        if not state:
            say(f"{folder}: {report.message()}")
            if "--init-head" in sources:
                say(f"{sources['--init-head']}: its head is what training starts from")
        self.lessons = None
        if "--teacher" in sources:
            self.lessons = lessons_of(sources["--teacher"], self.mix, config, say)
        temperature = self.lessons.temperature if self.lessons else None
        self.engine = _make_engine(self.model, self.jit.value, temperature)
        self.average = None
        if config.average != "none":
            self.average = Average(config.average, self.steps, config.average_decay, config.average_share)
        if arrays:
            self.engine.write(arrays)
            if self.average is not None:
                self.average.write(arrays.get("averages", []))
        if self.engine.devices > 1:
            say(f"{self.engine.devices} devices, each with its share of every batch")
        self.reader = KerasEngine(self.model)
        self.pace = Pace()
        self.seen_widths: set[int] = set()
        self.mark = 0.0
        half = self.precision.value == "float16"
        self.losses = Losses(self.checkpoints, config.learning_rate, skips_overflows=half)

    def run(self) -> TrainResult:
        """All remaining steps, then what is left behind."""
        self.training.mkdir(parents=True, exist_ok=True)
        sweep(self.checkpoints)
        self.log = EventLog(self.training / "tensorboard")
        started = time.perf_counter()
        try:
            with _interruptible() as interrupted:
                while not self.position.ended:
                    self._epoch(interrupted)
        finally:
            self.log.close()
        metrics = self._metrics(time.perf_counter() - started)
        write_json(self.training / "metrics.json", metrics)
        draw(self.history, self.training / "training.png")
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # half a gigabyte that nobody resumes from any more
        write_card(self.out, self.shards.manifest)
        loss = self.history.losses[-1] if self.history.losses else math.nan
        return TrainResult(self.out, self.position.step, loss, self.best, metrics)

    def _epoch(self, interrupted: threading.Event) -> None:
        config, position = self.config, self.position
        rows = self.mix.epoch(config.seed, position.epoch)
        plan = training_plan(self.cutter.lengths, rows, config.batch_size, config.seed, position.epoch, self.widths)
        self._validate_if_due()
        self.mark = time.perf_counter()
        left = self.steps - position.step
        batches = batches_of(self.cutter, plan, position.batch)
        if position.ended:
            return
        for group in itertools.islice(_grouped(batches, config.accumulate), left):
            self._step(group)
            if interrupted.is_set():
                self._checkpoint()
                self.say(f"stopped at step {position.step}: --resume goes on from there")
                raise KeyboardInterrupt
            if self._validate_if_due():
                self.mark = time.perf_counter()
            if position.ended:
                return
            if config.checkpoint_every and position.step % config.checkpoint_every == 0:
                self._checkpoint()
                self.mark = time.perf_counter()
        self.losses.read()
        self._end_of_epoch()

    def _step(self, group: list[Batch]) -> None:
        config, position = self.config, self.position
        rate = learning_rate_at(position.step, self.steps, config.learning_rate, config.schedule, config.warmup)
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        scalars = step_scalars(rate, decay, config.clip_norm, position.update + 1, position.loss_scale)
        micros = make_micros(group, config.seed, position.passes, self.engine.devices)
        if self.lessons is not None:
            micros = self.lessons.taught(micros, group)
        loss, norm = self.engine.step(micros, scalars)
        if self.precision.value == "float16":
            self._scale(float(norm))
        else:
            position.update += 1
        position.step += 1
        position.batch += len(group)
        position.passes += len(group)
        if self.average is not None:
            self.average.add(position.step, self.engine.weights())
        self.losses.add(position.step, loss, norm)
        features = sum(int((batch.rows >= 0).sum()) for batch in group)
        tokens = sum(int(batch.lengths[batch.rows >= 0].sum()) for batch in group)
        widths = {batch.input_ids.shape[1] for batch in group}
        compiled = not widths <= self.seen_widths
        self.seen_widths |= widths
        now = time.perf_counter()
        self.pace.add(now - self.mark, features, tokens, compiled)
        self.mark = now
        if position.step % config.log_every == 0 or position.step == self.steps:
            self._report(rate)

    def _scale(self, norm: float) -> None:
        """Halve float16's loss scale after an overflow (that update was skipped), double it after a steady while."""
        position = self.position
        if not math.isfinite(norm):
            position.loss_scale, position.steady = max(1.0, position.loss_scale / 2), 0
            return
        position.update += 1
        position.steady += 1
        if position.steady == STEADY_STEPS:
            position.loss_scale, position.steady = min(2.0**24, position.loss_scale * 2), 0

    def _report(self, rate: float) -> None:
        position, history = self.position, self.history
        loss, norm = self.losses.mean(), self.losses.norm
        history.steps.append(position.step)
        history.losses.append(loss)
        history.learning_rates.append(rate)
        features, tokens = self.pace.rates()
        left = (self.steps - position.step) * self.tokens / max(1, self.steps_an_epoch) / max(tokens, 1e-9)
        self.say(StepReport(position.step, self.steps, position.epoch + 1, loss, rate, norm, features, tokens, left))
        values = {"train__loss": loss, "train__learning_rate": rate, "train__gradient_norm": norm}
        if features:
            values |= {"speed__features_per_second": features, "speed__tokens_per_second": tokens}
        self.log.add(position.step, time.time(), **values)

    def _validate_if_due(self) -> bool:
        """Score within an epoch where it is the step for it; a run that was cut off before that begins with it."""
        every, step = self.config.validate_every, self.position.step
        due = every is not None and step % every == 0 and step > self.position.validated and step < self.steps
        if due:
            self.losses.read()
            self._score_and_save(self.position.epoch + 1)
            if self.position.ended and self.config.checkpoint_every:
                self._checkpoint()
        return due

    def _end_of_epoch(self) -> None:
        """Score and save; the position moves on first, so that the checkpoint at the end says that this is done."""
        position = self.position
        epoch = position.epoch + 1
        position.ended = position.step >= self.steps
        if not position.ended:
            position.epoch, position.batch = epoch, 0
        if position.validated < position.step:
            self._score_and_save(epoch)
        if self.config.checkpoint_every:
            self._checkpoint()

    def _score_and_save(self, epoch: int) -> None:
        position = self.position
        position.validated = position.step
        with published(self.engine, self.average):
            self._score_and_save_published(epoch)
        if self.config.patience is not None and position.stale >= self.config.patience and not position.ended:
            position.ended = True
            self.say(f"stopped at step {position.step}: the last {position.stale} validations found no better F1")
        draw(self.history, self.training / "training.png")

    def _score_and_save_published(self, epoch: int) -> None:
        position = self.position
        if self.validation is not None:
            report = validate(
                self.reader,
                self.validation,
                self.shards.manifest["model"].get("cls_token_id"),
                self.config.validation_examples,
                self.config.seed,
            )
            saved = self.best is None or report.f1 > self.best.f1
            report = dataclasses.replace(report, epoch=epoch, step=position.step, saved=saved)
            self.history.epochs.append(dataclasses.asdict(report))
            self.log.add(
                position.step,
                time.time(),
                validation__loss=report.loss,
                validation__exact_match=report.exact_match,
                validation__f1=report.f1,
            )
            self.say(report)
            position.stale = 0 if saved else position.stale + 1
            if saved:
                self.best = report
                self._save_model()
        else:
            self._save_model()

    def _save_model(self) -> None:
        save_model(self.model, self.out, self.folder, replace=True)

    def _checkpoint(self) -> None:
        self.losses.read()  # no checkpoint after a loss that is not a number
        state = {
            "position": dataclasses.asdict(self.position),
            "history": dataclasses.asdict(self.history),
            "best": dataclasses.asdict(self.best) if self.best else None,
            "config": self.config.to_dict(),
            "data": self.mix.identity(),
            "precision": dataclasses.asdict(self.precision),
            "jit": dataclasses.asdict(self.jit),
        }
        arrays = self.engine.read()
        if self.average is not None:
            arrays["averages"] = self.average.read()
        write_checkpoint(self.checkpoints, self.position.step, arrays, state)

    def _metrics(self, seconds: float) -> dict[str, Any]:
        pace, position = self.pace, self.position
        others = [(option, path) for option, path in self.sources.items() if option != "--model"]
        return {
            "model": self.folder.name,
            "base_model": base_model(self.config, self.shards),
            "config": self.config.to_dict()
            | {"out": self.out.name, "model": self.config.model and self.folder.name}
            | {option.removeprefix("--").replace("-", "_"): path.name for option, path in others},
            "tokenizer_hash": self.shards.manifest["model"]["tokenizer_hash"],
            "features": len(self.selected),
            "tokens": self.tokens,
            "mix": self.mix.facts(),
            "widths": self.widths.tolist(),
            "steps": position.step,
            "updates": position.update,
            "loss_scale": position.loss_scale,
            "precision": dataclasses.asdict(self.precision),
            "jit": dataclasses.asdict(self.jit),
            "best": dataclasses.asdict(self.best) if self.best else None,
            "history": dataclasses.asdict(self.history),
            "seconds": {"all": seconds, "steps": pace.seconds, "steps_that_compiled": pace.compile_seconds},
            "features_per_second": pace.features / pace.seconds if pace.seconds else None,
            "tokens_per_second": pace.tokens / pace.seconds if pace.seconds else None,
            "devices": self.engine.devices,
            "backend": keras.backend.backend(),
            "versions": versions(),
        }


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(batches, size)):
        yield group


def _make_engine(model: SpanModel, jit: str, temperature: float | None = None) -> Engine:
    if keras.backend.backend() == "tensorflow":
        from qa_fast.train.backend_tensorflow import TensorFlowEngine, training_devices

        return TensorFlowEngine(model, jit, training_devices(), temperature)
    if keras.backend.backend() == "jax":
        from qa_fast.train.backend_jax import JaxEngine

        return JaxEngine(model, temperature=temperature)
    raise UserError(
        f"KERAS_BACKEND must be tensorflow or jax to train; received {keras.backend.backend()!r}: set it to one of them"
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C (or SIGTERM) sets, so that a step is never cut in two; a second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
