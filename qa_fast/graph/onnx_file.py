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
from qa_fast.graph.names import INPUTS, OPSET, OUTPUTS
from qa_fast.graph.operations import MICROSOFT, WRITERS, Nodes, Step, Value
from qa_fast.graph.standard import Drawing

# Bytes of weights; a protocol buffer holds 2 GiB, including the graph.
MOST_IN_A_FILE = 2**31 - 2**24

Floats = npt.NDArray[np.float32]


def onnx_graph(
    drawing: Drawing,
    weights: Mapping[str, Floats],
    fused: bool = False,
    scales: Mapping[str, Floats] | None = None,
    ranges: bool = False,
    opset: int = OPSET,
    small_tables: bool = False,
    weight_bits: int = 7,
    steps: Mapping[str, tuple[float, float]] | None = None,
) -> onnx.ModelProto:
    """Return the ONNX graph of a drawing, with weights.

    Products in int8 take one scale for each column of weights, and one for the activations of one or all calls.

    Args:
        drawing: A drawing of `draw`.
        weights: Weights by their paths.
        fused: Use operations that only ONNX Runtime has.
        scales: The products to compute in int8, by name ("block_0/outer"): divisors of the input's columns and factors
            of the kernel's rows, float32[m].
        ranges: Output, instead of logits, the largest magnitudes of the columns of each product's input, float32[m]
            under the product's name.
        opset: The version of ONNX's operations, one of `names.OPSETS`.
        small_tables: Keep embeddings in int8, with one scale for each row.
        weight_bits: Bits of the weights of products in int8, 7 or 8. Without VNNI, x86 adds pairs of products in int16,
            which overflows with eight.
        steps: Of each such product's input the distance of neighbouring int8 numbers, after division by `scales`, and a
            value that none is below, or 0 if there is no such value. OpenVINO needs this; None scales the inputs of
            each call by their own range, as ONNX Runtime can.

    Returns:
        A model with inputs int64[batch, length] and outputs float32[batch, length].

    Raises:
        UserError: An operation has no ONNX form here.
    """
    nodes = Nodes(fused, opset)
    walk = _Walk(drawing, nodes, weights, scales or {}, steps or {}, small_tables, 64 if weight_bits == 7 else 127)
    logits = [walk.value_of(drawing.model.output[name]) for name in OUTPUTS]
    if ranges:
        widths = {product_of(path): shape[0] for path, shape in drawing.shapes.items() if path.endswith("_kernel")}
        outputs = [_ranges(nodes, name, inputs, widths[name]) for name, inputs in walk.products.items()]
    else:
        for value, name in zip(logits, OUTPUTS, strict=True):
            nodes.add("Identity", [value], "float32", name=name)
        outputs = [_described(name, "float32") for name in OUTPUTS]
    initializers = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in walk.used.items()]
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
        opset_imports=[helper.make_opsetid("", opset), *([helper.make_opsetid(MICROSOFT, 1)] if fused else [])],
        producer_name="qa-fast",
        ir_version=9 if opset <= 20 else 10,
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
        used: The graph's weights by name, in order.
        products: Inputs of each product, by its name; a product with a shared kernel has several.
    """

    def __init__(
        self,
        drawing: Drawing,
        nodes: Nodes,
        weights: Mapping[str, Floats],
        scales: Mapping[str, Floats],
        steps: Mapping[str, tuple[float, float]],
        small_tables: bool,
        most: int,
    ) -> None:
        self._nodes, self._paths, self._weights, self._scales = nodes, drawing.paths, weights, scales
        self._steps, self._small_tables, self._most = steps, small_tables, most
        self.products: dict[str, list[Value]] = {}
        self._values = {id(tensor): Value(tensor.name, str(tensor.dtype)) for tensor in drawing.model.inputs}
        self.used: dict[str, npt.NDArray[Any]] = {}

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
        return self._kept(path, self._weights[path])

    def _kept(self, name: str, value: npt.NDArray[Any]) -> Value:
        self.used[name] = value
        return Value(name, str(value.dtype))

    def _dense(self, layer: Any, x: Value) -> Value:
        path = self._paths[layer.name][0]
        product = product_of(path)
        self.products.setdefault(product, []).append(x)
        if product in self._steps:
            y = self._fixed_product(path, x, self._scales[product], *self._steps[product])
        elif product in self._scales:
            y = self._rounded_product(path, x, self._scales[product])
        else:
            y = self._nodes.add("MatMul", [x, self._weight(layer, 0)], "float32")
        return self._nodes.add("Add", [y, self._weight(layer, 1)], "float32") if layer.use_bias else y

    def _rounded_product(self, path: str, x: Value, divisors: Floats) -> Value:
        """Multiply in int8, as the nodes that ONNX Runtime recognises and runs as one."""
        nodes = self._nodes
        x, weight, scale = self._narrowed(path, x, divisors)
        inputs, input_scale, input_zero = nodes.add_rounding(x)
        zero = nodes.constant(0, "int8")
        sums = nodes.add("MatMulInteger", [inputs, weight, input_zero, zero], "int32")
        scales = nodes.add("Mul", [input_scale, scale], "float32")
        return nodes.add("Mul", [nodes.cast(sums, "float32"), scales], "float32")

    def _fixed_product(self, path: str, x: Value, divisors: Floats, step: float, least: float) -> Value:
        """Multiply in int8 with a fixed step, as the nodes that OpenVINO recognises and runs as one."""
        nodes = self._nodes
        if least:  # no value is below 0 then, so that all 8 bits are for the magnitude
            x = nodes.add("Sub", [x, nodes.constant(least, "float32")], "float32")
        x, weight, scale = self._narrowed(path, x, divisors)
        dtype = "uint8" if least else "int8"
        rule = [nodes.constant(step, "float32"), nodes.constant(0, dtype)]
        x = nodes.add("DequantizeLinear", [nodes.add("QuantizeLinear", [x, *rule], dtype), *rule], "float32")
        y = nodes.add("MatMul", [x, nodes.add("DequantizeLinear", [weight, scale], "float32", axis=1)], "float32")
        if not least:
            return y
        # The weights as they were give closer logits than the rounded ones: most values of GELU are near its least.
        taken = least * self._weights[path].sum(axis=0)
        return nodes.add("Add", [y, nodes.constant(taken, "float32")], "float32")

    def _narrowed(self, path: str, x: Value, divisors: Floats) -> tuple[Value, Value, Value]:
        """Return a product's input divided by the divisors, and its weights times these in int8 with their scales."""
        if (divisors != 1).any():
            x = self._nodes.add("Mul", [x, self._nodes.constant(1 / divisors, "float32")], "float32")
        rounded, scale = _rounded(self._weights[path] * divisors[:, None], axis=0, most=self._most)
        return x, self._kept(path, rounded), self._kept(f"{path}_scale", scale)

    def _embedding(self, layer: Any, ids: Value) -> Value:
        nodes, path = self._nodes, self._paths[layer.name][0]
        if not self._small_tables:
            return nodes.add("Gather", [self._weight(layer, 0), ids], "float32", axis=0)
        rounded, scale = _rounded(self._weights[path], axis=1, most=127)
        rows = nodes.add("Gather", [self._kept(path, rounded), ids], "int8", axis=0)
        scales = nodes.add("Gather", [self._kept(f"{path}_scale", scale[:, None]), ids], "float32", axis=0)
        return nodes.add("Mul", [nodes.cast(rows, "float32"), scales], "float32")

    def _layernormalization(self, layer: Any, x: Value) -> Value:
        inputs = [x, self._weight(layer, 0), *([self._weight(layer, 1)] if layer.center else [])]
        return self._nodes.add("LayerNormalization", inputs, "float32", axis=-1, epsilon=layer.epsilon)


def _rounded(weight: Floats, axis: int, most: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return a matrix in int8 and what to multiply it with: a scale for each column or row.

    Args:
        weight: float32[m, n].
        axis: The axis that shares a scale: 0 gives one for each column, 1 one for each row.
        most: The largest magnitude in int8.
    """
    scale = (np.abs(weight).max(axis=axis, keepdims=True) / most).astype(np.float32)
    scale[scale == 0] = 1  # a padding token's row
    return np.rint(weight / scale).astype(np.int8), scale.squeeze(axis)


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
