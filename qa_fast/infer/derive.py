"""`python -m qa_fast.infer.derive MODEL OUT ENGINE [--ranges | --int8 FILE]`: write one graph; see `graphs`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from qa_fast.infer.graphs import end_with
from qa_fast.infer.recipe import LEAST_GELU, Rounding, load


def derive(folder: Path, out: Path, engine: str, *, ranges: bool = False, rounding: Rounding | None = None) -> None:
    """Write the graph of a model folder.

    Args:
        folder: The model folder.
        out: The ONNX file.
        engine: For "onnx" the graph has operations that only ONNX Runtime supports; for "openvino" rows may be padded,
            and inputs are rounded to int8 by the ranges of the recipe.
        ranges: Write a graph whose outputs are the ranges of products' inputs, see `graph.onnx_file.onnx_graph`.
        rounding: How to round to int8; None keeps float32.

    Raises:
        UserError: The model cannot be read.
    """
    from qa_fast.graph.onnx_file import onnx_graph, product_of, write_onnx
    from qa_fast.graph.standard import draw
    from qa_fast.model.checkpoint import checked_config, read_weights

    config = checked_config(folder)
    drawing = draw(config, "int64", padded=engine == "openvino")
    weights: dict[str, Any] = {}
    read_weights(folder, config, drawing.shapes, weights.__setitem__)
    scales, steps, bits = {}, {}, 7
    if rounding is not None:
        kernels = {product_of(path): weight for path, weight in weights.items() if path.endswith("_kernel")}
        bits = rounding.weight_bits
        inner = config.feed_forward
        for name in filter(rounding.rounds, kernels):
            is_gelu = name.endswith("/outer") and inner.activation.startswith("gelu") and not inner.gated
            least = LEAST_GELU if is_gelu and engine == "openvino" else 0.0
            scales[name] = rounding.scales(name, kernels[name], least)
            if engine == "openvino":
                steps[name] = rounding.step(name, scales[name], least), least
    graph = onnx_graph(drawing, weights, engine == "onnx", scales, ranges, weight_bits=bits, steps=steps)
    write_onnx(graph, out, apart=True)


class _StandIn(ModuleType):
    """Stands in for a module that a library imports and this process does not call; its attributes do, too."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self.__name__}.{name}")


class _Finder:
    """Finds stand-ins for some packages and their modules."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(f"{name}." for name in names)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        absent = f"{name}.".startswith(self._names)
        return ModuleSpec(name, self, is_package=True) if absent else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _stand_in_for(*names: str) -> None:
    """Make every later import of these packages in this process return stand-ins, whether they are installed or not."""
    sys.meta_path.insert(0, _Finder(names))


def _main() -> None:
    # Keras on numpy imports these for operations that no encoder has; an installation for answering lacks them.
    _stand_in_for("jax", "scipy", "keras.src.backend.jax")
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("engine")
    parser.add_argument("--ranges", action="store_true")
    parser.add_argument("--int8", type=Path)
    arguments = parser.parse_args()

    def work() -> None:
        rounding = None if arguments.int8 is None else load(arguments.int8)[0]
        derive(arguments.folder, arguments.out, arguments.engine, ranges=arguments.ranges, rounding=rounding)

    end_with(work)


if __name__ == "__main__":
    _main()
