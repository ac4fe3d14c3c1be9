"""Shards and a checkpoint in, a trained model folder out.

One loop for every backend; `backend_tensorflow` and `backend_jax` hold the few lines that differ. OUT holds the model
as transformers reads it and, under `training/`, checkpoints, `metrics.json`, `training.png` and TensorBoard's events.
In a job of several processes each runs this loop; the first alone measures, reads checkpoints, validates and writes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from qa_fast.batches import MULTIPLE, Batch, BatchCutter, Plan, batches_of, bucket_widths, training_plan
from qa_fast.checkpoint import load_weights, save_model, start_head
from qa_fast.errors import UserError
from qa_fast.hub.card import write_card
from qa_fast.infer.graphs import model_key
from qa_fast.infer.keras_engine import KerasEngine
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.model.encoder import SpanModel
from qa_fast.model.folder import folder_config
from qa_fast.model.precision import Choice, choose_precision
from qa_fast.schema import Int32s
from qa_fast.scoring import check_tokenizer
from qa_fast.sources import resolve_model
from qa_fast.train.attention import WIDTH_MULTIPLE, against_device, choose_attention
from qa_fast.train.averaging import Average, published
from qa_fast.train.config import JobConfig, TrainConfig
from qa_fast.train.jit import choose_jit
from qa_fast.train.job import Job, join
from qa_fast.train.lessons import Lessons, lessons_of
from qa_fast.train.losses import Losses
from qa_fast.train.mix import Part, open_mix, select_mix
from qa_fast.train.optimizer import step_scalars
from qa_fast.train.report import EpochReport, EventLog, History, Pace, StepReport, draw, versions, write_json
from qa_fast.train.schedule import learning_rate_at
from qa_fast.train.setup import (
    base_model,
    check_same,
    check_unchanged,
    prepare_out,
    validation_split,
)
from qa_fast.train.state import checkpoints, read_checkpoint, sweep, write_checkpoint
from qa_fast.train.steps import Engine, Position, make_micros
from qa_fast.train.stopping import Stopping, interruptible
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
        UserError: An option, the shards, the model or the output folder is not usable, the loss is not a number, or
            another process of the job failed.
        KeyboardInterrupt: After a checkpoint was written; `resume` goes on from it.
    """
    config.check()
    with join(job or JobConfig()) as joined:
        say = progress if progress and joined.first else lambda event: None
        with joined.agreed():
            parts, sources, encoder = _opened(shards_path, config)
        joined.told(lambda: prepare_out(Path(config.out), sources, config))
        return _Run(parts, sources, encoder, config, say, joined).run()


def _opened(
    shards_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], config: TrainConfig
) -> tuple[list[Part], dict[str, Path], EncoderConfig]:
    """The folders of shards, those of models by their option, and what the model to start from is."""
    one = isinstance(shards_path, str) or not isinstance(shards_path, Sequence)
    parts = open_mix(cast(Any, [shards_path] if one else shards_path))
    shards = parts[0].shards
    sources = {"--model": resolve_model(config.model or shards.manifest["model"]["name"])}
    check_tokenizer(shards, sources["--model"])
    if config.teacher is not None:
        sources["--teacher"] = resolve_model(config.teacher)
        check_teacher(sources["--teacher"], shards)
    if config.init_head is not None:
        sources["--init-head"] = resolve_model(config.init_head)
    encoder = folder_config(sources["--model"])
    return parts, sources, encoder if config.dropout is None else encoder.with_dropout(config.dropout)


class _Run:
    """One sitting of a run: owns the model, the engine, the event log and where the run stands."""

    def __init__(
        self,
        parts: Sequence[Part],
        sources: Mapping[str, Path],
        encoder: EncoderConfig,
        config: TrainConfig,
        say: Progress,
        job: Job,
    ) -> None:
        self.sources, self.config, self.say, self.job = sources, config, say, job
        self.shards, self.folder = parts[0].shards, sources["--model"]
        self.out = Path(config.out)
        self.training = self.out / "training"
        self.checkpoints = self.training / "checkpoints"
        with job.agreed():
            self._choose_batches(parts, encoder)
            teacher = model_key(sources["--teacher"]) if "--teacher" in sources else None
            about = {"data": self.mix.identity(), "model": repr(encoder), "teacher": teacher}
            check_same(job.gather({"options": config.to_dict()} | about))

        self.arrays: dict[str, Any] | None = None
        told = job.told(self._found)
        self.position, self.history = Position(**told["position"]), History(**told["history"])
        self.best = EpochReport(**told["best"]) if told["best"] else None
        self.precision = Choice(**(told["precision"] or job.told(self._measured_precision)))
        self.attention = Choice(**(told["attention"] or job.told(lambda: self._chosen_attention(encoder))))
        self.widths = self._chosen_widths(encoder)
        self.jit = Choice(**(told["jit"] or job.told(lambda: self._measured_jit(encoder))))
        if not told["resumed"] and self.precision.value == "float16":
            self.position.loss_scale = FIRST_SCALE
        say(f"precision {self.precision.value}: {self.precision.reason}")
        say(f"jit {self.jit.value}: {self.jit.reason}")
        if self.attention.value != "exact" or "--attention" in self.attention.reason:
            say(f"attention {self.attention.value}: {self.attention.reason}")

        self.lessons = self._lessons()
        self.average = None
        if config.average != "none":
            self.average = Average(config.average, self.steps, config.average_decay, config.average_share)
        with job.agreed():
            self.model = SpanModel(encoder, precision=self.precision.value)
            report = load_weights(self.model, self.folder, seed=config.seed)
            if "--init-head" in sources:
                start_head(self.model, sources["--init-head"])
            if not told["resumed"]:
                say(f"{self.folder}: {report.message()}")
                if "--init-head" in sources:
                    say(f"{sources['--init-head']}: its head is what training starts from")
            temperature = self.lessons.temperature if self.lessons else None
            self.engine = _make_engine(self.model, self.jit.value, self.attention.value, temperature)
        if job.processes > 1:  # one copy of the truth, whatever lies on the machines
            own = self.arrays or self.engine.read()
            if told["averaged"]:
                own = {"averages": own["weights"]} | own
            self.arrays = job.arrays(own)
        if self.arrays:
            self.engine.write(self.arrays)
            if self.average is not None:
                self.average.write(self.engine.placed(self.arrays.get("averages", [])))
            self.arrays = None
        if self.engine.devices > 1:
            several = f" in {job.processes} processes" if job.processes > 1 else ""
            say(f"{self.engine.devices} devices{several}, each with its share of every batch")
        self.reader = KerasEngine(self.model)
        self.pace = Pace()
        self.seen_widths: set[int] = set()
        self.mark = 0.0
        half = self.precision.value == "float16"
        self.losses = Losses(self.checkpoints, config.learning_rate, skips_overflows=half)

    def _choose_batches(self, parts: Sequence[Part], encoder: EncoderConfig) -> None:
        config = self.config
        self.validation = validation_split(self.shards, config)
        self.mix = select_mix(parts, config)
        self.cutter = BatchCutter(self.mix.chunks, encoder.pad_id)
        self.selected = self.mix.rows
        check_length(encoder, int(self.cutter.lengths[self.selected].max(initial=0)))
        self.batches = -(-sum(self.mix.sizes) // config.batch_size)
        self.steps_an_epoch = -(-self.batches // config.accumulate)
        self.steps = self.steps_an_epoch * config.epochs
        self.steps = min(self.steps, config.max_steps or self.steps)
        self.tokens = self.mix.tokens(self.cutter.lengths)

    def _lessons(self) -> Lessons | None:
        """The teacher's; the first process computes what is not kept, and the others find it where SHARDS is shared."""
        teacher = self.sources.get("--teacher")
        if teacher is None:
            return None
        first = self.job.first
        lessons: list[Lessons] = []

        def learn() -> None:
            lessons.append(lessons_of(teacher, self.mix, self.config, self.say))

        self.job.told(learn)
        with self.job.agreed():
            if not first:
                learn()
        return lessons[0]

    def _chosen_widths(self, encoder: EncoderConfig) -> Int32s:
        if self.config.batching == "fixed":
            fixed = min(self.mix.max_length, encoder.max_length)
            return np.array([fixed], np.int32)
        multiple = WIDTH_MULTIPLE if self.attention.value == "cudnn" else MULTIPLE
        widths = bucket_widths(self.cutter.lengths[self.selected], multiple=multiple)
        return np.minimum(widths, encoder.max_length).astype(np.int32)

    def _found(self) -> dict[str, Any]:
        """Where to begin: at the newest checkpoint, whose arrays are kept for later, or anew."""
        found = checkpoints(self.checkpoints) if self.config.resume else []
        if not found:
            fresh = {"position": dataclasses.asdict(Position()), "history": dataclasses.asdict(History())}
            return (
                fresh
                | {"best": None, "precision": None, "jit": None, "attention": None}
                | {
                    "resumed": False,
                    "averaged": False,
                }
            )
        self.arrays, state = read_checkpoint(found[-1])
        check_unchanged(state, self.config, self.mix.identity())
        self.say(f"going on from step {state['position']['step']} of {self.steps}")
        return {"attention": None} | state | {"resumed": True, "averaged": "averages" in self.arrays}

    def _measured_precision(self) -> dict[str, Any]:
        return dataclasses.asdict(choose_precision(self.config.precision))

    def _chosen_attention(self, encoder: EncoderConfig) -> dict[str, Any]:
        choice = choose_attention(self.config.attention, encoder, self.precision.value, against_device())
        return dataclasses.asdict(choice)

    def _measured_jit(self, encoder: EncoderConfig) -> dict[str, Any]:
        config = self.config
        width = int(self.widths[np.searchsorted(self.widths, np.median(self.cutter.lengths[self.selected]))])
        jit = choose_jit(config.jit, encoder, self.precision.value, config.batch_size, width, self.steps)
        return dataclasses.asdict(jit)

    def run(self) -> TrainResult:
        """All remaining steps, then what is left behind."""
        self.job.told(self._prepare)
        started = time.perf_counter()
        try:
            with interruptible() as interrupted:
                stopping = Stopping(self.job, interrupted)
                while not self.position.ended:
                    self._epoch(stopping)
        except UserError as error:
            raise self.job.known(error) from None  # a loss that is not a number is one in all processes
        finally:
            if self.job.first:
                self.log.close()
        metrics = self._metrics(time.perf_counter() - started)
        self.job.told(lambda: self._finish(metrics))
        loss = self.history.losses[-1] if self.history.losses else math.nan
        return TrainResult(self.out, self.position.step, loss, self.best, metrics)

    def _prepare(self) -> None:
        self.training.mkdir(parents=True, exist_ok=True)
        sweep(self.checkpoints)
        self.log = EventLog(self.training / "tensorboard")

    def _finish(self, metrics: dict[str, Any]) -> None:
        write_json(self.training / "metrics.json", metrics)
        draw(self.history, self.training / "training.png")
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # half a gigabyte that nobody resumes from any more
        write_card(self.out, self.shards.manifest)

    def _epoch(self, stopping: Stopping) -> None:
        config, position, job = self.config, self.position, self.job
        rows = self.mix.epoch(config.seed, position.epoch)
        plan = training_plan(self.cutter.lengths, rows, config.batch_size, config.seed, position.epoch, self.widths)
        self._validate_if_due()
        if position.ended:
            return
        self.mark = time.perf_counter()
        left = self.steps - position.step
        share = plan.share(job.process_id, job.processes, self.engine.devices)
        batches = batches_of(self.cutter, share, position.batch)
        for group in itertools.islice(_grouped(batches, config.accumulate), left):
            self._step(group, plan)
            if stopping.asked():
                self._stop()
            if self._validate_if_due():
                self.mark = time.perf_counter()
            if position.ended:
                return
            if config.checkpoint_every and position.step % config.checkpoint_every == 0:
                self._checkpoint()
                self.mark = time.perf_counter()
        if stopping.asked_so_far():
            self._stop()
        self.losses.read()
        self._end_of_epoch()

    def _stop(self) -> None:
        self._checkpoint()
        self.say(f"stopped at step {self.position.step}: --resume goes on from there")
        raise self.job.known(KeyboardInterrupt())

    def _step(self, group: list[Batch], plan: Plan) -> None:
        """One step over this process' rows of the batches that come next in the plan."""
        config, position = self.config, self.position
        rate = learning_rate_at(position.step, self.steps, config.learning_rate, config.schedule, config.warmup)
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        scalars = step_scalars(rate, decay, config.clip_norm, position.update + 1, position.loss_scale)
        these = slice(position.batch, position.batch + len(group))
        rows = np.concatenate(plan.rows[these])
        devices = self.engine.devices // self.job.processes
        totals = self.cutter.labels_that_count(rows)
        micros = make_micros(group, config.seed, position.passes, devices, totals)
        present = rows[rows >= 0]
        if self.lessons is not None:
            micros = self.lessons.taught(micros, group, len(present))
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
        widths = set(plan.widths[these].tolist())
        compiled = not widths <= self.seen_widths
        self.seen_widths |= widths
        now = time.perf_counter()
        self.pace.add(now - self.mark, len(present), int(self.cutter.lengths[present].sum()), compiled)
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
        if self.job.first:
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
        """The first process scores; what it found moves the position on in all, so that they end together."""
        position = self.position
        position.validated = position.step
        told = self.job.told(lambda: self._scored_and_saved(epoch))
        if told is not None:
            report = EpochReport(**told)
            self.history.epochs.append(told)
            self.best = report if report.saved else self.best
            position.stale = 0 if report.saved else position.stale + 1
        if self.config.patience is not None and position.stale >= self.config.patience and not position.ended:
            position.ended = True
            self.say(f"stopped at step {position.step}: the last {position.stale} validations found no better F1")
        if self.job.first:
            draw(self.history, self.training / "training.png")

    def _scored_and_saved(self, epoch: int) -> dict[str, Any] | None:
        """What validation in an epoch found, None without it; the best model so far is saved."""
        with published(self.engine, self.average):
            if self.validation is None:
                self._save_model()
                return None
            report = validate(
                self.reader,
                self.validation,
                self.shards.manifest["model"].get("cls_token_id"),
                self.config.validation_examples,
                self.config.seed,
            )
            saved = self.best is None or report.f1 > self.best.f1
            report = dataclasses.replace(report, epoch=epoch, step=self.position.step, saved=saved)
            self.log.add(
                report.step,
                time.time(),
                validation__loss=report.loss,
                validation__exact_match=report.exact_match,
                validation__f1=report.f1,
            )
            self.say(report)
            if saved:
                self._save_model()
            return dataclasses.asdict(report)

    def _save_model(self) -> None:
        save_model(self.model, self.out, self.folder, replace=True)

    def _checkpoint(self) -> None:
        self.losses.read()  # no checkpoint after a loss that is not a number
        self.job.told(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        state = {
            "position": dataclasses.asdict(self.position),
            "history": dataclasses.asdict(self.history),
            "best": dataclasses.asdict(self.best) if self.best else None,
            "config": self.config.to_dict(),
            "data": self.mix.identity(),
            "precision": dataclasses.asdict(self.precision),
            "jit": dataclasses.asdict(self.jit),
            "attention": dataclasses.asdict(self.attention),
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
            "attention": dataclasses.asdict(self.attention),
            "best": dataclasses.asdict(self.best) if self.best else None,
            "history": dataclasses.asdict(self.history),
            "seconds": {"all": seconds, "steps": pace.seconds, "steps_that_compiled": pace.compile_seconds},
            "features_per_second": pace.features / pace.seconds if pace.seconds else None,
            "tokens_per_second": pace.tokens / pace.seconds if pace.seconds else None,
            "devices": self.engine.devices,
            "processes": self.job.processes,
            "process_id": self.job.process_id,
            "backend": keras.backend.backend(),
            "versions": versions(),
        }


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(batches, size)):
        yield group


def _make_engine(model: SpanModel, jit: str, attention: str = "exact", temperature: float | None = None) -> Engine:
    if keras.backend.backend() == "tensorflow":
        from qa_fast.train.backend_tensorflow import TensorFlowEngine, training_devices

        return TensorFlowEngine(model, jit, training_devices(), temperature)
    if keras.backend.backend() == "jax":
        from qa_fast.train.backend_jax import JaxEngine

        return JaxEngine(model, attention, temperature=temperature)
    raise UserError(
        f"KERAS_BACKEND must be tensorflow or jax to train; received {keras.backend.backend()!r}: set it to one of them"
    )
