"""Reading with ONNX Runtime: float32, or int8 products with the sizes of activations measured as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qa_fast.graph.names import OUTPUTS
from qa_fast.infer.engine import Floats
from qa_fast.infer.streams import Streams, processors
from qa_fast.model.config import EncoderConfig
from qa_fast.schema import Int64s


def session_of(graph: Path) -> tuple[Any, bool]:
    """A session of one thread a call, and whether the graph takes token types."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a stream is one thread
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session, any(given.name == "token_type_ids" for given in session.get_inputs())


def open_onnx(graph: Path, config: EncoderConfig, precision: str) -> Streams:
    """An engine on a graph that `graphs.graph_of` made."""
    session, typed = session_of(graph)

    def compute(ids: Int64s, types: Int64s | None) -> tuple[Floats, Floats]:
        given = {"input_ids": ids, "token_type_ids": types} if typed else {"input_ids": ids}
        start, end = session.run(OUTPUTS, given)
        return start, end

    return Streams("onnx", precision, config, compute, processors())
