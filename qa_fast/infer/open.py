"""Open a model folder with the engine that the user chose, or with the fastest one."""

from __future__ import annotations

from pathlib import Path

from qa_fast.infer.choose import Way, fastest_way, has_bfloat16, installed, ways
from qa_fast.infer.engine import Engine
from qa_fast.infer.graphs import Kind, Say, graph_of, model_key
from qa_fast.infer.recipe import Recipe, read_recipe
from qa_fast.model.folder import folder_config, readable_config


def open_engine(
    folder: str | Path,
    engine: str = "auto",
    precision: str = "auto",
    *,
    serving: bool = False,
    say: Say | None = None,
) -> Engine:
    """Open a model for inference.

    Args:
        folder: A Hugging Face folder, such as `qa-fast train` writes.
        engine: "auto" (measured on this device), "keras", "openvino" or "onnx".
        precision: "auto" (measured; int8 only with a recipe of `qa-fast quantize`), "float32", "bfloat16", "float16"
            (only Keras) or "int8" (only ONNX Runtime).
        serving: Whether the process lives long, so that a slow start is acceptable.
        say: Called with a line for the user when something is made or measured, and about the choice.

    Raises:
        UserError: The folder cannot be read, or the engine or precision is not available here.
        MissingExtraError: The engine is not installed, or no engine is.
    """
    folder = Path(folder)
    readable_config(folder)  # report a folder without a model, or one without a head, before choosing
    engines = installed()
    recipe = read_recipe(folder) if precision in ("auto", "int8") and "onnx" in engines else None
    key = None
    if recipe is not None:
        key = model_key(folder)
        if recipe.weights != key:
            recipe = None
    open_ways = ways(engine, precision, engines, quantized=recipe is not None, bfloat16=has_bfloat16())
    way, reason = fastest_way(folder, open_ways, say)
    opened = _opened(folder, way, recipe, serving, say, key)
    if say is not None and engine == "auto":
        say(f"reading with {opened.name} in {opened.precision} ({reason})")
    return opened


def open_way(folder: Path, engine: str, precision: str, serving: bool = False) -> Engine:
    """Open a model in a given way, without checks; int8 needs a recipe in the folder."""
    recipe = read_recipe(folder) if precision == "int8" else None
    return _opened(folder, Way(engine, precision), recipe, serving, None, None)


def _opened(folder: Path, way: Way, recipe: Recipe | None, serving: bool, say: Say | None, key: str | None) -> Engine:
    if way.engine == "keras":
        from qa_fast.infer.keras_engine import KerasEngine

        return KerasEngine.from_pretrained(folder, way.precision, serving)
    rounding = recipe.rounding if recipe is not None and way.precision == "int8" else None
    graph, config = graph_of(folder, Kind(way.engine, rounding=rounding), say, key), folder_config(folder)
    if way.engine == "onnx":
        from qa_fast.infer.onnx_engine import open_onnx

        return open_onnx(graph, config, way.precision)
    from qa_fast.infer.openvino_engine import open_openvino

    return open_openvino(graph, config, way.precision)
