"""What learns in a run: the model, the engine that trains it, and a teacher's lessons."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from qa_fast.errors import UserError
from qa_fast.model.checkpoint import load_weights, start_head
from qa_fast.model.encoder import EncoderModel
from qa_fast.train.job import Job
from qa_fast.train.lessons import Lessons, lessons_of
from qa_fast.train.opening import Arrays, Beginning, Course
from qa_fast.train.report import Progress
from qa_fast.train.steps import Engine


@dataclass(frozen=True)
class Learner:
    """The parts that hold arrays.

    Attributes:
        model: Has the weights that are scored and saved, once they are published.
        engine: Has those that are trained.
        lessons: A teacher's, None without one.
    """

    model: EncoderModel
    engine: Engine
    lessons: Lessons | None

    def arrays(self) -> Arrays:
        """What a checkpoint keeps: weights, firsts and seconds."""
        return self.engine.read()


def make_learner(course: Course, beginning: Beginning, job: Job, say: Progress) -> Learner:
    """Load the model and bring it and its optimizer to where the run stands, the same in all processes.

    Raises:
        UserError: A model cannot be read, or another process of the job failed.
    """
    config, models = course.config, course.sources.models
    lessons = None
    if "--teacher" in models:
        lessons = lessons_of(models["--teacher"], course.material.mix, config, job, say)
    with job.agreed():
        model = EncoderModel(course.sources.encoder, precision=course.precision.value)
        if beginning.arrays is not None:
            _check_arrays(beginning.arrays, model)
        report = load_weights(model, models["--model"], seed=config.seed)
        if "--init-head" in models:
            start_head(model, models["--init-head"])
        if not beginning.resumed:
            say(f"{models['--model']}: {report.message()}")
            if "--init-head" in models:
                say(f"{models['--init-head']}: its head is what training starts from")
        temperature = None if lessons is None else lessons.temperature
        engine = make_engine(model, course.jit.value, course.attention.value, temperature, config.steps_per_execution)
    learner = Learner(model, engine, lessons)
    _bring_to(learner, beginning, job)
    if engine.devices > 1:
        several = f" in {job.processes} processes" if job.processes > 1 else ""
        say(f"{engine.devices} devices{several}, each with its share of every batch")
    return learner


def _check_arrays(arrays: Arrays, model: EncoderModel) -> None:
    """Hold what a checkpoint holds against the model.

    Raises:
        UserError: It is of another one.
    """
    shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    groups = {"weights", "firsts", "seconds"}
    for name in sorted(groups | arrays.keys()):
        held = [array.shape for array in arrays.get(name, [])]
        if name not in groups or held != shapes or any(array.dtype != np.float32 for array in arrays[name]):
            raise UserError(
                f"a checkpoint must hold arrays of the model that is trained, {len(shapes)} of float32 for each of "
                f"{', '.join(sorted(groups))}; received {len(held)} of other kinds or sizes for {name[:40]!r}: delete "
                "that checkpoint to go on from the one before it, or begin anew with --overwrite"
            )


def _bring_to(learner: Learner, beginning: Beginning, job: Job) -> None:
    arrays = beginning.arrays
    if job.processes > 1:  # one copy of the truth, whatever lies on the machines
        arrays = job.arrays(arrays or learner.engine.read())
    if arrays:
        learner.engine.write(arrays)


def make_engine(
    model: EncoderModel, jit: str, attention: str = "exact", temperature: float | None = None, at_once: int = 1
) -> Engine:
    """The engine of Keras' backend, on all devices.

    Args:
        model: To be trained.
        jit: "on", "parts" or "off".
        attention: "exact" or "cudnn".
        temperature: Of a teacher, see `optimizer.micro_loss`.
        at_once: Steps that are given to the device together; JAX only.

    Raises:
        UserError: There is none for the backend.
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
