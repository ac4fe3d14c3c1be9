"""The options of a training run, declared once; the command line and the documentation are generated from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qa_fast.errors import UserError, shown
from qa_fast.model.config import BucketBias, Disentangled, EncoderConfig
from qa_fast.model.precision import PRECISIONS
from qa_fast.options import check_values, flag_of, option
from qa_fast.scoring.rules import AUTO, METRIC_HELP, METRICS

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("linear", "constant")
BATCHINGS = ("grouped", "fixed")
ATTENTIONS = ("auto", "exact", "cudnn")
JITS = ("auto", "on", "parts", "off")
# A resumed run may change these, because they do not change the weights. Models may be in another folder, and what they
# are is compared by their contents.
FREE_ON_RESUME = ("out", "checkpoint_every", "resume", "overwrite", "log_every", "model", "teacher")

_folders = partial(option, group="Model and output")
_data = partial(option, group="Data")
_optimizer = partial(option, group="Optimizer")
_batches = partial(option, group="Batches and precision")
_scoring = partial(option, group="Scoring")
_teacher = partial(option, group="Teacher")
_processes = partial(option, group="Several processes")


@dataclass(frozen=True)
class TrainConfig:
    """The options of `train.train` in one process; each field declares its meaning and bounds.

    Examples:
        >>> TrainConfig(out="model", epochs=3, learning_rate=1e-4)
    """

    model: str | None = _folders(
        None,
        "Model to start from: 'minilm', a local model folder or a Hub id. Default: the model whose tokenizer made the "
        "shards.",
    )
    init_head: str | None = _folders(
        None, "Fine-tuned model (folder or Hub id) that supplies the question-answering head to start from."
    )
    out: str = _folders("model", "Folder for the trained model.")
    overwrite: bool = _folders(False, "Replace the contents of --out.")
    resume: bool = _folders(False, "Continue from the newest checkpoint in --out.")
    checkpoint_every: int = _folders(
        500, "Optimization steps between checkpoints; 0 writes one only when the run is interrupted.", least=0
    )
    seed: int = _folders(
        0, "Seed for the order of the data, for dropout and for randomly initialised weights.", least=0
    )
    log_every: int = _folders(10, "Optimization steps between points of the loss curve.", least=1, command=False)

    epochs: int | None = _data(
        None,
        "Passes over the training data. Default: 2, 5 for fewer than 400 windows, 10 for fewer than 100; with a new "
        "head 5 for fewer than 2,000 windows.",
        least=1,
    )
    max_steps: int | None = _data(
        None, "Stop after this many optimization steps; the learning rate schedule ends there, too.", least=1
    )
    max_examples: int | None = _data(None, "Train on a random sample of this many examples, chosen by --seed.", least=1)

    optimizer: str = _optimizer("adamw", "adamw applies weight decay to matrices; adam does not.", choices=OPTIMIZERS)
    schedule: str = _optimizer(
        "linear", "Learning rate over the run: linear rises during the warmup and then falls to 0.", choices=SCHEDULES
    )
    learning_rate: float | None = _optimizer(
        None,
        "Highest learning rate. Default: 5e-5, 3e-5 for fewer than 400 windows; with a new head 1e-4 for fewer than "
        "2,000 windows.",
        above=0,
        hint="try 5e-5",
    )
    warmup: float = _optimizer(
        0.1, "Share of the steps during which the learning rate rises (linear schedule).", least=0, below=1
    )
    weight_decay: float = _optimizer(0.01, "Weight decay of AdamW.", least=0)
    clip_norm: float = _optimizer(1.0, "Scale gradients down to this norm; 0 turns clipping off.", least=0)
    dropout: float | None = _optimizer(None, "Dropout rate, instead of the rates of the model.", least=0, below=1)
    freeze: str | None = _optimizer(
        None,
        "Leave these weights as they are: 'embeddings', or a number N for the embeddings and the first N blocks. They "
        "need no gradient and no optimizer state.",
    )

    batch_size: int = _batches(16, "Number of windows in a batch, over all devices together.", least=1)
    accumulate: int = _batches(1, "Number of batches whose gradients are added up for one optimization step.", least=1)
    steps_per_execution: int = _batches(
        1,
        "Number of optimization steps that are sent to the device in one call, for models whose steps are very short "
        "(KERAS_BACKEND=jax).",
        least=1,
    )
    batching: str = _batches(
        "grouped",
        "grouped puts windows of similar length in a batch; fixed pads all batches to the longest window of all.",
        choices=BATCHINGS,
    )
    precision: str = _batches(
        "auto", "Precision of matrix products. auto measures which is fastest on this device.", choices=PRECISIONS
    )
    jit: str = _batches(
        "auto",
        "What is compiled: on compiles the whole step with XLA; parts uses fused kernels for element-wise operations "
        "(TensorFlow). On GPUs auto measures which is fastest.",
        choices=JITS,
    )
    attention: str = _batches(
        "auto",
        "How attention is computed: cudnn is faster than exact (JAX on a CUDA device, half precision), but has no "
        "dropout of attention probabilities; auto uses it only for models without that dropout.",
        choices=ATTENTIONS,
    )

    validation: str = _scoring("validation", "Split of the first folder to score after each epoch; '' scores none.")
    validation_examples: int | None = _scoring(
        None, "Score a random sample of this many examples. Default: all.", least=1
    )
    metric: str = _scoring(AUTO, f"{METRIC_HELP} The best epoch is the one with the best F1 by it.", choices=METRICS)
    validate_every: int | None = _scoring(
        None, "Number of steps between additional scores; the best model is saved.", least=1
    )
    patience: int | None = _scoring(None, "Stop after this many scores in a row without a better F1.", least=1)

    teacher: str | None = _teacher(
        None,
        "Fine-tuned model (folder or Hub id) to learn from in addition to the labels. Its logits are kept in SHARDS.",
    )
    teacher_weight: float = _teacher(
        0.5, "Share of the teacher in the loss; the labels have the rest.", above=0, most=1, hint="try 0.5"
    )
    temperature: float = _teacher(
        2.0, "Temperature that softens the probabilities of teacher and student.", above=0, most=100, hint="try 2"
    )

    def check(self) -> None:
        """Refuse options that cannot be used with any data.

        Raises:
            UserError: A value is not allowed, or two options exclude each other.
        """
        check_values(self)
        if self.steps_per_execution > 1 and self.accumulate > 1:
            raise UserError(
                "--steps-per-execution and --accumulate exclude each other; received "
                f"{self.steps_per_execution} and {self.accumulate}: leave one of them out"
            )
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other; received both: choose one")
        if self.freeze is not None and not re.fullmatch(r"embeddings|[0-9]{1,4}", self.freeze):
            raise UserError(
                f"--freeze must be 'embeddings' or a number of blocks; received {shown(self.freeze)}: choose one"
            )

    def frozen_parts(self, encoder: EncoderConfig) -> list[str]:
        """Return the names of the parts that `freeze` means, see `EncoderModel.freezable`.

        With a block the weights of distances are frozen, too, because all blocks share them.

        Raises:
            UserError: The encoder has fewer blocks.
        """
        if self.freeze is None:
            return []
        blocks = 0 if self.freeze == "embeddings" else int(self.freeze)
        if blocks > encoder.blocks:
            raise UserError(
                f"--freeze must not exceed the number of blocks, which is {encoder.blocks} in this model (blocks that "
                f"share their weights count once); received {blocks}: choose a smaller one"
            )
        relative = ["relative"] if blocks and isinstance(encoder.attention.positions, BucketBias | Disentangled) else []
        return ["embeddings", *relative, *(f"block_{number}" for number in range(blocks))]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return dataclasses.asdict(self)


def changed_options(before: dict[str, Any], now: TrainConfig) -> list[str]:
    """Return the options that differ from an earlier run and decide the weights, as "name: then -> now".

    Args:
        before: `TrainConfig.to_dict` of the earlier run. An option that its version did not have had the default.
        now: The options of this run.
    """
    before = TrainConfig().to_dict() | before
    return [
        f"{name}: {shown(before[name])} -> {shown(value)}"
        for name, value in now.to_dict().items()
        if name not in FREE_ON_RESUME and before[name] != value
    ]


@dataclass(frozen=True)
class JobConfig:
    """The processes that train together, and which of them this one is. They do not change the trained weights."""

    processes: int | None = _processes(
        None, "Number of processes that train together, on one machine or several (KERAS_BACKEND=jax).", least=1
    )
    process_id: int | None = _processes(None, "Number of this process, from 0. Only process 0 writes and prints.")
    coordinator: str | None = _processes(
        None,
        "HOST:PORT at which process 0 listens (default: JAX_COORDINATOR_ADDRESS), or auto: Slurm, Open MPI, Kubernetes "
        "or a TPU pod supply the address, the number of processes and the process id.",
    )
    join_timeout: int = _processes(300, "Seconds to wait for all processes to start.", least=1)
    heartbeat_timeout: int = _processes(
        100, "Abort when a process has sent no heartbeat for this many seconds.", least=1
    )

    @property
    def requested(self) -> bool:
        """True if this process trains together with others."""
        return self.coordinator is not None or (self.processes or 1) > 1

    def address(self, environment: Mapping[str, str]) -> str | None:
        """Return HOST:PORT of process 0, or None where JAX finds it.

        Raises:
            UserError: The address is missing or has another form.
        """
        address = self.coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
        if address == "auto":
            return None
        if not address or not re.fullmatch(r".+:\d{1,5}", address):
            raise UserError(
                "--coordinator (or JAX_COORDINATOR_ADDRESS) must be HOST:PORT of process 0, or 'auto'; received "
                f"{address!r}: on one machine try 127.0.0.1:12345"
            )
        return address

    def check(self) -> None:
        """Refuse options that do not describe a job.

        Raises:
            UserError: A value is not allowed, or options contradict each other.
        """
        check_values(self)
        numbers = [flag_of(name) for name in ("processes", "process_id") if getattr(self, name) is not None]
        if self.coordinator == "auto":
            if numbers:
                raise UserError(
                    f"--coordinator auto finds the processes by itself; also received {' and '.join(numbers)}: leave "
                    "one or the other out"
                )
            return
        if self.processes is None:
            if numbers or self.coordinator is not None:
                raise UserError("--coordinator and --process-id need --processes; received no --processes: add it")
            return
        last = self.processes - 1
        if self.process_id is None and not self.requested:
            return
        if self.process_id is None or not 0 <= self.process_id <= last:
            raise UserError(
                f"--process-id must be 0 to {last}, a different one in each of {self.processes} processes; received "
                f"{self.process_id}"
            )


@dataclass(frozen=True)
class SweepConfig:
    """The options of `sweep.sweep`."""

    trials: int = option(12, "Number of trials, including those that --out already holds.", least=1)
    out: str = option("sweep", "Folder that keeps the trials.")
    model: str | None = option(None, "Model to start from, as for train.")
    max_examples: int = option(
        4000, "Budget of a trial: train on a random sample of this many examples; 0 uses all.", least=0
    )
    validation: str = option("validation", "Split to score.")
    validation_examples: int = option(1000, "Score a random sample of this many examples; 0 uses all.", least=0)
    seed: int = option(0, "Seed for the choice of options and for each run.", least=0)

    def check(self) -> None:
        """Refuse options that cannot be used with any data.

        Raises:
            UserError: A value is not allowed.
        """
        check_values(self)
        if not self.validation:
            raise UserError("--validation must name a split, because trials are ranked by its F1; received ''")
