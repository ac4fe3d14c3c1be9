"""Everything that is opened and settled before the first step, and stays as it is from then on.

`open_sources` opens what a run reads; `set_course` says what it trains on and for how long, finds where an earlier
sitting left off, and settles precision, attention, compilation and widths. In a job of several processes each opens
for itself; the first alone reads checkpoints and measures, and tells the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import xxhash

from qa_fast.batches import MULTIPLE, BatchCutter, bucket_widths
from qa_fast.errors import UserError, shown
from qa_fast.model.checkpoint import checked_config
from qa_fast.model.config import EncoderConfig, check_length
from qa_fast.model.precision import PRECISIONS, Choice, choose_precision
from qa_fast.schema import Int32s
from qa_fast.shards import CHECKSUM, Shards, Split
from qa_fast.shards.compatibility import check_features, check_tokenizer
from qa_fast.sources import resolve_model
from qa_fast.train.attention import WIDTH_MULTIPLE, against_device, choose_attention
from qa_fast.train.config import ATTENTIONS, JITS, TrainConfig
from qa_fast.train.jit import choose_jit
from qa_fast.train.job import Job
from qa_fast.train.loss_scale import begin_scaling
from qa_fast.train.mix import Mix, Part, Place, open_mix, select_mix
from qa_fast.train.report import Progress
from qa_fast.train.setup import check_same, check_unchanged, validation_split
from qa_fast.train.state import checkpoint_name, newest_checkpoint
from qa_fast.train.steps import Floats, Position, Standing
from qa_fast.train.teacher import check_teacher, teacher_key

Arrays = dict[str, list[Floats]]


@dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
        parts: Folders of shards, with weights; what concerns the run as a whole is the first one's.
        models: Folders of models by their option: "--model", and "--teacher" and "--init-head" where there are any.
        encoder: What the model to start from is, with the dropout that it is trained with.
    """

    parts: list[Part]
    models: Mapping[str, Path]
    encoder: EncoderConfig

    @property
    def shards(self) -> Shards:
        """The first folder."""
        return self.parts[0].shards

    def teacher_key(self) -> dict[str, str | None] | None:
        """See `teacher.teacher_key`; None without one."""
        teacher = self.models.get("--teacher")
        return None if teacher is None else teacher_key(teacher)

    def folders(self) -> list[tuple[str, Path]]:
        """All that is read, with the option that names it."""
        return [*self.models.items(), *(("SHARDS", part.shards.folder) for part in self.parts)]


@dataclass(frozen=True)
class Material:
    """What a run trains on and is scored on, and for how long.

    Attributes:
        mix: The features to train on.
        cutter: Cuts batches of them.
        validation: The split to score, None where there is none.
        steps_an_epoch: Optimisation steps.
        steps: Of the whole run.
        tokens: Real ones, of an epoch.
    """

    mix: Mix
    cutter: BatchCutter
    validation: Split | None
    steps_an_epoch: int
    steps: int
    tokens: int

    @property
    def lengths(self) -> Int32s:
        """int32, tokens of each feature to train on."""
        return self.cutter.lengths[self.mix.rows]

    def identity(self) -> dict[str, Any]:
        """What a resumed run must find again: what it trains on, and what decides which model is kept."""
        if self.validation is None:
            return self.mix.identity()
        files = self.mix.parts[0].shards.manifest["splits"][self.validation.name]["shards"]
        return self.mix.identity() | {"validation": [file[CHECKSUM] for file in files]}

    def check_position(self, position: Position, config: TrainConfig, name: str) -> None:
        """Hold a checkpoint's counts against each other, and against its folder's name.

        Raises:
            UserError: No run over these features comes by there.
        """
        batches = -(-sum(self.mix.sizes) // config.batch_size)
        steps = position.epoch * self.steps_an_epoch + -(-position.batch // config.accumulate)
        passes = position.epoch * batches + position.batch
        known = (position.step, position.passes) == (steps, passes) and name == checkpoint_name(steps)
        if not known or steps > self.steps or position.batch > batches:
            raise UserError(
                f"a checkpoint must stand where its run comes by; received {name} with "
                f"epoch {position.epoch:,}, batch {position.batch:,}, step {position.step:,} and {position.passes:,} "
                f"passes, in a run of {self.steps:,} steps, {batches:,} batches an epoch: delete that checkpoint to go "
                "on from the one before it, or begin anew with --overwrite"
            )


@dataclass(frozen=True)
class Course:
    """What does not change over a run, in all its sittings and processes.

    Attributes:
        config: All options.
        sources: What it reads.
        material: What it trains on.
        precision: Compute dtype.
        attention: How attention is computed.
        jit: What is compiled.
        widths: int32, allowed L of batches, increasing.
        teacher: See `teacher.teacher_key`; None without one.
    """

    config: TrainConfig
    sources: Sources
    material: Material
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
    def training(self) -> Path:
        """The folder of the run's record."""
        return self.out / "training"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.training / "checkpoints"

    def choices(self) -> dict[str, dict[str, str]]:
        """What was settled and why, JSON-ready."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in ("precision", "jit", "attention")}


@dataclass(frozen=True)
class Beginning:
    """Where a sitting begins.

    Attributes:
        standing: The run's, which moves on from here.
        resumed: Whether an earlier sitting left it.
        arrays: What the checkpoint holds, see `Learner.arrays`; None without one, and in all processes but the first.
    """

    standing: Standing
    resumed: bool
    arrays: Arrays | None


def open_sources(shards: Place | Sequence[Place], config: TrainConfig) -> Sources:
    """Open the shards and find the models.

    Raises:
        UserError: They are not usable, or do not go together.
    """
    one = isinstance(shards, str) or not isinstance(shards, Sequence)
    parts = open_mix(cast("Sequence[Place]", [shards] if one else shards))
    first = parts[0].shards
    models = {"--model": resolve_model(config.model or first.manifest["model"]["name"])}
    check_tokenizer(first, models["--model"])
    if config.teacher is not None:
        models["--teacher"] = resolve_model(config.teacher)
        check_teacher(models["--teacher"], first)
    if config.init_head is not None:
        models["--init-head"] = resolve_model(config.init_head)
    encoder = checked_config(models["--model"])
    return Sources(parts, models, encoder if config.dropout is None else encoder.with_dropout(config.dropout))


def set_course(sources: Sources, config: TrainConfig, job: Job, say: Progress) -> tuple[Course, Beginning]:
    """Settle what stays, and find where the run stands.

    Args:
        sources: As `open_sources` gives them.
        config: All options.
        job: The processes of the run.
        say: Told what was chosen.

    Raises:
        UserError: The data or an option is not usable, a checkpoint is of another run, or a process of the job has
            others than the first.
    """
    with job.agreed():
        if config.steps_per_execution > 1 and keras.backend.backend() != "jax":
            raise UserError(
                f"--steps-per-execution above 1 needs KERAS_BACKEND=jax; received {config.steps_per_execution} with "
                f"{keras.backend.backend()!r}: set KERAS_BACKEND=jax, or leave the option out"
            )
        material, teacher = _material(sources, config), sources.teacher_key()
        _check_job(sources, material.mix, teacher, config, job)
    arrays: list[Arrays] = []

    def found() -> dict[str, Any]:
        folder = Path(config.out) / "training" / "checkpoints"
        there = newest_checkpoint(folder, say) if config.resume else None
        if there is None:
            return Standing().to_dict() | {"resumed": False}
        path, held, state = there
        check_unchanged(state, config, material.identity(), identity_of(sources.encoder), teacher)
        position = Standing.of(state).position
        material.check_position(position, config, path.name)
        _check_choices(state)
        say(f"going on from step {position.step} of {material.steps}")
        arrays.append(held)
        return state | {"resumed": True}

    told = job.told(found)
    standing = Standing.of(told)
    encoder = sources.encoder

    def settled(name: str, choose: Any) -> Choice:
        return Choice(**(told.get(name) or job.told(lambda: dataclasses.asdict(choose()))))

    precision = settled("precision", lambda: choose_precision(config.precision))
    attention = settled(
        "attention", lambda: choose_attention(config.attention, encoder, precision.value, against_device())
    )
    widths = _widths(material, encoder, config, attention)

    def measured_jit() -> Choice:
        width = int(widths[np.searchsorted(widths, np.median(material.lengths))])
        return choose_jit(config.jit, encoder, precision.value, config.batch_size, width, material.steps)

    jit = settled("jit", measured_jit)
    if not told["resumed"] and precision.value == "float16":
        begin_scaling(standing.position)
    say(f"precision {precision.value}: {precision.reason}")
    say(f"jit {jit.value}: {jit.reason}")
    if config.steps_per_execution > 1 and precision.value == "float16":
        say("--steps-per-execution has no effect in float16, whose loss scale follows each step")
    if attention.value != "exact" or "--attention" in attention.reason:
        say(f"attention {attention.value}: {attention.reason}")
    course = Course(config, sources, material, precision, attention, jit, widths, teacher)
    return course, Beginning(standing, told["resumed"], arrays[0] if arrays else None)


def identity_of(encoder: EncoderConfig) -> str:
    """What tells models of other sizes or kinds apart; their weights are in a run's checkpoints."""
    return xxhash.xxh3_128_hexdigest(repr(encoder).encode())


def _check_choices(state: dict[str, Any]) -> None:
    """Hold what a checkpoint says was settled against what can be.

    Raises:
        UserError: It is something else.
    """
    allowed = {"precision": PRECISIONS, "jit": JITS, "attention": ATTENTIONS}
    for name, values in allowed.items():
        choice = state.get(name)
        keys = {field.name for field in dataclasses.fields(Choice)}
        known = isinstance(choice, dict) and choice.keys() == keys and all(isinstance(choice[key], str) for key in keys)
        if choice is None or not known or choice["value"] not in values or choice["value"] == "auto":
            raise UserError(
                f"a checkpoint must say the {name} of its run; received {shown(choice)}: delete that checkpoint to go "
                "on from the one before it, or begin anew with --overwrite"
            )


def _material(sources: Sources, config: TrainConfig) -> Material:
    validation = validation_split(sources.shards, config)
    for shards, split in [*((part.shards, part.train) for part in sources.parts), (sources.shards, validation)]:
        if split is not None:
            shards.check_contents(split.name)
            check_features(shards, split, sources.encoder, sources.models["--model"])
    mix = select_mix(sources.parts, config)
    cutter = BatchCutter(mix.chunks, sources.encoder.pad_id)
    check_length(sources.encoder, int(cutter.lengths[mix.rows].max(initial=0)))
    batches = -(-sum(mix.sizes) // config.batch_size)
    steps_an_epoch = -(-batches // config.accumulate)
    steps = steps_an_epoch * config.epochs
    steps = min(steps, config.max_steps or steps)
    return Material(mix, cutter, validation, steps_an_epoch, steps, mix.tokens(cutter.lengths))


def _check_job(
    sources: Sources, mix: Mix, teacher: dict[str, str | None] | None, config: TrainConfig, job: Job
) -> None:
    if job.processes == 1:
        return
    check_same(
        job.gather(
            {
                "options": config.to_dict(),
                "data": mix.identity(),
                "model": repr(sources.encoder),
                "teacher": teacher,
            }
        )
    )


def _widths(material: Material, encoder: EncoderConfig, config: TrainConfig, attention: Choice) -> Int32s:
    if config.batching == "fixed":
        return np.array([min(material.mix.max_length, encoder.max_length)], np.int32)
    multiple = WIDTH_MULTIPLE if attention.value == "cudnn" else MULTIPLE
    return np.minimum(bucket_widths(material.lengths, multiple=multiple), encoder.max_length).astype(np.int32)
