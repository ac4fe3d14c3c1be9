"""How a model is read in int8, and what that costs: the recipe that `qa-fast quantize` leaves in a model folder.

The recipe is a small file bound to the weights by their hash. The int8 graph itself is derived from the weights like
any other (`graphs`), so that a model folder stays one that transformers opens, and a recipe for weights of before the
last training is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import xxhash

from qa_fast.errors import UserError
from qa_fast.store import whole_file

FILE = "quantization.safetensors"
_KEY = "qa_fast"
# How much of a column's range goes from the activations into the weights. Of 0.5 to 1, 0.8 was nearest in logits.
SMOOTHING = 0.8
_LEAST = 1e-5

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rounding:
    """How the products of a model are rounded to int8.

    Attributes:
        kept: Those that stay in float32, by what their names begin with ("block_0/outer").
        ranges: For each product ("block_0/outer"), the largest magnitudes of its inputs' columns, float32[m].
    """

    kept: tuple[str, ...]
    ranges: Mapping[str, Floats]

    @property
    def digest(self) -> str:
        """Of all of it, in hex."""
        state = xxhash.xxh3_64(orjson.dumps(self.kept))
        for name in sorted(self.ranges):
            state.update(name.encode())
            state.update(np.ascontiguousarray(self.ranges[name]).tobytes())
        return state.hexdigest()

    def rounds(self, product: str) -> bool:
        """Whether a product is computed in int8."""
        return product in self.ranges and not product.startswith(self.kept)

    def scales(self, product: str, kernel: Floats) -> Floats:
        """float32[m]: what the columns of a product's input are divided by, and the kernel's rows multiplied.

        A few columns of what a norm or an activation gives are ten times as large as the others, and one scale for all
        would leave the others a few steps. Source: SmoothQuant (Xiao et al. 2023), equation 4.

        Args:
            product: Its name.
            kernel: float32[m, n].
        """
        inputs, weights = self.ranges[product], np.abs(kernel).max(axis=1)
        scales = np.maximum(inputs, _LEAST) ** SMOOTHING / np.maximum(weights, _LEAST) ** (1 - SMOOTHING)
        return (scales / np.exp(np.log(scales).mean())).astype(np.float32)


@dataclass(frozen=True)
class Recipe:
    """What is known of a model in int8.

    Attributes:
        weights: `graphs.model_key` of the model.
        rounding: How its products are rounded.
        f1: In percent, of the int8 model.
        exact_match: In percent.
        float32_f1: In percent, of the model as it is, on the same questions.
        float32_exact_match: In percent.
        split: That both were scored on.
        examples: How many of its questions.
    """

    weights: str
    rounding: Rounding
    f1: float
    exact_match: float
    float32_f1: float
    float32_exact_match: float
    split: str
    examples: int

    def facts(self) -> dict[str, Any]:
        """Everything but the ranges, for JSON."""
        facts = {name: value for name, value in vars(self).items() if name != "rounding"}
        return facts | {"kept": list(self.rounding.kept)}


def save(path: Path, rounding: Rounding, facts: Mapping[str, Any]) -> None:
    """Write a rounding with what else is known of it."""
    from safetensors.numpy import save as serialized

    metadata = {_KEY: orjson.dumps(dict(facts) | {"kept": list(rounding.kept)}).decode()}
    columns = {name: np.ascontiguousarray(value) for name, value in rounding.ranges.items()}
    path.write_bytes(serialized(columns, metadata))


def load(path: Path) -> tuple[Rounding, dict[str, Any]]:
    """What `save` wrote.

    Raises:
        UserError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = orjson.loads(file.metadata()[_KEY])
            names = file.keys()
            return Rounding(tuple(facts.pop("kept")), {name: file.get_tensor(name) for name in names}), facts
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{FILE} must be as qa-fast quantize writes it; {path} is not ({error!r}): quantize again, or remove it"
        ) from None


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe in a model folder, or None.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    rounding, facts = load(path)
    try:
        return Recipe(rounding=rounding, **facts)
    except TypeError as error:
        raise UserError(
            f"{FILE} must be as qa-fast quantize writes it; {path} is not ({error}): quantize again, or remove it"
        ) from None


def write_recipe(folder: Path, recipe: Recipe) -> Path:
    """Write the recipe, whole or not at all.

    Raises:
        UserError: The folder cannot be written.
    """
    path = folder / FILE
    facts = {name: value for name, value in vars(recipe).items() if name != "rounding"}
    try:
        with whole_file(path, make_folder=False) as temporary:
            save(temporary, recipe.rounding, facts)
    except OSError as error:
        raise UserError(
            f"the model folder must be one that can be written; {folder}: {error.strerror}: copy it elsewhere first"
        ) from None
    return path
