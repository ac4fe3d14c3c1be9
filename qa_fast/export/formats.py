"""The formats of exports: how each is written, and how it is opened by its own reader.

A reader gets only the file, so that it returns what a user of the file will get. Each format carries the options of
answering of the model's folder: as a member of a .keras file, in assets.extra of a SavedModel, in the metadata of ONNX.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from qa_fast.answer.settings import ANSWERING
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.graph.names import OUTPUTS
from qa_fast.graph.standard import draw, standard_model
from qa_fast.model.encoder import EncoderModel

Arrays = Mapping[str, npt.NDArray[Any]]
Reader = Callable[[Arrays], dict[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: Suffix of its files; "" for a folder.
        mark: A file in every folder of this format; "" if the format is a file.
        ids_dtype: dtype of the inputs.
        needs_tensorflow: Whether Keras must run on TensorFlow to write it.
        write: Writes a model to a path, with the options of answering of its folder as a JSON text.
        open: Opens a path and returns a function from arrays of inputs to arrays of logits.
        usage: How to open it, for the user.
    """

    suffix: str
    mark: str
    ids_dtype: str
    needs_tensorflow: bool
    write: Callable[[EncoderModel, Path, str], None]
    open: Callable[[Path], Reader]
    usage: str


def _write_keras(model: EncoderModel, path: Path, answering: str) -> None:
    standard_model(model).save(path)
    with zipfile.ZipFile(path, "a") as file:  # Keras ignores other members of its file
        file.writestr(ANSWERING, answering)


def _open_keras(path: Path) -> Reader:
    model = keras.saving.load_model(path, compile=False)

    def read(inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return {name: keras.ops.convert_to_numpy(value) for name, value in model(dict(inputs)).items()}

    return read


def _write_saved_model(span_model: EncoderModel, path: Path, answering: str) -> None:
    import tensorflow as tf

    model = standard_model(span_model)

    @tf.function(input_signature=[_specs(model)])
    def serve(inputs: dict[str, Any]) -> Any:
        return model(inputs)

    # `model.export` would write every weight twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    (path / "assets.extra").mkdir()  # the place for files of users, which TensorFlow ignores
    (path / "assets.extra" / ANSWERING).write_text(answering, encoding="utf-8")


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


def _write_onnx(model: EncoderModel, path: Path, answering: str) -> None:
    """Write an ONNX file; check first that ONNX Runtime, which opens it afterwards, is installed."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("qa-fast export --format onnx", "export", error.name or "onnx") from None
    from qa_fast.graph.onnx_file import MOST_IN_A_FILE, onnx_graph, write_onnx

    weights = {path: np.asarray(keras.ops.convert_to_numpy(weight)) for path, weight in model.by_path.items()}
    size = sum(weight.nbytes for weight in weights.values())
    if size > MOST_IN_A_FILE:
        raise UserError(
            f"an ONNX file holds weights of at most {MOST_IN_A_FILE:,} bytes; received a model of {size:,}: choose "
            "--format saved-model or keras"
        )
    graph = onnx_graph(draw(model.config, "int64"), weights)
    onnx.helper.set_model_props(graph, {Path(ANSWERING).stem: answering})
    write_onnx(graph, path)


def _open_onnx(path: Path) -> Reader:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def read(inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return dict(zip(OUTPUTS, session.run(OUTPUTS, dict(inputs)), strict=True))

    return read


FORMATS = {
    "keras": Format(
        suffix=".keras",
        mark="",
        ids_dtype="int32",
        needs_tensorflow=False,
        write=_write_keras,
        open=_open_keras,
        usage="open it with keras.saving.load_model; it needs Keras but not qa-fast",
    ),
    "saved-model": Format(
        suffix="",
        mark="saved_model.pb",
        ids_dtype="int32",
        needs_tensorflow=True,
        write=_write_saved_model,
        open=_open_saved_model,
        usage="serve it with TensorFlow Serving as <models>/<name>/1, signature serving_default",
    ),
    "onnx": Format(
        suffix=".onnx",
        mark="",
        ids_dtype="int64",
        needs_tensorflow=False,
        write=_write_onnx,
        open=_open_onnx,
        usage="open it with onnxruntime.InferenceSession",
    ),
}
