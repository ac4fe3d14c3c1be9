"""A drawn encoder (`standard.py`) as an ONNX file.

The drawn graph is walked from its outputs; each of Keras' operations becomes ONNX nodes (`operations.py`), each of its
layers a few nodes and weights under our own names ("block_0/qkv_kernel"). No converter and no backend has a part in it:
it runs where Keras has numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qa_fast.errors import UserError
from qa_fast.graph.names import INPUTS, OUTPUTS
from qa_fast.graph.operations import MICROSOFT, WRITERS, Nodes, Step, Value
from qa_fast.graph.standard import Drawing

OPSET = 20  # the first with Gelu
# Of weights; a protocol buffer holds 2 GiB, and some of that is the graph.
MOST_IN_A_FILE = 2**31 - 2**24

Floats = npt.NDArray[np.float32]


def onnx_graph(
    drawing: Drawing,
    weights: Mapping[str, Floats],
    fused: bool = False,
    scales: Mapping[str, Floats] | None = None,
    ranges: bool = False,
) -> onnx.ModelProto:
    """The graph with its weights.

    Args:
        drawing: Of `draw`.
        weights: By our paths.
        fused: Use operations that ONNX Runtime alone has.
        scales: For a product ("block_0/outer"), what its input's columns are divided by and its kernel's rows
            multiplied, float32[m].
        ranges: Give, instead of logits, the largest magnitudes of the columns of each product's input, float32[m] by
            the product's name.

    Returns:
        A model whose inputs are int64[batch, length], whose outputs float32[batch, length].

    Raises:
        UserError: The graph holds an operation that has no ONNX form here.
    """
    nodes = Nodes(fused)
    writer = _Walk(drawing, nodes, scales or {})
    logits = [writer.value_of(drawing.model.output[name]) for name in OUTPUTS]
    if ranges:
        widths = {product_of(path): shape[0] for path, shape in drawing.shapes.items() if path.endswith("_kernel")}
        outputs = [_ranges(nodes, name, given, widths[name]) for name, given in writer.products.items()]
    else:
        for value, name in zip(logits, OUTPUTS, strict=True):
            nodes.add("Identity", [value], "float32", name=name)
        outputs = [_described(name, "float32") for name in OUTPUTS]
    initializers = []
    for path in writer.used:
        weight, scale = weights[path], writer.scales.get(product_of(path))
        if scale is not None and path.endswith("_kernel"):
            weight = weight * scale[:, None]
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(weight), path))
    inputs = {tensor.name: str(tensor.dtype) for tensor in drawing.model.inputs}
    graph = helper.make_graph(
        nodes.nodes,
        "span_model",
        [_described(name, inputs[name]) for name in INPUTS if name in inputs],
        outputs,
        [*nodes.constants.values(), *initializers],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), *([helper.make_opsetid(MICROSOFT, 1)] if fused else [])],
        producer_name="qa-fast",
        ir_version=9,
    )


def _described(name: str, dtype: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["batch", "length"])


def _ranges(nodes: Nodes, product: str, given: list[Value], width: int) -> onnx.ValueInfoProto:
    """The largest magnitudes of the columns of a product's inputs, as an output named after it."""
    parts = []
    for x in given:
        rows = nodes.add("Reshape", [nodes.add("Abs", [x], "float32"), nodes.ints(-1, width)], "float32")
        parts.append(nodes.add("ReduceMax", [rows, nodes.ints(0)], "float32", keepdims=0))
    nodes.add("Max", parts, "float32", name=product)
    return helper.make_tensor_value_info(product, onnx.TensorProto.FLOAT, [width])


class _Walk:
    """Writes what a tensor of the drawn graph hangs on, each step once.

    Attributes:
        used: Paths of the weights that the graph takes, in order.
        products: The inputs of each product, by its name; a shared kernel's product has several.
        scales: See `onnx_graph`.
    """

    def __init__(self, drawing: Drawing, nodes: Nodes, scales: Mapping[str, Floats]) -> None:
        self._nodes, self._paths, self.scales = nodes, drawing.paths, scales
        self.products: dict[str, list[Value]] = {}
        self._values = {id(tensor): Value(tensor.name, str(tensor.dtype)) for tensor in drawing.model.inputs}
        self.used: dict[str, None] = {}

    def value_of(self, tensor: Any) -> Value:
        """The value of a tensor, written if it is not yet."""
        waiting = [tensor]
        while waiting:
            last = waiting[-1]
            if id(last) in self._values:
                waiting.pop()
                continue
            history = last._keras_history
            step = history.operation._inbound_nodes[history.node_index]
            missing = [given for given in step.input_tensors if id(given) not in self._values]
            if missing:
                waiting += missing
                continue
            args, options = step.arguments.fill_in(self._values)
            self._values[id(last)] = self._write(step.operation, last, step.input_tensors[0], args, options)
        return self._values[id(tensor)]

    def _write(self, operation: Any, out: Any, given: Any, args: Any, options: Any) -> Value:
        kind, step = type(operation).__name__, Step(operation, str(out.dtype), tuple(given.shape))
        if isinstance(operation, keras.layers.Layer) and operation.name in self._paths:
            return getattr(self, f"_{kind.lower()}")(operation, *args)
        if kind == "Reshape" and isinstance(operation, keras.layers.Layer):
            kind = "ReshapeLayer"
        if kind not in WRITERS:
            raise UserError(f"a model's operations must have an ONNX form; {kind} has none here: report this model")
        return WRITERS[kind](self._nodes, step, *args, **options)

    def _weight(self, layer: Any, number: int) -> Value:
        path = self._paths[layer.name][number]
        self.used[path] = None
        return Value(path, "float32")

    def _dense(self, layer: Any, x: Value) -> Value:
        kernel = self._weight(layer, 0)
        product = product_of(kernel.name)
        self.products.setdefault(product, []).append(x)
        if product in self.scales:
            x = self._nodes.add("Mul", [x, self._nodes.constant(1 / self.scales[product], "float32")], "float32")
        name = f"{product}:{len(self._nodes.nodes)}"  # a shared kernel's nodes apart
        y = self._nodes.add("MatMul", [x, kernel], "float32", name=name)
        return self._nodes.add("Add", [y, self._weight(layer, 1)], "float32") if layer.use_bias else y

    def _embedding(self, layer: Any, ids: Value) -> Value:
        return self._nodes.add("Gather", [self._weight(layer, 0), ids], "float32", axis=0)

    def _layernormalization(self, layer: Any, x: Value) -> Value:
        inputs = [x, self._weight(layer, 0), *([self._weight(layer, 1)] if layer.center else [])]
        return self._nodes.add("LayerNormalization", inputs, "float32", axis=-1, epsilon=layer.epsilon)


def product_of(path: str) -> str:
    """The name of the product with the kernel of a path: "block_0/qkv"."""
    return path.removesuffix("_kernel")


def write_onnx(made: onnx.ModelProto, path: Path, apart: bool = False) -> None:
    """Write a graph.

    Args:
        made: Of `onnx_graph`.
        path: The file.
        apart: Weights go to a file beside it, of the same name and `.data`, which engines map into memory; a single
            file holds `MOST_IN_A_FILE`.
    """
    onnx.save_model(made, path, save_as_external_data=apart, location=f"{path.name}.data")
