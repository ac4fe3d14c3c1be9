"""The ONNX Runtime engine: float32, or int8 products whose activations are scaled at each call."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qa_fast.graph.names import OUTPUTS
from qa_fast.infer.engine import Floats
from qa_fast.infer.streams import Compute, Inputs, Streams, size_of
from qa_fast.model.config import EncoderConfig
from qa_fast.parallel import processors


def session_of(graph: Path, threads: int = 1) -> Any:
    """Open a session that computes each call in a number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Threads that spin while they wait save a window alone a millisecond, and double its time beside other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def open_onnx(graph: Path, config: EncoderConfig, precision: str) -> Streams:
    """Return an engine that runs a graph of `graphs.graph_of`."""
    return Streams("onnx", precision, config, partial(partial, _compute_with, graph), processors(), size_of(graph))


def _compute_with(graph: Path, _: int, threads: int) -> Compute:
    session = session_of(graph, threads)

    def compute(window: Inputs) -> tuple[Floats, Floats]:
        start, end = session.run(OUTPUTS, window)
        return start, end

    return compute
