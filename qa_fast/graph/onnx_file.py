"""Write a drawn encoder (`standard.py`) as an ONNX file.

The drawn graph is walked from its outputs. Each Keras operation becomes ONNX nodes (`operations.py`), each layer a few
nodes and weights under our names ("block_0/qkv_kernel"). This needs no converter and no backend except numpy.
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
# Bytes of weights; a protocol buffer holds 2 GiB, including the graph.
MOST_IN_A_FILE = 2**31 - 2**24

Floats = npt.NDArray[np.float32]


def onnx_graph(
    drawing: Drawing,
    weights: Mapping[str, Floats],
    fused: bool = False,
    scales: Mapping[str, Floats] | None = None,
    ranges: bool = False,
) -> onnx.ModelProto:
    """Return the ONNX graph of a drawing, with weights.

    Args:
        drawing: A drawing of `draw`.
        weights: Weights by their paths.
        fused: Use operations that only ONNX Runtime has.
        scales: By the name of a product ("block_0/outer"), divisors of its input's columns and factors of its kernel's
            rows, float32[m].
        ranges: Output, instead of logits, the largest magnitudes of the columns of each product's input, float32[m]
            under the product's name.

    Returns:
        A model with inputs int64[batch, length] and outputs float32[batch, length].

    Raises:
        UserError: An operation has no ONNX form here.
    """
    nodes = Nodes(fused)
    walk = _Walk(drawing, nodes, scales or {})
    logits = [walk.value_of(drawing.model.output[name]) for name in OUTPUTS]
    if ranges:
        widths = {product_of(path): shape[0] for path, shape in drawing.shapes.items() if path.endswith("_kernel")}
        outputs = [_ranges(nodes, name, inputs, widths[name]) for name, inputs in walk.products.items()]
    else:
        for value, name in zip(logits, OUTPUTS, strict=True):
            nodes.add("Identity", [value], "float32", name=name)
        outputs = [_described(name, "float32") for name in OUTPUTS]
    initializers = []
    for path in walk.used:
        weight, scale = weights[path], walk.scales.get(product_of(path))
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


def _ranges(nodes: Nodes, product: str, inputs: list[Value], width: int) -> onnx.ValueInfoProto:
    """Add an output named after a product: the largest magnitudes of the columns of its inputs."""
    parts = []
    for x in inputs:
        rows = nodes.add("Reshape", [nodes.add("Abs", [x], "float32"), nodes.ints(-1, width)], "float32")
        parts.append(nodes.add("ReduceMax", [rows, nodes.ints(0)], "float32", keepdims=0))
    nodes.add("Max", parts, "float32", name=product)
    return helper.make_tensor_value_info(product, onnx.TensorProto.FLOAT, [width])


class _Walk:
    """Writes the nodes that a tensor of the drawn graph depends on, each once.

    Attributes:
        used: Paths of the graph's weights, in order.
        products: Inputs of each product, by its name; a product with a shared kernel has several.
        scales: See `onnx_graph`.
    """

    def __init__(self, drawing: Drawing, nodes: Nodes, scales: Mapping[str, Floats]) -> None:
        self._nodes, self._paths, self.scales = nodes, drawing.paths, scales
        self.products: dict[str, list[Value]] = {}
        self._values = {id(tensor): Value(tensor.name, str(tensor.dtype)) for tensor in drawing.model.inputs}
        self.used: dict[str, None] = {}

    def value_of(self, tensor: Any) -> Value:
        """Return the value of a tensor, after writing its nodes if necessary."""
        pending = [tensor]
        while pending:
            last = pending[-1]
            if id(last) in self._values:
                pending.pop()
                continue
            history = last._keras_history
            step = history.operation._inbound_nodes[history.node_index]
            missing = [source for source in step.input_tensors if id(source) not in self._values]
            if missing:
                pending += missing
                continue
            args, options = step.arguments.fill_in(self._values)
            self._values[id(last)] = self._write(step.operation, last, step.input_tensors[0], args, options)
        return self._values[id(tensor)]

    def _write(self, operation: Any, out: Any, source: Any, args: Any, options: Any) -> Value:
        kind, step = type(operation).__name__, Step(operation, str(out.dtype), tuple(source.shape))
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
        name = f"{product}:{len(self._nodes.nodes)}"  # the nodes of a shared kernel need different names
        y = self._nodes.add("MatMul", [x, kernel], "float32", name=name)
        return self._nodes.add("Add", [y, self._weight(layer, 1)], "float32") if layer.use_bias else y

    def _embedding(self, layer: Any, ids: Value) -> Value:
        return self._nodes.add("Gather", [self._weight(layer, 0), ids], "float32", axis=0)

    def _layernormalization(self, layer: Any, x: Value) -> Value:
        inputs = [x, self._weight(layer, 0), *([self._weight(layer, 1)] if layer.center else [])]
        return self._nodes.add("LayerNormalization", inputs, "float32", axis=-1, epsilon=layer.epsilon)


def product_of(path: str) -> str:
    """Return the name of the product whose kernel has a path: "block_0/qkv" of "block_0/qkv_kernel"."""
    return path.removesuffix("_kernel")


def write_onnx(graph: onnx.ModelProto, path: Path, apart: bool = False) -> None:
    """Write a graph.

    Args:
        graph: A graph of `onnx_graph`.
        path: The file.
        apart: Write weights to a second file, with `.data` added to the name, which engines map into memory; a single
            file can hold at most `MOST_IN_A_FILE` bytes of weights.
    """
    onnx.save_model(graph, path, save_as_external_data=apart, location=f"{path.name}.data")
