"""Everything that is opened and decided before the first step and holds for the whole run.

`open_sources` opens what a run reads. `plan_run` decides what the run trains on and for how long, reads the checkpoint
of a resumed run, and chooses precision, attention, compilation and batch widths. In a job of several processes each one
opens the sources for itself; the first alone reads checkpoints and measures, and sends the results to the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import xxhash

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import max_positions_of, windows_of
from qa_fast.batches import MULTIPLE, WIDTHS, WIDTHS_ACCELERATOR, BatchCutter, bucket_widths, uncompiled_widths
from qa_fast.errors import UserError, shown
from qa_fast.model.checkpoint import checked_config
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.model.folder import has_head
from qa_fast.model.precision import PRECISIONS, Choice, choose_precision, on_cpu, unseen_gpu
from qa_fast.schema import Int32s
from qa_fast.scoring.golds import has_unanswerable
from qa_fast.shards import CHECKSUM, TRAIN, Shards, Split
from qa_fast.shards.compatibility import check_features, check_tokenizer, model_of
from qa_fast.sources import resolve_model
from qa_fast.train.attention import WIDTH_MULTIPLE, against_device, choose_attention
from qa_fast.train.config import ATTENTIONS, JITS, TrainConfig
from qa_fast.train.jit import choose_jit
from qa_fast.train.job import Job
from qa_fast.train.loss_scale import begin_scaling
from qa_fast.train.mix import Mix, Part, Place, open_mix, select_mix
from qa_fast.train.report import Progress
from qa_fast.train.setup import check_same, check_unchanged, validation_split
from qa_fast.train.sizing import sized
from qa_fast.train.state import checkpoint_name, newest_checkpoint
from qa_fast.train.steps import Floats, Position, TrainState
from qa_fast.train.teacher import check_teacher, teacher_key

Arrays = dict[str, list[Floats]]
_ALLOWED_CHOICES = {"precision": PRECISIONS, "jit": JITS, "attention": ATTENTIONS}


@dataclass(frozen=True)
class Sources:
    """The inputs of a run.

    Attributes:
        parts: Folders of shards with their weights. The first one decides everything that concerns the whole run.
        models: Model folders by option: "--model", and "--teacher" and "--init-head" where they are given.
        encoder: Configuration of the model to start from, with the dropout rates of this run.
    """

    parts: list[Part]
    models: Mapping[str, Path]
    encoder: EncoderConfig

    @property
    def shards(self) -> Shards:
        """The first folder of shards."""
        return self.parts[0].shards

    def teacher_key(self) -> dict[str, str | None] | None:
        """Return `teacher.teacher_key` of the teacher, or None without a teacher."""
        teacher = self.models.get("--teacher")
        return None if teacher is None else teacher_key(teacher)

    def folders(self) -> list[tuple[str, Path]]:
        """Return every folder that the run reads, with the option that names it."""
        return [*self.models.items(), *(("SHARDS", part.shards.folder) for part in self.parts)]


@dataclass(frozen=True)
class TrainingData:
    """The training data of a run, its validation split, and its length in steps.

    Attributes:
        mix: The features to train on.
        cutter: Cuts batches of features.
        validation: The split to score, or None.
        steps_an_epoch: Optimization steps in an epoch.
        steps: Optimization steps in the whole run.
        tokens: Tokens in an epoch, without padding.
    """

    mix: Mix
    cutter: BatchCutter
    validation: Split | None
    steps_an_epoch: int
    steps: int
    tokens: int

    @property
    def lengths(self) -> Int32s:
        """int32, the length in tokens of each feature to train on."""
        return self.cutter.lengths[self.mix.rows]

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when the run is resumed: the training data, and the split that is scored."""
        if self.validation is None:
            return self.mix.identity()
        files = self.mix.parts[0].shards.manifest["splits"][self.validation.name]["shards"]
        return self.mix.identity() | {"validation": [file[CHECKSUM] for file in files]}

    def check_position(self, position: Position, config: TrainConfig, name: str) -> None:
        """Compare the counts of a checkpoint with each other and with the name of its folder.

        Raises:
            UserError: No run over these features has such a position.
        """
        batches = -(-sum(self.mix.sizes) // config.batch_size)
        steps = position.epoch * self.steps_an_epoch + -(-position.batch // config.accumulate)
        passes = position.epoch * batches + position.batch
        possible = (position.step, position.passes) == (steps, passes) and name == checkpoint_name(steps)
        if not possible or steps > self.steps or position.batch > batches:
            raise UserError(
                f"a checkpoint must have a position that its run reaches; received {name} with "
                f"epoch {position.epoch:,}, batch {position.batch:,}, step {position.step:,} and {position.passes:,} "
                f"passes, in a run of {self.steps:,} steps with {batches:,} batches in an epoch: delete that "
                "checkpoint to continue from the one before it, or start again with --overwrite"
            )


@dataclass(frozen=True)
class RunPlan:
    """The decisions that hold for a whole run, however often it is resumed, and in all its processes.

    Attributes:
        config: All options.
        sources: The inputs of the run.
        data: The training data.
        precision: Compute dtype.
        attention: How attention is computed.
        jit: What is compiled.
        widths: int32, increasing, the lengths L to which batches are padded.
        teacher: See `teacher.teacher_key`; None without a teacher.
    """

    config: TrainConfig
    sources: Sources
    data: TrainingData
    precision: Choice
    attention: Choice
    jit: Choice
    widths: Int32s
    teacher: dict[str, str | None] | None

    @property
    def out(self) -> Path:
        """The model folder to be written."""
        return Path(self.config.out)

    @property
    def learning_rate(self) -> float:
        """The highest learning rate."""
        assert self.config.learning_rate is not None  # `sized` chose one
        return self.config.learning_rate

    @property
    def training(self) -> Path:
        """The folder of the run's record."""
        return self.out / "training"

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.training / "checkpoints"

    @cached_property
    def answering(self) -> AnswerOptions:
        """The options with which the trained model answers by default, and is scored.

        They are the windows that it is trained with, and whether no answer is allowed: if the scored split has
        questions without an answer or, where no split is scored, if those that it learns from have some.
        """
        windows = windows_of(self.sources.shards.manifest["config"], max_positions_of(self.sources.models["--model"]))
        if self.data.validation is None:
            trained_on = [part.shards.manifest["splits"][TRAIN] for part in self.data.mix.parts]
            allowed = any(split.get("unanswerable") for split in trained_on)
            return replace(windows, handle_impossible_answer=allowed or None)
        return replace(windows, handle_impossible_answer=has_unanswerable(self.data.validation))

    def choices(self) -> dict[str, dict[str, str]]:
        """Return precision, jit and attention with the reasons for them, JSON-ready."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in _ALLOWED_CHOICES}


@dataclass(frozen=True)
class Run:
    """A run as all its parts see it.

    Attributes:
        plan: The decisions that hold for the whole run.
        state: The part that changes with each step.
        job: The processes.
        say: Receives lines of text and reports; does nothing in all processes but the first.
        resumed: Whether the run continues from a checkpoint.
    """

    plan: RunPlan
    state: TrainState
    job: Job
    say: Progress
    resumed: bool


def open_sources(shards: Place | Sequence[Place], config: TrainConfig) -> Sources:
    """Open the shards and find the models.

    Raises:
        UserError: They cannot be used, or do not fit together.
    """
    single = isinstance(shards, str) or not isinstance(shards, Sequence)
    parts = open_mix(cast("Sequence[Place]", [shards] if single else shards))
    first = parts[0].shards
    models = {"--model": model_of(first, config.model)}
    check_tokenizer(first, models["--model"])
    if config.teacher is not None:
        models["--teacher"] = resolve_model(config.teacher)
        check_teacher(models["--teacher"], first)
    if config.init_head is not None:
        models["--init-head"] = resolve_model(config.init_head)
    encoder = checked_config(models["--model"], new_head=True)
    config.frozen_parts(encoder)  # refuses too many blocks
    return Sources(parts, models, encoder if config.dropout is None else encoder.with_dropout(config.dropout))


def plan_run(sources: Sources, config: TrainConfig, job: Job, say: Progress) -> tuple[Run, Arrays | None]:
    """Decide everything that stays the same during a run, and find where the run starts.

    Args:
        sources: What `open_sources` returned.
        config: All options.
        job: The processes of the run.
        say: Receives a line about each choice.

    Returns:
        The run, and the arrays of its checkpoint; None in a new run and in all processes but the first.

    Raises:
        UserError: The data or an option cannot be used, the checkpoint belongs to another run, or the processes of the
            job have different options or data.
    """
    with job.agreed():
        _check_backend(config)
        data, config, chosen = _open_data(sources, config)
        teacher = sources.teacher_key()
        if job.processes > 1:
            facts = {"data": data.mix.identity(), "model": repr(sources.encoder), "teacher": teacher}
            check_same(job.gather(facts | {"options": config.to_dict()}))
    arrays: Arrays = {}

    def read_saved() -> dict[str, Any] | None:
        checkpoint = _read_checkpoint(sources, data, teacher, config, say)
        if checkpoint is None:
            return None
        arrays.update(checkpoint[0])
        return checkpoint[1]

    saved = job.from_first(read_saved)
    state = TrainState() if saved is None else TrainState.from_dict(saved)
    encoder = sources.encoder

    def settle(name: str, choose: Callable[[], Choice]) -> Choice:
        return Choice(**(saved[name] if saved else job.from_first(lambda: dataclasses.asdict(choose()))))

    precision = settle("precision", lambda: choose_precision(config.precision))
    attention = settle(
        "attention", lambda: choose_attention(config.attention, encoder, precision.value, against_device())
    )
    usual = data.mix.max_length if config.batching == "fixed" else np.median(data.lengths)
    typical = min(int(-(-usual // MULTIPLE) * MULTIPLE), encoder.max_length)
    jit = settle(
        "jit", lambda: choose_jit(config.jit, encoder, precision.value, config.batch_size, typical, data.steps)
    )
    widths = _widths(data, encoder, config, precision, attention, jit)
    if saved is None and precision.value == "float16":
        begin_scaling(state.position)
    plan = RunPlan(config, sources, data, precision, attention, jit, widths, teacher)
    _announce(plan, chosen, say)
    return Run(plan, state, job, say, resumed=saved is not None), arrays or None


def identity_of(encoder: EncoderConfig) -> str:
    """Return a hash that differs for models of other sizes or kinds. Checkpoints hold the weights themselves."""
    return xxhash.xxh3_128_hexdigest(repr(encoder).encode())


def _check_backend(config: TrainConfig) -> None:
    if config.steps_per_execution > 1 and keras.backend.backend() != "jax":
        raise UserError(
            f"--steps-per-execution above 1 needs KERAS_BACKEND=jax; received {config.steps_per_execution} with "
            f"{keras.backend.backend()!r}: set KERAS_BACKEND=jax, or leave the option out"
        )


def _open_data(sources: Sources, config: TrainConfig) -> tuple[TrainingData, TrainConfig, str]:
    """Return the data, the options with those that depend on its amount, and a line about these."""
    validation = validation_split(sources.shards, config)
    for shards, split in [*((part.shards, part.train) for part in sources.parts), (sources.shards, validation)]:
        if split is not None:
            shards.check_contents(split.name)
            check_features(shards, split, sources.encoder, sources.models["--model"])
    mix = select_mix(sources.parts, config)
    cutter = BatchCutter(mix.chunks, sources.encoder.pad_id)
    check_length(sources.encoder, int(cutter.lengths[mix.rows].max(initial=0)))
    new_head = config.init_head is None and not has_head(sources.models["--model"])
    config, chosen = sized(config, sum(mix.sizes), new_head=new_head)
    assert config.epochs is not None
    batches = -(-sum(mix.sizes) // config.batch_size)
    steps_an_epoch = -(-batches // config.accumulate)
    steps = steps_an_epoch * config.epochs
    steps = min(steps, config.max_steps or steps)
    data = TrainingData(mix, cutter, validation, steps_an_epoch, steps, mix.tokens(cutter.lengths))
    return data, config, chosen


def _read_checkpoint(
    sources: Sources, data: TrainingData, teacher: dict[str, str | None] | None, config: TrainConfig, say: Progress
) -> tuple[Arrays, dict[str, Any]] | None:
    """Return arrays and state of the newest usable checkpoint; None in a new run.

    Raises:
        UserError: There is no usable checkpoint, or it belongs to another run.
    """
    checkpoint = newest_checkpoint(Path(config.out) / "training" / "checkpoints", say) if config.resume else None
    if checkpoint is None:
        return None
    path, arrays, saved = checkpoint
    check_unchanged(saved, config, data.identity(), identity_of(sources.encoder), teacher)
    position = TrainState.from_dict(saved).position
    data.check_position(position, config, path.name)
    _check_choices(saved)
    say(f"continuing from step {position.step} of {data.steps}")
    if (before := saved["config"].get("model")) != config.model:
        say(f"--model was {before} and is {config.model}; the weights are those of the checkpoint")
    return arrays, saved


def _check_choices(saved: dict[str, Any]) -> None:
    """Refuse a checkpoint whose precision, jit or attention is not one that a run can have."""
    keys = {field.name for field in dataclasses.fields(Choice)}
    for name, values in _ALLOWED_CHOICES.items():
        choice = saved.get(name)
        known = isinstance(choice, dict) and choice.keys() == keys and all(isinstance(choice[key], str) for key in keys)
        if choice is None or not known or choice["value"] not in values or choice["value"] == "auto":
            raise UserError(
                f"a checkpoint must name the {name} of its run; received {shown(choice)}: delete that checkpoint to "
                "continue from the one before it, or start again with --overwrite"
            )


def _widths(
    data: TrainingData, encoder: EncoderConfig, config: TrainConfig, precision: Choice, attention: Choice, jit: Choice
) -> Int32s:
    if config.batching == "fixed":
        return np.array([min(data.mix.max_length, encoder.max_length)], np.int32)
    if not on_cpu():
        multiple = WIDTH_MULTIPLE if attention.value == "cudnn" else MULTIPLE
        widths = bucket_widths(data.lengths, WIDTHS_ACCELERATOR, multiple)
    elif jit.value == "on":
        widths = bucket_widths(data.lengths, WIDTHS)
    else:
        widths = uncompiled_widths(data.lengths, precision.value)
    return np.minimum(widths, encoder.max_length).astype(np.int32)


def _announce(plan: RunPlan, chosen: str, say: Progress) -> None:
    if unseen := unseen_gpu():
        say(unseen)
    if chosen:
        say(chosen)
    if plan.data.validation is None and plan.config.validation:
        say(
            f"nothing is scored: {plan.sources.shards.folder} has no split {plan.config.validation}, so the last epoch "
            "is kept; featurize --validation-share 0.2 makes one"
        )
    say(f"precision {plan.precision.value}: {plan.precision.reason}")
    say(f"jit {plan.jit.value}: {plan.jit.reason}")
    if plan.config.steps_per_execution > 1 and plan.precision.value == "float16":
        say("--steps-per-execution has no effect in float16, because the loss scale depends on each step")
    if plan.attention.value != "exact" or "--attention" in plan.attention.reason:
        say(f"attention {plan.attention.value}: {plan.attention.reason}")
