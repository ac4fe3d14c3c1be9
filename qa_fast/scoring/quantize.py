"""Quantize a model to int8: score it in float32 and in int8, and write a recipe if int8 loses little.

Weights and activations of all products are rounded; the weights to eight bits if the processor can use them, otherwise
to seven. Before that, the widest columns of activations, as measured on some windows, are made narrower and the weights
larger. If the loss is too large, products stay in float32 step by step, the most costly first: the second product of
feed-forward, then the first and last block, then the first product of feed-forward. The result is a recipe
(`infer/recipe.py`). ONNX Runtime and OpenVINO round differently, so each step is scored in all that can be used here;
the recipe names those that lose little.

Rounding changes the answers to some questions, in either direction, so a mean over few questions decides by chance.
The loss is therefore judged by its interval: it must be below the limit as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qa_fast.answer.settings import read_settings
from qa_fast.errors import UserError
from qa_fast.infer.choose import Way, has_bfloat16, installed, sums_bytes, ways
from qa_fast.infer.graphs import Kind, forget, graph_of, model_key
from qa_fast.infer.open import open_graph, problem_of
from qa_fast.infer.recipe import FILE, Floats, Recipe, Rounding, read_recipe, write_recipe
from qa_fast.infer.streams import window_of
from qa_fast.model.config import EncoderConfig
from qa_fast.model.folder import readable_config
from qa_fast.schema import Features
from qa_fast.scoring.evaluation import Progress, evaluate_split, scorable
from qa_fast.scoring.intervals import Float64s, Interval, bootstrap_means, middle_95
from qa_fast.scoring.options import EvaluateConfig
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import open_shards
from qa_fast.shards.compatibility import check_features, check_tokenizer
from qa_fast.sources import resolve_model
from qa_fast.store import is_folder, local_path

# Points of F1; seeds of training differ by 0.2 to 0.5. SQuAD's 10,570 questions know a loss to about 0.3, so that a
# smaller limit could not be shown to be kept.
MOST_LOST = 0.5
# Number of windows on which ranges of activations are measured.
_WINDOWS = 64
_RESAMPLES = 10_000
# Larger numbers of questions are not named: no split has so many.
_MOST_QUESTIONS = 1_000_000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Quantized:
    """A model with a recipe for int8.

    Attributes:
        recipe: The recipe.
        path: Its file.
        questions_alike: Share of questions that float32 and that engine answer with the same text.
        loss: The F1 that int8 loses, in the first of the recipe's engines.
    """

    recipe: Recipe
    path: Path
    questions_alike: float
    loss: Loss


@dataclass(frozen=True)
class Loss:
    """The F1 that int8 loses on n questions.

    Attributes:
        points: The loss in points; below 0 if int8 is better.
        interval: Its 95 % interval in points.
        questions: n.
    """

    points: float
    interval: Interval
    questions: int

    def __str__(self) -> str:
        return f"{self.points:.2f} F1 (95 % interval {self.interval[0]:.2f} to {self.interval[1]:.2f})"

    def needed(self, most: float) -> int | None:
        """Return about how many questions decide whether at most `most` points are lost; None means over a million.

        The width of an interval falls with the square root of the number of questions. While it is wide, the loss
        itself is hardly known, so the number is that which is enough if nothing is lost. Later it is that which is
        enough if the loss stays as it is.
        """
        half = (self.interval[1] - self.interval[0]) / 2
        distance = most if half > most > 0 else abs(most - self.points)
        if half**2 * self.questions >= distance**2 * _MOST_QUESTIONS:
            return None
        # Rounded up to two digits: more would pretend to be exact.
        number = max(math.ceil(self.questions * (half / distance) ** 2), self.questions + 1)
        unit = 10 ** max(len(str(number)) - 2, 0)
        return -(-number // unit) * unit


def loss_of(full: Float64s, rounded: Float64s, seed: int = 0) -> Loss:
    """Return the F1 that int8 loses, with its interval from a paired bootstrap over questions.

    Args:
        full: float64[n], F1 in [0, 1] of each question in float32.
        rounded: float64[n], F1 of the same questions in int8.
        seed: Seed of the resamples.

    Examples:
        >>> loss = loss_of(full.scores_of(full.predictions)[1], rounded.scores_of(rounded.predictions)[1])
        >>> loss.points, loss.interval, loss.needed(0.3)
    """
    lost = full - rounded
    # One question more that is lost and one that is gained, as Agresti and Caffo (2000) do for two shares: where all
    # questions are answered alike, the interval of the bootstrap would be a point, however few they are.
    means = bootstrap_means(np.append(lost, [1.0, -1.0])[:, None], _RESAMPLES, seed)[:, 0]
    low, high = middle_95(means)
    return Loss(100 * float(lost.mean()), (100 * low, 100 * high), len(lost))


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

    It loses little if the 95 % interval of its loss is below the limit.

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
        UserError: The model, the split or an option is invalid, int8 loses more in every step, or the questions are too
            few to show that it does not.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if not most_lost >= 0:  # NaN, too
        raise UserError(f"--max-loss must be at least 0; received {most_lost}: give points of F1, such as 0.3")
    folder = resolve_model(model)
    if not is_folder(local_path(str(model))):
        raise UserError(
            f"a model to quantize must be a local folder, since the recipe is written to it; received {str(model)!r}: "
            f"copy {folder} to a folder and name that"
        )
    config, key = readable_config(folder), model_key(folder)
    earlier = read_recipe(folder)  # refuses a file in its place that is no recipe
    shards = open_shards(shards_path)
    opened = scorable(shards, split)
    check_tokenizer(shards, folder)
    for name in dict.fromkeys([split, "train"] if "train" in shards.names else [split]):
        check_features(shards, shards.split(name), config, folder)
    rules = EvaluateConfig(max_examples=max_examples, seed=seed).over(read_settings(folder))

    def graph_in(way: Way, rounding: Rounding | None) -> Path:
        return graph_of(folder, Kind(way.engine, rounding=rounding), say, key)

    def scored(way: Way, rounding: Rounding | None = None) -> EvaluationResult:
        engine = open_graph(way, graph_in(way, rounding), config)
        return evaluate_split(engine.predict, opened, rules, progress=progress)

    able = ways("auto", "int8", installed(), scored=("openvino", "onnx"), bfloat16=has_bfloat16() and sums_bytes())
    full = scored(Way("onnx", "float32"))
    full_overlap = full.scores_of(full.predictions)[1]
    say(f"float32: exact match {full.exact_match:.2f}, F1 {full.f1:.2f}")
    source = "train" if "train" in shards.names else split
    ranges_graph = graph_of(folder, Kind("onnx", ranges=True), say, key)
    ranges = _input_ranges(ranges_graph, shards.split(source).chunks, config.takes_types, seed)
    forget(ranges_graph)
    losses = []
    for kept in rungs(config):
        rounding = Rounding(kept, ranges, 8 if sums_bytes() else 7)
        named = ", ".join(dict.fromkeys(name.split("/")[-1] or name for name in kept))
        passed: dict[str, tuple[EvaluationResult, Loss]] = {}
        for way in able:
            try:
                rounded = scored(way, rounding)
            except UserError:
                raise
            except Exception as error:  # an installed OpenVINO that does not work here
                if way.engine == "onnx":
                    raise
                say(f"this engine does not work here: {problem_of(way, error)}")
                continue
            losses.append(loss_of(full_overlap, rounded.scores_of(rounded.predictions)[1], seed))
            say(
                f"{way} (not rounded: {named}): exact match {rounded.exact_match:.2f}, F1 {rounded.f1:.2f}, "
                f"loses {losses[-1]}"
            )
            if losses[-1].interval[1] < most_lost:
                passed[way.engine] = rounded, losses[-1]
            else:
                forget(graph_in(way, rounding))
        if passed:
            rounded, loss = next(iter(passed.values()))
            recipe = Recipe(
                weights=key,
                rounding=rounding,
                f1=rounded.f1,
                exact_match=rounded.exact_match,
                float32_f1=full.f1,
                float32_exact_match=full.exact_match,
                split=split,
                examples=len(rounded.predictions),
                engines=tuple(passed),
            )
            alike = sum(a == b for a, b in zip(full.predictions, rounded.predictions, strict=True)) / len(full.ids)
            return Quantized(recipe, write_recipe(folder, recipe), alike, loss)
    assert opened.examples is not None
    if earlier is not None and earlier.weights == key:
        say(f"{folder / FILE} of an earlier run still allows int8, as this run writes none: remove it to end that")
    raise _refusal(losses, most_lost, split, len(opened.examples))


def _refusal(losses: Sequence[Loss], most: float, split: str, examples: int) -> UserError:
    """Return the error if no step is known to lose at most `most` points; `examples` is the size of the split."""
    best = min(losses, key=lambda loss: loss.interval[1])
    allowed = f"allow more with --max-loss, such as {math.ceil(10 * best.interval[1] + 0.5) / 10:g}"
    on = f"{best.questions:,} questions of {split}"
    if all(loss.interval[0] > most for loss in losses):
        return UserError(
            f"a model in int8 may lose at most {most:g} F1; received {best} at best, on {on}: use float32 or bfloat16, "
            f"or {allowed}"
        )
    number = best.needed(most)
    if number is None:
        advice = f"more than {_MOST_QUESTIONS:,} questions would decide it, so {allowed}"
    elif number <= examples:
        advice = f"score about {number:,} questions (--max-examples; {split} has {examples:,}), or {allowed}"
    else:
        advice = (
            f"about {number:,} questions would decide it, {split} has {examples:,}: score a larger split, or {allowed}"
        )
    return UserError(
        f"questions must be enough to show whether int8 loses at most {most:g} F1; {on} cannot decide it, int8 loses "
        f"{best} on them: {advice}"
    )
