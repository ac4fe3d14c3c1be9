"""The OpenVINO engine: float32, or bfloat16 if the processor supports it."""

from __future__ import annotations

import importlib
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from qa_fast.graph.names import OUTPUTS
from qa_fast.infer.engine import Floats
from qa_fast.infer.shapes import blank
from qa_fast.infer.streams import Compute, Inputs, Streams, window_of
from qa_fast.model.config import EncoderConfig
from qa_fast.parallel import processors

# Operations that each stream keeps prepared. OpenVINO prepares an operation anew for each length of window and keeps
# 5,000 of them, which takes 600 MB for MiniLM. 64 hold those of several lengths: an encoder's blocks share them. For
# MiniLM they cost 6 % of the time of windows of many lengths, and with 0 computing takes twice as long. The property
# is not documented.
_OPERATIONS = 64


def _without_telemetry() -> Any:
    """Import OpenVINO without its telemetry, which writes into the home folder and warns where it cannot."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    finally:
        if sys.modules["openvino_telemetry"] is None:
            del sys.modules["openvino_telemetry"]


def open_openvino(graph: Path, config: EncoderConfig, precision: str) -> Streams:
    """Return an engine that runs a graph of `graphs.graph_of`.

    OpenVINO's own cache is not used. It would start 0.1 s sooner from a second copy of the weights, which OpenVINO
    trusts without a checksum.
    """
    count = processors()
    return Streams("openvino", precision, config, partial(_open, graph, config, precision, count), count)


def _open(graph: Path, config: EncoderConfig, precision: str, count: int) -> Compute:
    openvino = _without_telemetry()
    compiled = openvino.Core().compile_model(
        graph,
        "CPU",
        {
            "NUM_STREAMS": str(count),
            "INFERENCE_NUM_THREADS": str(count),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "CPU_RUNTIME_CACHE_CAPACITY": str(_OPERATIONS),
        },
    )
    local, requests = threading.local(), []

    def compute(window: Inputs) -> tuple[Floats, Floats]:
        request: Any = getattr(local, "request", None)
        if request is None:
            request = local.request = compiled.create_infer_request()
            requests.append(request)  # a forked process ends the threads, but must not free their requests
        logits = request.infer(window)
        return logits[OUTPUTS[0]], logits[OUTPUTS[1]]

    # OpenVINO's Python package hangs if two threads make its very first call at the same time.
    compute(window_of(blank(1, min(128, config.max_length)), 0, config.takes_types))
    return compute
