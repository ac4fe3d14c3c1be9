"""Reading with OpenVINO: float32, or bfloat16 where the processor has it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from qa_fast.graph.names import OUTPUTS
from qa_fast.infer.engine import Floats
from qa_fast.infer.streams import Inputs, Streams
from qa_fast.model.config import EncoderConfig
from qa_fast.parallel import processors


def open_openvino(graph: Path, config: EncoderConfig, precision: str) -> Streams:
    """An engine on a graph that `graphs.graph_of` made; what OpenVINO makes of it is kept beside it."""
    import openvino

    count = processors()
    compiled = openvino.Core().compile_model(
        graph,
        "CPU",
        {
            "NUM_STREAMS": str(count),
            "INFERENCE_NUM_THREADS": str(count),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "CACHE_DIR": str(graph.with_suffix(".openvino")),
        },
    )
    own = threading.local()

    def compute(window: Inputs) -> tuple[Floats, Floats]:
        request: Any = getattr(own, "request", None)
        if request is None:
            request = own.request = compiled.create_infer_request()
        found = request.infer(window)
        return found[OUTPUTS[0]], found[OUTPUTS[1]]

    # Its Python package hangs where two threads make its very first call at the same time.
    Streams("openvino", precision, config, compute, 1).warm_up()
    return Streams("openvino", precision, config, compute, count)
