"""Open a model folder with the engine that the user chose, or with the fastest one."""

from __future__ import annotations

from pathlib import Path

from qa_fast.errors import UserError
from qa_fast.infer.choose import Way, has_bfloat16, installed, measure, preferred, sums_bytes, ways
from qa_fast.infer.engine import Engine
from qa_fast.infer.graphs import Kind, Say, graph_of, model_key
from qa_fast.infer.recipe import Recipe, read_recipe
from qa_fast.model.config import EncoderConfig
from qa_fast.model.folder import folder_config, readable_config

_BFLOAT16 = (
    "this processor multiplies in bfloat16, which reads 1.6 to 1.9 times as many windows a second with OpenVINO: "
    "pip install 'qa-fast[openvino]'"
)


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
        engine: "auto" (the one expected to be fastest, or measured; see `choose`), "keras", "openvino" or "onnx".
        precision: "auto" (likewise; int8 only with a recipe), "float32", "bfloat16", "float16"
            (only Keras) or "int8" (only ONNX Runtime and OpenVINO).
        serving: Whether the process lives long, so that a slow start is acceptable.
        say: Called with a line for the user when something is made, and about the choice.

    Raises:
        UserError: The folder cannot be read, or the engine or precision is not available here.
        MissingExtraError: The engine is not installed, or no engine is.
    """
    folder = Path(folder)
    open_ways, recipe, key = _ways(folder, engine, precision)
    order, reason = preferred(folder, open_ways)
    problems: list[str] = []
    for way in order:
        try:
            opened = _opened(folder, way, recipe, serving, say, key)
            break
        except UserError:
            raise
        except Exception as error:  # a library that does not work here, or not with this model
            if len(order) == 1:
                raise
            problems.append(problem_of(way, error))
            if say is not None:
                say(f"this engine does not work here: {problems[-1]}")
    else:
        raise UserError(f"at least one engine must open the model; none does: {'; '.join(problems)}")
    if say is not None and engine == "auto":
        say(f"reading with {opened.name} in {opened.precision} ({reason})")
        if precision == "auto" and way.precision == "float32" and has_bfloat16() and "openvino" not in installed():
            say(_BFLOAT16)
    return opened


def measure_engines(folder: str | Path, engine: str = "auto", precision: str = "auto", say: Say | None = None) -> None:
    """Measure the ways to read that match the options, and remember the result for "auto"; see `choose.measure`.

    Args:
        folder: See `open_engine`.
        engine: See `open_engine`.
        precision: See `open_engine`.
        say: Called with a line for the user.

    Raises:
        UserError: See `open_engine`.
        MissingExtraError: See `open_engine`.
    """
    folder = Path(folder)
    measure(folder, _ways(folder, engine, precision)[0], say)


def _ways(folder: Path, engine: str, precision: str) -> tuple[list[Way], Recipe | None, str | None]:
    """Return the ways that match the options, the recipe for int8, and `model_key` if it is known."""
    readable_config(folder)  # report a folder without a model, or one without a head, before choosing
    engines = installed()
    recipe = read_recipe(folder) if precision in ("auto", "int8") else None
    key = None
    if recipe is not None:
        key = model_key(folder)
        if recipe.weights != key or (recipe.rounding.weight_bits == 8 and not sums_bytes()):
            recipe = None
    scored, whole = ((), True) if recipe is None else (recipe.engines, recipe.rounding.whole)
    return ways(engine, precision, engines, scored=scored, bfloat16=has_bfloat16(), whole=whole), recipe, key


def problem_of(way: Way, error: Exception) -> str:
    """Return the last line of a library's message, with the way that it was met on."""
    return f"{way}: {(str(error).strip().splitlines() or [repr(error)])[-1]}"


def open_way(folder: Path, way: Way, serving: bool = False) -> Engine:
    """Open a model in a given way, without checks; int8 needs a recipe in the folder."""
    recipe = read_recipe(folder) if way.precision == "int8" else None
    return _opened(folder, way, recipe, serving, None, None)


def _opened(folder: Path, way: Way, recipe: Recipe | None, serving: bool, say: Say | None, key: str | None) -> Engine:
    if way.engine == "keras":
        from qa_fast.infer.keras_engine import KerasEngine

        return KerasEngine.from_pretrained(folder, way.precision, serving)
    rounding = recipe.rounding if recipe is not None and way.precision == "int8" else None
    return open_graph(way, graph_of(folder, Kind(way.engine, rounding=rounding), say, key), folder_config(folder))


def open_graph(way: Way, graph: Path, config: EncoderConfig) -> Engine:
    """Open a graph of `graphs.graph_of` with its engine."""
    if way.engine == "onnx":
        from qa_fast.infer.onnx_engine import open_onnx

        return open_onnx(graph, config, way.precision)
    from qa_fast.infer.openvino_engine import open_openvino

    return open_openvino(graph, config, way.precision)
