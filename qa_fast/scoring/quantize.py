"""Quantize a model to int8: score it in float32 and in int8, and write a recipe if int8 loses little.

Weights and activations of all products are rounded. Before that, the widest columns of activations, as measured on some
windows, are made narrower and the weights larger. If the loss is too large, products stay in float32 step by step, the
most costly first: the second product of feed-forward, then the first and last block, then the first product of
feed-forward. The result is a recipe (`infer/recipe.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qa_fast.answer.settings import read_settings
from qa_fast.errors import UserError
from qa_fast.infer.graphs import Kind, forget, graph_of, model_key
from qa_fast.infer.recipe import Floats, Recipe, Rounding, read_recipe, write_recipe
from qa_fast.infer.streams import window_of
from qa_fast.model.config import EncoderConfig
from qa_fast.model.folder import readable_config
from qa_fast.schema import Features
from qa_fast.scoring.evaluation import Progress, evaluate_split, scorable
from qa_fast.scoring.options import EvaluateConfig
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import open_shards
from qa_fast.shards.compatibility import check_features, check_tokenizer
from qa_fast.sources import resolve_model

# Points of F1; seeds of training differ by 0.2 to 0.5.
MOST_LOST = 0.3
# Number of windows on which ranges of activations are measured.
_WINDOWS = 64
Say = Callable[[str], None]


@dataclass(frozen=True)
class Quantized:
    """A model with a recipe for int8.

    Attributes:
        recipe: The recipe.
        path: Its file.
        questions_alike: Share of questions that both models answer with the same text.
    """

    recipe: Recipe
    path: Path
    questions_alike: float


def rungs(config: EncoderConfig) -> Iterator[tuple[str, ...]]:
    """Yield the products that stay in float32, fewest first; the head is always among them."""
    blocks = range(config.blocks)
    ends = sorted({0, config.blocks - 1})
    outer = tuple(f"block_{index}/outer" for index in blocks)
    inner = tuple(f"block_{index}/inner" for index in blocks)
    yield ("head/",)
    yield ("head/", *outer)
    yield ("head/", *outer, *(f"block_{index}/" for index in ends))
    yield ("head/", *outer, *inner)


def _input_ranges(graph: Path, chunks: Sequence[Features], takes_types: bool, seed: int) -> dict[str, Floats]:
    """Return the largest magnitudes of the columns of each product's input, over some windows: float32[m] each.

    The graph is one with `Kind.ranges`.
    """
    from qa_fast.infer.onnx_engine import session_of

    session = session_of(graph)
    names = [output.name for output in session.get_outputs()]
    bounds = np.cumsum([len(chunk) for chunk in chunks])
    ranges: dict[str, Floats] = {}
    for row in np.random.default_rng(seed).permutation(bounds[-1])[:_WINDOWS].tolist():
        number = int(np.searchsorted(bounds, row, side="right"))
        chunk = chunks[number]
        window = window_of(chunk, row - (bounds[number] - len(chunk)), takes_types)
        for name, value in zip(names, session.run(names, window), strict=True):
            ranges[name] = np.maximum(ranges[name], value) if name in ranges else value
    return ranges


def quantize(
    model: str | Path,
    shards_path: str | Path,
    split: str = "validation",
    *,
    most_lost: float = MOST_LOST,
    max_examples: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> Quantized:
    """Score a model in float32 and in int8, and write a recipe into its folder if int8 loses little.

    Args:
        model: A model folder.
        shards_path: A folder that `qa-fast featurize` made, with the model's tokenizer.
        split: Any split except train.
        most_lost: Points of F1 that int8 may lose.
        max_examples: Score a random choice of this many examples; None scores all.
        seed: Seed of that choice.
        progress: Called with the numbers of finished and of all features, for each scoring.
        say: Called with a line for each score.

    Raises:
        UserError: The model, the split or an option is invalid, or int8 loses more in every step.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if most_lost < 0:
        raise UserError(f"--max-loss must not be negative; received {most_lost}: give points of F1, such as 0.3")
    folder = resolve_model(model)
    if not Path(model).expanduser().is_dir():
        raise UserError(
            f"a model to quantize must be a local folder, since the recipe is written to it; received {str(model)!r}: "
            f"copy {folder} to a folder and name that"
        )
    config, key = readable_config(folder), model_key(folder)
    read_recipe(folder)  # refuses a file in its place that is no recipe
    shards = open_shards(shards_path)
    opened = scorable(shards, split)
    check_tokenizer(shards, folder)
    for name in dict.fromkeys([split, "train"] if "train" in shards.names else [split]):
        check_features(shards, shards.split(name), config, folder)
    from qa_fast.infer.onnx_engine import open_onnx

    rules = EvaluateConfig(max_examples=max_examples, seed=seed).over(read_settings(folder))

    def graph_in(rounding: Rounding | None) -> Path:
        return graph_of(folder, Kind("onnx", rounding=rounding), say, key)

    def scored(rounding: Rounding | None) -> EvaluationResult:
        engine = open_onnx(graph_in(rounding), config, "float32" if rounding is None else "int8")
        return evaluate_split(engine.predict, opened, rules, progress=progress)

    full = scored(None)
    say(f"float32: exact match {full.exact_match:.2f}, F1 {full.f1:.2f}")
    source = "train" if "train" in shards.names else split
    ranges_graph = graph_of(folder, Kind("onnx", ranges=True), say, key)
    ranges = _input_ranges(ranges_graph, shards.split(source).chunks, config.takes_types, seed)
    forget(ranges_graph)
    losses = []
    for kept in rungs(config):
        rounding = Rounding(kept, ranges)
        rounded = scored(rounding)
        named = ", ".join(dict.fromkeys(name.split("/")[-1] or name for name in kept))
        say(f"int8 (float32: {named}): exact match {rounded.exact_match:.2f}, F1 {rounded.f1:.2f}")
        losses.append(full.f1 - rounded.f1)
        if losses[-1] <= most_lost:
            recipe = Recipe(
                weights=key,
                rounding=rounding,
                f1=rounded.f1,
                exact_match=rounded.exact_match,
                float32_f1=full.f1,
                float32_exact_match=full.exact_match,
                split=split,
                examples=len(rounded.predictions),
            )
            alike = sum(a == b for a, b in zip(full.predictions, rounded.predictions, strict=True)) / len(full.ids)
            return Quantized(recipe, write_recipe(folder, recipe), alike)
        forget(graph_in(rounding))
    raise UserError(
        f"a model in int8 may lose at most {most_lost:g} F1; received {min(losses):.2f} at best, on "
        f"{len(full.predictions):,} questions of {split}: use float32 or bfloat16, or allow more with --max-loss"
    )
