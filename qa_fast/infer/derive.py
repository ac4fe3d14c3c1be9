"""`python -m qa_fast.infer.derive MODEL OUT ENGINE [--int8 KEPT]`: writes one graph; see `graphs`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qa_fast.infer.graphs import end_with


def derive(folder: Path, out: Path, engine: str, kept: Sequence[str] | None = None) -> None:
    """Write the graph of a model folder.

    Args:
        folder: The model folder.
        out: The ONNX file.
        engine: "onnx" has operations that ONNX Runtime alone knows.
        kept: For int8: products that stay in float32, by what their names begin with; None quantizes none.

    Raises:
        UserError: The model cannot be read.
    """
    import numpy as np

    from qa_fast.checkpoint import read_weights
    from qa_fast.graph.onnx_file import write_onnx
    from qa_fast.graph.standard import draw
    from qa_fast.model.folder import folder_config

    config = folder_config(folder)
    drawing = draw(config, "int64", padded=False)
    weights: dict[str, Any] = {
        path: (np.ones if path.endswith("gamma") else np.zeros)(shape, np.float32)
        for path, shape in drawing.shapes.items()
        if path.startswith("head/")  # which a checkpoint may lack
    }
    read_weights(folder, config, drawing.shapes, weights.__setitem__)
    if kept is None:
        write_onnx(drawing, weights, out, fused=engine == "onnx", apart=True)
        return
    full = out.with_name(f"float32-{out.name}")
    write_onnx(drawing, weights, full, fused=engine == "onnx", apart=True)
    _quantize(full, out, kept)
    for path in full.parent.glob(f"{full.name}*"):
        path.unlink()


def _quantize(source: Path, out: Path, kept: Sequence[str]) -> None:
    """Products with weights in int8, each column with a scale of its own; activations' are found as they come.

    Weights have seven bits: without VNNI, x86 adds pairs of products in int16, where eight overflow.
    """
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends steps for other graphs
    graph = onnx.load(source, load_external_data=False).graph
    names = [node.name for node in graph.node if node.op_type == "MatMul" and node.name.startswith(tuple(kept))]
    quantize_dynamic(
        source,
        out,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=names if kept else [],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=(source.parent / f"{source.name}.data").exists(),
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("engine")
    parser.add_argument("--int8")
    given = parser.parse_args()
    kept = None if given.int8 is None else json.loads(given.int8)
    end_with(lambda: derive(given.folder, given.out, given.engine, kept))


if __name__ == "__main__":
    _main()
