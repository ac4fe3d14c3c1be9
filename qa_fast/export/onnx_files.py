"""Writes a model as an ONNX file, and as the folder of files that transformers.js opens.

In int8 the products are computed with DynamicQuantizeLinear and MatMulInteger, which ONNX Runtime has on all devices
and in browsers, and embeddings are kept in int8 with a scale for each row, since they are half of a small model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from qa_fast.answer.settings import ANSWERING, kept_values, max_positions_of, read_settings
from qa_fast.encode import load_encoder
from qa_fast.encode.encoder import canonical_settings
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.export.task import Task
from qa_fast.graph.standard import draw
from qa_fast.model.checkpoint import span_config
from qa_fast.model.files import read_object
from qa_fast.model.folder import read_json_config
from qa_fast.store import write_json

# The names of transformers.js: the first for dtype "fp32", the second for "q8".
WEB_FILES = {"float32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
_OTHER_WEB_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", ANSWERING)


def write_onnx_file(task: Task, path: Path) -> None:
    """Write an ONNX file, in the task's only precision.

    Raises:
        MissingExtraError: onnx, or ONNX Runtime, which opens the file afterwards, is not installed.
        UserError: The weights are too large for one file.
    """
    (precision,) = task.precisions
    _write(task, precision, path)


def write_web_folder(task: Task, path: Path) -> None:
    """Write a folder for transformers.js: a graph for each precision, config.json, the tokenizer, options of answering.

    tokenizer.json is written as this package read it: with the tokens that only other files of the model's folder name.
    The options of answering are written with all defaults, so that who reads them needs to know none.

    Raises:
        MissingExtraError, UserError: See `write_onnx_file`.
    """
    (path / "onnx").mkdir(parents=True)
    for precision in task.precisions:
        _write(task, precision, path / WEB_FILES[precision])
    encoder, longest = load_encoder(task.folder), max_positions_of(task.folder)
    (path / "tokenizer.json").write_bytes(canonical_settings(encoder.settings))
    options = read_settings(task.folder).resolve(longest, encoder.template.special_tokens)
    write_json(path / ANSWERING, kept_values(options))
    usual = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    write_json(path / "tokenizer_config.json", usual | (read_object(task.folder, "tokenizer_config.json") or {}))
    write_json(path / "config.json", span_config(read_json_config(task.folder)))


def is_web_folder(path: Path) -> bool:
    """Tell whether a folder holds what `write_web_folder` writes, and nothing else."""
    files = {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}
    return bool(files & set(WEB_FILES.values())) and files <= {*WEB_FILES.values(), *_OTHER_WEB_FILES}


def _write(task: Task, precision: str, path: Path) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("qa-fast export --format onnx", "export", error.name or "onnx") from None
    from qa_fast.graph.onnx_file import MOST_IN_A_FILE, onnx_graph, write_onnx

    weights = {path: np.asarray(keras.ops.convert_to_numpy(weight)) for path, weight in task.model.by_path.items()}
    size = sum(weight.nbytes for weight in weights.values())
    if size > MOST_IN_A_FILE:
        raise UserError(
            f"an ONNX file holds weights of at most {MOST_IN_A_FILE:,} bytes; received a model of {size:,}: choose "
            "--format saved-model or keras"
        )
    small = precision == "int8"
    scales = _scales(task, weights) if small else {}
    drawing = draw(task.model.config, "int64")
    graph = onnx_graph(drawing, weights, scales=scales, opset=task.opset, small_tables=small)
    onnx.helper.set_model_props(graph, {Path(ANSWERING).stem: task.answering})
    write_onnx(graph, path)


def _scales(task: Task, weights: dict[str, Any]) -> dict[str, Any]:
    """Return the products to compute in int8 with their scales, see `onnx_graph`."""
    from qa_fast.graph.onnx_file import product_of

    kernels = {product_of(path): weight for path, weight in weights.items() if path.endswith("_kernel")}
    if task.rounding is None:
        names = [name for name in kernels if not name.startswith("head/")]
        return {name: np.ones(len(kernels[name]), np.float32) for name in names}
    rounding = task.rounding
    return {name: rounding.scales(name, kernel) for name, kernel in kernels.items() if rounding.rounds(name)}
