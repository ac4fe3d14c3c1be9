"""The parts of a run that hold arrays: the model, the engine that trains it, and the teacher's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from qa_fast.errors import UserError
from qa_fast.model.checkpoint import load_weights, start_head
from qa_fast.model.encoder import EncoderModel
from qa_fast.train.distillation import Distillation, read_teacher
from qa_fast.train.plan import Arrays, Run
from qa_fast.train.steps import TrainEngine


@dataclass(frozen=True)
class Learner:
    """The parts that hold arrays.

    Attributes:
        model: The model that is scored and saved; it receives the trained weights when the engine publishes them.
        engine: Trains the weights.
        distillation: Adds a teacher's targets to the steps; None without a teacher.
    """

    model: EncoderModel
    engine: TrainEngine
    distillation: Distillation | None


def make_learner(run: Run, arrays: Arrays | None) -> Learner:
    """Load the model, and set weights and optimizer state to where the run starts, the same in all processes.

    Args:
        run: The run.
        arrays: The arrays of its checkpoint, as `plan_run` returned them.

    Raises:
        UserError: A model cannot be read, or another process of the job failed.
    """
    plan, job, say = run.plan, run.job, run.say
    config, models = plan.config, plan.sources.models
    distillation = None
    if "--teacher" in models:
        distillation = read_teacher(models["--teacher"], plan.data.mix, config, job, say)
    with job.agreed():
        model = EncoderModel(plan.sources.encoder, precision=plan.precision.value)
        freezable = model.freezable
        for name in config.frozen_parts(plan.sources.encoder):
            freezable[name].trainable = False
        if arrays is not None:
            _check_arrays(arrays, model)
        report = load_weights(model, models["--model"], seed=config.seed)
        if "--init-head" in models:
            start_head(model, models["--init-head"])
        if not run.resumed:
            say(f"{models['--model']}: {report.message()}")
            if "--init-head" in models:
                say(f"{models['--init-head']}: training starts from the head of this model")
        temperature = None if distillation is None else config.temperature
        engine = make_engine(model, plan.jit.value, plan.attention.value, temperature, config.steps_per_execution)
    if job.processes > 1:  # all processes continue from the arrays of the first
        arrays = job.arrays(arrays or engine.read())
    if arrays:
        engine.write(arrays)
    if config.freeze is not None:
        trained, every = _numbers(model.trainable_variables), _numbers(model.weights)
        say(f"{trained:,} of {every:,} weights are trained; --freeze {config.freeze} leaves the others as they are")
    if engine.devices > 1:
        processes = f" in {job.processes} processes" if job.processes > 1 else ""
        say(f"{engine.devices} devices{processes}, each with its share of every batch")
    return Learner(model, engine, distillation)


def _numbers(variables: Sequence[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _check_arrays(arrays: Arrays, model: EncoderModel) -> None:
    """Compare the arrays of a checkpoint with the weights of the model.

    Raises:
        UserError: They belong to another model.
    """
    trained, frozen = (
        [tuple(variable.shape) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    groups = dict.fromkeys(("firsts", "seconds", "weights"), trained) | {"frozen": frozen}
    for name in sorted(groups | arrays.keys()):
        found = arrays.get(name, [])
        received = [array.shape for array in found]
        if received != groups.get(name) or any(array.dtype != np.float32 for array in found):
            raise UserError(
                f"a checkpoint must hold arrays of the model that is trained, {len(trained)} of float32 for each of "
                f"firsts, seconds, weights, and {len(frozen)} that are frozen; received {len(received)} of other kinds "
                f"or sizes for {name[:40]!r}: delete that checkpoint to continue from the one before it, or start "
                "again with --overwrite"
            )


def make_engine(
    model: EncoderModel, jit: str, attention: str = "exact", temperature: float | None = None, at_once: int = 1
) -> TrainEngine:
    """Return the engine for Keras' backend, on all devices.

    Args:
        model: The model to train.
        jit: "on", "parts" or "off".
        attention: "exact" or "cudnn".
        temperature: Temperature of distillation, see `optimizer.micro_loss`; None without a teacher.
        at_once: Number of steps that the device receives in one call; JAX only.

    Raises:
        UserError: There is no engine for the backend.
    """
    if keras.backend.backend() == "tensorflow":
        from qa_fast.train.backend_tensorflow import TensorFlowEngine, training_devices

        return TensorFlowEngine(model, jit, training_devices(), temperature)
    if keras.backend.backend() == "jax":
        from qa_fast.train.backend_jax import JaxEngine

        return JaxEngine(model, attention, temperature=temperature, at_once=at_once)
    raise UserError(
        f"KERAS_BACKEND must be tensorflow or jax to train; received {keras.backend.backend()!r}: set it to one of them"
    )
