"""The formats that a model is exported to: how each is written, and how it is opened again by its own reader.

A reader gets nothing but the file: what it answers is what a user of the file will get.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from qa_fast.errors import MissingExtraError
from qa_fast.graph.standard import INPUTS, OUTPUTS

OPSET = 17
Arrays = Mapping[str, npt.NDArray[Any]]
Reader = Callable[[Arrays], dict[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: That its files end in; "" for a folder.
        mark: File that a folder of this format holds; "" for a file.
        ids_dtype: Of the inputs.
        needs_tensorflow: Whether Keras must run on TensorFlow to write it.
        write: Writes a standard model to a path.
        open: Opens a path, for inputs as arrays to logits as arrays.
        told: How to open it, for the user.
    """

    suffix: str
    mark: str
    ids_dtype: str
    needs_tensorflow: bool
    write: Callable[[keras.Model, Path], None]
    open: Callable[[Path], Reader]
    told: str


def _write_keras(model: keras.Model, path: Path) -> None:
    model.save(path)


def _open_keras(path: Path) -> Reader:
    model = keras.saving.load_model(path, compile=False)

    def read(inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return {name: keras.ops.convert_to_numpy(value) for name, value in model(dict(inputs)).items()}

    return read


def _write_saved_model(model: keras.Model, path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[_specs(model)])
    def serve(inputs: dict[str, Any]) -> Any:
        return model(inputs)

    # Not `model.export`, which writes every weight twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _specs(model: keras.Model) -> dict[str, Any]:
    """TensorFlow's description of a standard model's inputs, by name."""
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


def _write_onnx(model: keras.Model, path: Path) -> None:
    """Convert by tf2onnx, the weights left out.

    The converter copies all constants again and again (MiniLM's 90 MB took 6 GB and half a minute), so weights are
    inputs to it, and put into the file as constants afterwards.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - needed to check the file; found missing before the work is done
        import tf2onnx
    except ImportError as error:
        raise MissingExtraError("qa-fast export --format onnx", "export", error.name or "tf2onnx") from None
    import tensorflow as tf

    specs = _specs(model)
    names = [f"weight_{number}" for number in range(len(model.weights))]
    weights = [
        tf.TensorSpec(weight.shape, weight.dtype, name) for weight, name in zip(model.weights, names, strict=True)
    ]

    @tf.function(input_signature=[specs, *weights])
    def compute(inputs: dict[str, Any], *values: Any) -> Any:
        return model.stateless_call(values, [], inputs)[0]

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    made, _ = tf2onnx.convert.from_function(compute, [specs, *weights], opset=OPSET)
    for weight, name in zip(model.weights, names, strict=True):
        made.graph.initializer.append(onnx.numpy_helper.from_array(keras.ops.convert_to_numpy(weight), name))
    # The converter sorts inputs and outputs by name and numbers their sizes.
    inputs = {value.name: value for value in made.graph.input}
    outputs = {value.name: value for value in made.graph.output}
    ordered = [inputs[name] for name in INPUTS if name in inputs], [outputs[name] for name in OUTPUTS]
    for values, order in zip((made.graph.input, made.graph.output), ordered, strict=True):
        for value in order:
            for size, name in zip(value.type.tensor_type.shape.dim, ("batch", "length"), strict=True):
                size.dim_param = name
        del values[:]
        values.extend(order)
    onnx.save(made, path)


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
        told="open it with keras.saving.load_model; it needs Keras alone, not qa-fast",
    ),
    "saved-model": Format(
        suffix="",
        mark="saved_model.pb",
        ids_dtype="int32",
        needs_tensorflow=True,
        write=_write_saved_model,
        open=_open_saved_model,
        told="serve it with TensorFlow Serving as <models>/<name>/1, signature serving_default",
    ),
    "onnx": Format(
        suffix=".onnx",
        mark="",
        ids_dtype="int64",
        needs_tensorflow=True,
        write=_write_onnx,
        open=_open_onnx,
        told="open it with onnxruntime.InferenceSession",
    ),
}
