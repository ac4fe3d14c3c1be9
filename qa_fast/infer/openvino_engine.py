"""The OpenVINO engine: float32, or bfloat16 if the processor supports it, alone or beside products in int8."""

from __future__ import annotations

import importlib
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.graph.names import OUTPUTS
from qa_fast.infer.engine import Floats
from qa_fast.infer.shapes import blank
from qa_fast.infer.streams import Compute, Inputs, Maker, Streams, size_of, window_of
from qa_fast.model.config import EncoderConfig
from qa_fast.parallel import processors

# OpenVINO prepares each operation anew for each length of input. Windows are padded to a multiple of this many tokens,
# so that few lengths occur: for MiniLM this takes 17 % less time and 100 MB less memory than windows of any length.
_MULTIPLE = 16
# Operations that each stream keeps prepared, enough for all lengths: an encoder's blocks share them. The default of
# 5,000 takes hundreds of MB more if windows are long. The property is not documented.
_OPERATIONS = 256
# Windows in a batch when many are read. With similar lengths one after another, they take 10 to 14 % less time than
# single windows in any order. Batches of 8 take no less.
_ROWS = 4


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
    return Streams(
        "openvino", precision, config, partial(_open, graph, config, precision), processors(), size_of(graph), _ROWS
    )


def _open(graph: Path, config: EncoderConfig, precision: str) -> Maker:
    core = _without_telemetry().Core()
    # What is compiled from one model shares its embeddings: the second one takes 57 MB for MiniLM instead of 150.
    return partial(_compute_with, core, core.read_model(graph), config, precision)


def padded_to(width: int, window: Inputs, config: EncoderConfig) -> Inputs:
    """Return a window of `width` tokens, the last of which are padding, and the mask that says so; int64[1, width]."""
    missing = ((0, 0), (0, width - window["input_ids"].shape[1]))
    values = {"input_ids": config.pad_id}
    parts = {**window, "attention_mask": np.ones_like(window["input_ids"])}
    return {name: np.pad(part, missing, constant_values=values.get(name, 0)) for name, part in parts.items()}


def _compute_with(core: Any, model: Any, config: EncoderConfig, precision: str, streams: int, threads: int) -> Compute:
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(streams * threads),
            "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
            "CPU_RUNTIME_CACHE_CAPACITY": str(_OPERATIONS),
        },
    )
    local, requests = threading.local(), []

    def compute(*windows: Inputs) -> tuple[Floats, Floats]:
        request: Any = getattr(local, "request", None)
        if request is None:
            request = local.request = compiled.create_infer_request()
            requests.append(request)  # a forked process ends the threads, but must not free their requests
        longest = max(window["input_ids"].shape[1] for window in windows)
        width = min(-(-longest // _MULTIPLE) * _MULTIPLE, config.max_length)
        padded = [padded_to(width, window, config) for window in windows]
        logits = request.infer({name: np.concatenate([each[name] for each in padded]) for name in padded[0]})
        return logits[OUTPUTS[0]], logits[OUTPUTS[1]]

    # OpenVINO's Python package hangs if two threads make its very first call at the same time.
    compute(window_of(blank(1, min(128, config.max_length)), 0, config.takes_types))
    return compute
