"""The formats of exports: how each is written, and how it is opened by its own reader.

A reader gets only the file, so that it returns what a user of the file will get. Each format carries the options of
answering of the model's folder: as a member of a .keras file, in assets.extra of a SavedModel, in the metadata of ONNX,
as the same file of a folder for browsers.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from qa_fast.answer.settings import ANSWERING
from qa_fast.export.onnx_files import WEB_FILES, is_web_folder, write_onnx_file, write_web_folder
from qa_fast.export.task import Task
from qa_fast.graph.names import OUTPUTS
from qa_fast.graph.standard import standard_model

Arrays = Mapping[str, npt.NDArray[Any]]
Reader = Callable[[Arrays], dict[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: Suffix of its files; "" for a folder.
        ids_dtype: dtype of the inputs.
        write: Writes a task to a path.
        open: Opens a file of `files` and returns a function from arrays of inputs to arrays of logits.
        usage: How to open it, for the user.
        is_earlier: Tells whether a path is an earlier export.
        needs_tensorflow: Whether Keras must run on TensorFlow to write it.
        files: By each precision that it may have, the file in the folder; "" if that is the export itself.
        precisions: The precisions that are written by default.
        opsets: Whether it is written for a version of ONNX's operations.
    """

    suffix: str
    ids_dtype: str
    write: Callable[[Task, Path], None]
    open: Callable[[Path], Reader]
    usage: str
    is_earlier: Callable[[Path], bool] = Path.is_file
    needs_tensorflow: bool = False
    files: Mapping[str, str] = field(default_factory=lambda: {"float32": ""})
    precisions: tuple[str, ...] = ("float32",)
    opsets: bool = False


def _write_keras(task: Task, path: Path) -> None:
    standard_model(task.model).save(path)
    with zipfile.ZipFile(path, "a") as file:  # Keras ignores other members of its file
        file.writestr(ANSWERING, task.answering)


def _open_keras(path: Path) -> Reader:
    model = keras.saving.load_model(path, compile=False)

    def read(inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return {name: keras.ops.convert_to_numpy(value) for name, value in model(dict(inputs)).items()}

    return read


def _write_saved_model(task: Task, path: Path) -> None:
    import tensorflow as tf

    model = standard_model(task.model)

    @tf.function(input_signature=[_specs(model)])
    def serve(inputs: dict[str, Any]) -> Any:
        return model(inputs)

    # `model.export` would write every weight twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    (path / "assets.extra").mkdir()  # the place for files of users, which TensorFlow ignores
    (path / "assets.extra" / ANSWERING).write_text(task.answering, encoding="utf-8")


def _specs(model: keras.Model) -> dict[str, Any]:
    """Return TensorFlow's description of a standard model's inputs, by name."""
    import tensorflow as tf

    return {tensor.name: tf.TensorSpec((None, None), tensor.dtype, tensor.name) for tensor in model.inputs}


def _open_saved_model(path: Path) -> Reader:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def read(inputs: Arrays, keep: Any = loaded) -> dict[str, npt.NDArray[np.float32]]:
        outputs = serve(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return read


def _open_onnx(path: Path) -> Reader:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def read(inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return dict(zip(OUTPUTS, session.run(OUTPUTS, dict(inputs)), strict=True))

    return read


FORMATS = {
    "keras": Format(
        suffix=".keras",
        ids_dtype="int32",
        write=_write_keras,
        open=_open_keras,
        usage="open it with keras.saving.load_model; it needs Keras but not qa-fast",
    ),
    "saved-model": Format(
        suffix="",
        ids_dtype="int32",
        write=_write_saved_model,
        open=_open_saved_model,
        usage="serve it with TensorFlow Serving as <models>/<name>/1, signature serving_default",
        is_earlier=lambda path: (path / "saved_model.pb").is_file(),
        needs_tensorflow=True,
    ),
    "onnx": Format(
        suffix=".onnx",
        ids_dtype="int64",
        write=write_onnx_file,
        open=_open_onnx,
        usage="open it with onnxruntime.InferenceSession",
        files={"float32": "", "int8": ""},
        opsets=True,
    ),
    "web": Format(
        suffix="",
        ids_dtype="int64",
        write=write_web_folder,
        open=_open_onnx,
        usage="open it in a browser with transformers.js or ONNX Runtime Web",
        is_earlier=is_web_folder,
        files=WEB_FILES,
        precisions=("float32", "int8"),
        opsets=True,
    ),
}
