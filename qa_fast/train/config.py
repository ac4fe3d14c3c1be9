"""Every option of a training run, defined once; the command line maps to it one to one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from qa_fast.errors import UserError
from qa_fast.model.precision import PRECISIONS

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("linear", "constant", "range")
BATCHINGS = ("grouped", "fixed")
JITS = ("auto", "on", "parts", "off")
AVERAGES = ("none", "ema", "swa")
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
        average: What is validated and saved: "none" (the weights as trained), "ema" (their exponential moving average)
            or "swa" (their mean over the last share of the run).
        average_decay: Of "ema", a step; short runs have less, see `averaging.share_of`.
        average_share: Of "swa", the share of the steps, in (0, 1].
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
    average: str = "none"
    average_decay: float = 0.999
    average_share: float = 0.25
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
            "average": AVERAGES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"--{name} must be one of {', '.join(allowed)}; received {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "max_examples", "validation_examples", "validate_every", "patience"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("checkpoint_every", "weight_decay", "clip_norm", "seed"):
            _at_least(name, getattr(self, name), 0)
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
        if not 0 < self.average_decay < 1:
            raise UserError(f"--average-decay must be above 0 and below 1; received {self.average_decay}: try 0.999")
        if not 0 < self.average_share <= 1:
            raise UserError(f"--average-share must be above 0 and at most 1; received {self.average_share}: try 0.25")
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
        f"{name}: {before[name]!r} -> {value!r}"
        for name, value in now.to_dict().items()
        if name not in FREE_ON_RESUME and before[name] != value
    ]
