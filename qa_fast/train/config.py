"""Every option of a training run, defined once; the command line maps to it one to one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qa_fast.errors import UserError, shown
from qa_fast.model.precision import PRECISIONS

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("linear", "constant", "range")
BATCHINGS = ("grouped", "fixed")
ATTENTIONS = ("auto", "exact", "cudnn")
JITS = ("auto", "on", "parts", "off")
# These do not change which weights come out, so a resumed run may have others.
FREE_ON_RESUME = ("out", "checkpoint_every", "resume", "overwrite", "log_every")


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train.train`.

    Attributes:
        model: A model folder, Hub id or "minilm"; None is the model whose tokenizer made the shards.
        out: Folder for the trained model.
        epochs: Times over the data.
        max_steps: Stop after so many optimisation steps; the schedule then ends there too.
        max_examples: Train on a random choice of so many examples (the same for the same seed).
        batch_size: Rows (features) a batch, over all devices together.
        accumulate: Batches an optimisation step.
        steps_per_execution: Optimisation steps that are given to the device in one call, as in Keras' `compile` (JAX
            only); so many batches of one width then follow each other.
        optimizer: "adamw" (weight decay on matrices) or "adam".
        schedule: "linear" (warmup, then down to 0), "constant" or "range" (rising, see `rates`).
        learning_rate: Highest learning rate.
        warmup: Share of the steps over which the rate rises; linear schedule only.
        weight_decay: AdamW's decay.
        clip_norm: Gradients are scaled down to this norm; 0 leaves them.
        dropout: Rate of all dropouts instead of the model's own.
        batching: "grouped" (by length) or "fixed" (every batch as long as the longest feature).
        precision: "auto" (measured), "float32", "bfloat16" or "float16".
        jit: "auto" (measured), "on" (XLA compiles the whole step), "parts" (XLA compiles what lies between matrix
            products; TensorFlow only) or "off".
        attention: "auto" (cuDNN's kernel where no dropout is lost by it), "exact", or "cudnn" (JAX on CUDA; without
            dropout of attention's probabilities).
        seed: Of data order, dropout and fresh weights.
        checkpoint_every: Steps between checkpoints; 0 writes none but at an interruption.
        log_every: Steps between points of the loss curve.
        validation: Split to score after each epoch, where the shards have it; "" is none.
        validation_examples: Score a random choice of so many examples; None is all.
        validate_every: Steps between validations, beside those at the ends of epochs; None is at those alone.
        patience: Stop after so many validations in a row that are not the best so far by F1; None never does.
        init_head: A fine-tuned model folder or Hub id whose head training starts from.
        teacher: A fine-tuned model folder or Hub id to learn from beside the labels.
        teacher_weight: What the teacher counts in the loss, in (0, 1]; labels count the rest.
        temperature: Softens the teacher's and the student's probabilities.
        resume: Go on from the newest checkpoint in `out`.
        overwrite: Replace what is in `out`.
    """

    model: str | None = None
    out: str = "model"
    epochs: int = 2
    max_steps: int | None = None
    max_examples: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    steps_per_execution: int = 1
    optimizer: str = "adamw"
    schedule: str = "linear"
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dropout: float | None = None
    batching: str = "grouped"
    precision: str = "auto"
    jit: str = "auto"
    attention: str = "auto"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 10
    validation: str = "validation"
    validation_examples: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    init_head: str | None = None
    teacher: str | None = None
    teacher_weight: float = 0.5
    temperature: float = 2.0
    resume: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Refuse values that no run can have.

        Raises:
            UserError: With the rule, the value and the option's name.
        """
        choices = {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "batching": BATCHINGS,
            "precision": PRECISIONS,
            "jit": JITS,
            "attention": ATTENTIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"--{name} must be one of {', '.join(allowed)}; received {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "accumulate", "steps_per_execution", "log_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "max_examples", "validation_examples", "validate_every", "patience"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("checkpoint_every", "weight_decay", "clip_norm", "seed"):
            _at_least(name, getattr(self, name), 0)
        if self.steps_per_execution > 1 and self.accumulate > 1:
            raise UserError(
                f"--steps-per-execution and --accumulate exclude each other; received {self.steps_per_execution} and "
                f"{self.accumulate}: leave out either"
            )
        if not self.learning_rate > 0:
            raise UserError(f"--learning-rate must be above 0; received {self.learning_rate}: try 5e-5")
        for name in ("warmup", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"--{name} must be at least 0 and below 1; received {value}")
        if not 0 < self.teacher_weight <= 1:
            raise UserError(
                "--teacher-weight must be above 0 and at most 1, the share of the loss that is the teacher's; "
                f"received {self.teacher_weight}: try 0.5"
            )
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"--temperature must be above 0; received {self.temperature}: try 2")
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other; received both: choose one")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return dataclasses.asdict(self)


def _at_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise UserError(f"--{name.replace('_', '-')} must be at least {least}; received {value}")


def changed_options(before: dict[str, Any], now: TrainConfig) -> list[str]:
    """Which options that decide the weights differ from those of an earlier run, as "name: then -> now"."""
    before = TrainConfig().to_dict() | before  # an earlier version lacked some, and did as the defaults say
    return [
        f"{name}: {shown(before[name])} -> {shown(value)}"
        for name, value in now.to_dict().items()
        if name not in FREE_ON_RESUME and before[name] != value
    ]


@dataclass(frozen=True)
class JobConfig:
    """The processes that train together, and which of them this is; not part of what decides the weights.

    Attributes:
        processes: How many; None where `coordinator` is "auto", or for a run of one process.
        process_id: Which one this is, from 0; as `processes`.
        coordinator: HOST:PORT at which process 0 listens and the others find it; None is the environment's
            JAX_COORDINATOR_ADDRESS; "auto" takes all three from Slurm, Open MPI, Kubernetes or a TPU pod.
        join_timeout: Seconds to wait for the others at the start.
        heartbeat_timeout: Seconds without a sign of life after which JAX ends the job.
    """

    processes: int | None = None
    process_id: int | None = None
    coordinator: str | None = None
    join_timeout: int = 300
    heartbeat_timeout: int = 100

    @property
    def asked(self) -> bool:
        """Whether there is a job to join."""
        return self.coordinator is not None or (self.processes or 1) > 1

    def address(self, environment: Mapping[str, str]) -> str | None:
        """HOST:PORT; None where JAX finds it.

        Raises:
            UserError: It is missing, or is none.
        """
        address = self.coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
        if address == "auto":
            return None
        if not address or not re.fullmatch(r".+:\d{1,5}", address):
            raise UserError(
                "--coordinator must be HOST:PORT of process 0 (or JAX_COORDINATOR_ADDRESS be set to it), or 'auto'; "
                f"received {address!r}: try 127.0.0.1:12345 on one machine"
            )
        return address

    def check(self) -> None:
        """Refuse what makes no job.

        Raises:
            UserError: With the rule, the value and the option's name.
        """
        for name in ("join_timeout", "heartbeat_timeout"):
            _at_least(name, getattr(self, name), 1)
        given = [name for name in ("processes", "process_id") if getattr(self, name) is not None]
        if self.coordinator == "auto":
            if given:
                raise UserError(
                    "--coordinator auto finds the processes by itself; received "
                    f"{' and '.join('--' + name.replace('_', '-') for name in given)}, too: leave out either"
                )
            return
        if self.processes is None:
            if given or self.coordinator is not None:
                raise UserError(
                    "--coordinator and --process-id are of a job with --processes N; received no number: add it"
                )
            return
        _at_least("processes", self.processes, 1)
        last = self.processes - 1
        if self.process_id is None and not self.asked:
            return
        if self.process_id is None or not 0 <= self.process_id <= last:
            raise UserError(
                f"--process-id must be 0 to {last}, a different one in each of {self.processes} processes; received "
                f"{self.process_id}"
            )
