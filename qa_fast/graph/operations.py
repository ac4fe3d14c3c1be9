"""Keras' operations as ONNX nodes: one small function for each operation of a drawn encoder.

An operation is identified by the name of its class. Its arguments are values of the graph, numbers or arrays; its
result is a value. An operation that is not listed is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qa_fast.graph.names import OPSET
from qa_fast.model.parts import MASKED

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name and the name of its numpy dtype."""

    name: str
    dtype: str


@dataclass
class Nodes:
    """The nodes and constants of a graph that is being written.

    Attributes:
        nodes: Nodes in order.
        constants: Constants by dtype, shape and bytes; equal constants are written once.
        fused: Use ONNX Runtime's own operation for attention.
        opset: Version of ONNX's operations.
    """

    fused: bool = False
    opset: int = OPSET
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = field(default_factory=dict)

    def add(self, kind: str, inputs: Sequence[Value], dtype: str, *, name: str = "", **attributes: Any) -> Value:
        """Add a node with one output of a dtype."""
        out = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [value.name for value in inputs], [out], name=out, **attributes))
        return Value(out, dtype)

    def add_rounding(self, x: Value) -> tuple[Value, Value, Value]:
        """Round a float32 value to uint8 by its own range; return the result, its scale and its zero."""
        names = [f"rounded{part}_{len(self.nodes)}" for part in ("", "_scale", "_zero")]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x.name], names, name=names[0]))
        return Value(names[0], "uint8"), Value(names[1], "float32"), Value(names[2], "uint8")

    def constant(self, value: Any, dtype: str) -> Value:
        """Add a small constant."""
        array = np.asarray(value, dtype)
        key = dtype, array.shape, array.tobytes()
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"constant_{len(self.constants)}")
        return Value(self.constants[key].name, dtype)

    def value(self, argument: Any, dtype: str) -> Value:
        """Return an operation's argument as a value of a dtype."""
        if not isinstance(argument, Value):
            return self.constant(argument, dtype)
        return argument if argument.dtype == dtype else self.cast(argument, dtype)

    def cast(self, value: Value, dtype: str) -> Value:
        """Cast a value."""
        return self.add("Cast", [value], dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def ints(self, *numbers: int) -> Value:
        """Add an int64[n] constant, the type of axes and shapes."""
        return self.constant(np.array(numbers), "int64")


@dataclass(frozen=True)
class Step:
    """One call of a Keras operation.

    Attributes:
        operation: The operation with its settings.
        dtype: dtype of its output.
        shape: Shape of its first input; None for unknown sizes.
    """

    operation: Any
    dtype: str
    shape: tuple[int | None, ...]


# Called with the nodes, the step, and the operation's arguments.
Writer = Callable[..., Value]


def _binary(kind: str) -> Writer:
    def write(nodes: Nodes, step: Step, left: Any, right: Any) -> Value:
        return nodes.add(kind, [nodes.value(left, step.dtype), nodes.value(right, step.dtype)], step.dtype)

    return write


def _comparison(kind: str, negated: bool = False) -> Writer:
    def write(nodes: Nodes, step: Step, left: Any, right: Any) -> Value:
        shared = left.dtype if isinstance(left, Value) else right.dtype
        result = nodes.add(kind, [nodes.value(left, shared), nodes.value(right, shared)], "bool")
        return nodes.add("Not", [result], "bool") if negated else result

    return write


def _unary(kind: str, **attributes: Any) -> Writer:
    def write(nodes: Nodes, step: Step, x: Any) -> Value:
        return nodes.add(kind, [nodes.value(x, step.dtype)], step.dtype, **attributes)

    return write


def _same(nodes: Nodes, step: Step, x: Any, *_: Any, **__: Any) -> Value:
    return nodes.value(x, step.dtype)


def _filled(number: int) -> Writer:
    def write(nodes: Nodes, step: Step, x: Value, **_: Any) -> Value:
        filler = numpy_helper.from_array(np.array([number], step.dtype))
        return nodes.add("ConstantOfShape", [nodes.add("Shape", [x], "int64")], step.dtype, value=filler)

    return write


def _cumsum(nodes: Nodes, step: Step, x: Value) -> Value:
    return nodes.add(
        "CumSum", [nodes.value(x, step.dtype), nodes.constant(step.operation.axis or 0, "int64")], step.dtype
    )


def _transpose(nodes: Nodes, step: Step, x: Value) -> Value:
    axes: dict[str, Any] = {} if step.operation.axes is None else {"perm": list(step.operation.axes)}
    return nodes.add("Transpose", [x], step.dtype, **axes)


def _expand_dims(nodes: Nodes, step: Step, x: Value) -> Value:
    axis = step.operation.axis if isinstance(step.operation.axis, int) else step.operation.axis[0]
    return nodes.add("Unsqueeze", [x, nodes.ints(axis)], step.dtype)


def _reshape_layer(nodes: Nodes, step: Step, x: Value) -> Value:
    shape = nodes.ints(0, *step.operation.target_shape)  # 0 keeps the number of rows
    return nodes.add("Reshape", [x, shape], step.dtype)


def _reshape(nodes: Nodes, step: Step, x: Value) -> Value:
    return nodes.add("Reshape", [x, nodes.ints(*step.operation.newshape)], step.dtype)


def _concatenate(nodes: Nodes, step: Step, parts: Sequence[Any]) -> Value:
    return nodes.add("Concat", [nodes.value(part, step.dtype) for part in parts], step.dtype, axis=step.operation.axis)


def _softmax(nodes: Nodes, step: Step, x: Value) -> Value:
    return nodes.add("Softmax", [x], step.dtype, axis=step.operation.axis)


def _gelu(nodes: Nodes, step: Step, x: Value) -> Value:
    """Write GELU, composed of its formula (with erf, or its approximation with tanh) where opset 20 is not there."""
    approximate, dtype = step.operation.approximate, step.dtype
    if nodes.opset >= 20:
        return nodes.add("Gelu", [x], dtype, approximate="tanh" if approximate else "none")

    def times(left: Value, right: Any) -> Value:
        return nodes.add("Mul", [left, nodes.value(right, dtype)], dtype)

    if approximate:
        cube = times(times(times(x, x), x), 0.044715)
        bent = nodes.add("Tanh", [times(nodes.add("Add", [x, cube], dtype), (2 / np.pi) ** 0.5)], dtype)
    else:
        bent = nodes.add("Erf", [times(x, 0.5**0.5)], dtype)
    return times(times(x, nodes.add("Add", [bent, nodes.constant(1.0, dtype)], dtype)), 0.5)


def _silu(nodes: Nodes, step: Step, x: Value) -> Value:
    return nodes.add("Mul", [x, nodes.add("Sigmoid", [x], step.dtype)], step.dtype)


def _take(nodes: Nodes, step: Step, x: Any, indices: Value) -> Value:
    return nodes.add("Gather", [nodes.value(x, step.dtype), indices], step.dtype, axis=step.operation.axis)


def _take_along_axis(nodes: Nodes, step: Step, x: Value, indices: Value) -> Value:
    """Gather along an axis; ONNX does not broadcast indices, so they are expanded to the other axes of `x`."""
    axis = step.operation.axis
    rank = len(step.shape)
    sizes = nodes.add("Shape", [x], "int64")
    axis %= rank
    own = nodes.add("Shape", [indices], "int64")
    shape = nodes.add(
        "Concat",
        [
            nodes.add("Slice", [sizes, nodes.ints(0), nodes.ints(axis)], "int64"),
            nodes.add("Slice", [own, nodes.ints(axis), nodes.ints(rank)], "int64"),
        ],
        "int64",
        axis=0,
    )
    spread = nodes.add("Expand", [indices, shape], indices.dtype)
    return nodes.add("GatherElements", [x, spread], step.dtype, axis=axis)


def _attention(
    nodes: Nodes,
    step: Step,
    query: Value,
    key: Value,
    value: Value,
    bias: Value | None = None,
    mask: Any = None,
    **_: Any,
) -> Value:
    """Attend: query, key and value [B, L, heads, D] to the same shape; `bias` is added to the scores."""
    heads, size = step.shape[-2:]
    assert heads is not None
    assert size is not None
    if nodes.fused:
        flat = [
            nodes.add("Reshape", [part, nodes.ints(0, 0, heads * size)], step.dtype) for part in (query, key, value)
        ]
        absent = Value("", step.dtype)
        options: dict[str, Any] = {"num_heads": heads, "domain": MICROSOFT}
        inputs = [*flat, absent, absent, bias] if bias is not None else flat
        y = nodes.add("MultiHeadAttention", inputs, step.dtype, **options)
        return nodes.add("Reshape", [y, nodes.ints(0, 0, heads, size)], step.dtype)
    scaled = nodes.add("Mul", [query, nodes.constant(size**-0.5, step.dtype)], step.dtype)
    rows = nodes.add("Transpose", [scaled], step.dtype, perm=[0, 2, 1, 3])
    columns = nodes.add("Transpose", [key], step.dtype, perm=[0, 2, 3, 1])
    scores = nodes.add("MatMul", [rows, columns], step.dtype)
    if bias is not None:
        scores = nodes.add("Add", [scores, bias], step.dtype)
    if mask is not None:
        # A cast with a subtraction and a product looks like integers that are made floats: in a graph with products in
        # int8, OpenVINO then gives wrong logits.
        hidden = nodes.add("Where", [mask, *(nodes.constant(x, step.dtype) for x in (0.0, MASKED))], step.dtype)
        scores = nodes.add("Add", [scores, hidden], step.dtype)
    shares = nodes.add("Softmax", [scores], step.dtype, axis=-1)
    columns = nodes.add("Transpose", [value], step.dtype, perm=[0, 2, 1, 3])
    return nodes.add("Transpose", [nodes.add("MatMul", [shares, columns], step.dtype)], step.dtype, perm=[0, 2, 1, 3])


_END = np.iinfo(np.int64).max


def _get_item(nodes: Nodes, step: Step, x: Value, key: Any) -> Value:
    """Index: slices first, then single rows, then new axes."""
    keys = list(key) if isinstance(key, tuple) else [key]
    rank = len(step.shape)
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        missing = rank - sum(part is not None and part is not Ellipsis for part in keys)
        keys[place : place + 1] = [slice(None)] * missing
    slices: list[tuple[int, int, int, int]] = []
    rows: list[tuple[int, int]] = []
    new_axes: list[int] = []
    axis = out_axis = 0
    for part in keys:
        if part is None:
            new_axes.append(out_axis)
            out_axis += 1
            continue
        if isinstance(part, slice):
            if (part.start, part.stop, part.step or 1) != (None, None, 1):
                end = _END if part.stop is None else part.stop
                slices.append((part.start or 0, end, axis, part.step or 1))
            out_axis += 1
        else:
            rows.append((int(part), axis))
        axis += 1
    if slices:
        columns = [nodes.ints(*column) for column in zip(*slices, strict=True)]
        x = nodes.add("Slice", [x, *columns], step.dtype)
    for row, axis in reversed(rows):
        x = nodes.add("Gather", [x, nodes.constant(row, "int64")], step.dtype, axis=axis)
    return nodes.add("Unsqueeze", [x, nodes.ints(*new_axes)], step.dtype) if new_axes else x


WRITERS: dict[str, Writer] = {
    "Absolute": _unary("Abs"),
    "Add": _binary("Add"),
    "Cast": _same,
    "Concatenate": _concatenate,
    "ConvertToTensor": _same,
    "Cos": _unary("Cos"),
    "Cumsum": _cumsum,
    "DotProductAttention": _attention,
    "ExpandDims": _expand_dims,
    "Gelu": _gelu,
    "GetItem": _get_item,
    "Identity": _same,
    "LessEqual": _comparison("LessOrEqual"),
    "LogicalAnd": _binary("And"),
    "Matmul": _binary("MatMul"),
    "Multiply": _binary("Mul"),
    "NotEqual": _comparison("Equal", negated=True),
    "OnesLike": _filled(1),
    "Relu": _unary("Relu"),
    "Reshape": _reshape,
    "ReshapeLayer": _reshape_layer,
    "Silu": _silu,
    "Sin": _unary("Sin"),
    "Softmax": _softmax,
    "Subtract": _binary("Sub"),
    "Take": _take,
    "TakeAlongAxis": _take_along_axis,
    "Transpose": _transpose,
    "ZerosLike": _filled(0),
}
