"""The recipe for int8 that `qa-fast quantize` writes into a model folder: the rounding, and the scores.

The recipe is a small file with a hash of the weights; a recipe for other weights is ignored. The int8 graph is derived
from the weights like any other (`graphs`), so that transformers can still open the folder.
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

from qa_fast.errors import UserError, shown
from qa_fast.model.files import plain_file
from qa_fast.store import whole_file

FILE = "quantization.safetensors"
_KEY = "qa_fast"
# How much of a column's range moves from the activations to the weights. From 0.5 to 1, 0.8 gave the closest logits.
SMOOTHING = 0.8
_LEAST = 1e-5
# No value of GELU is below, with or without tanh.
LEAST_GELU = -0.1701
_SCORES = ("f1", "exact_match", "float32_f1", "float32_exact_match")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rounding:
    """The rounding of a model's products to int8.

    Attributes:
        kept: First parts of the names of products that stay in float32 ("block_0/outer").
        ranges: For each product ("block_0/outer"), the largest magnitudes of its inputs' columns, float32[m].
        weight_bits: Bits of the weights, 7 or 8. Eight are closer, and only for processors that sum products of bytes
            without overflow (`choose.sums_bytes`).
    """

    kept: tuple[str, ...]
    ranges: Mapping[str, Floats]
    weight_bits: int = 7

    @property
    def digest(self) -> str:
        """Return a hash of the rounding, in hex."""
        state = xxhash.xxh3_64(orjson.dumps([self.kept, self.weight_bits]))
        for name in sorted(self.ranges):
            state.update(name.encode())
            state.update(np.ascontiguousarray(self.ranges[name]).tobytes())
        return state.hexdigest()

    @property
    def whole(self) -> bool:
        """Return whether no product but the head's stays in float32."""
        return all(name.startswith("head/") for name in self.kept)

    def rounds(self, product: str) -> bool:
        """Return whether a product is computed in int8."""
        return product in self.ranges and not product.startswith(self.kept)

    def scales(self, product: str, kernel: Floats, least: float = 0.0) -> Floats:
        """Return the divisors of the columns of a product's input, which are factors of the kernel's rows.

        A few columns of activations are ten times as large as the others, so that one scale for all columns would
        leave few steps for the others. Source: SmoothQuant (Xiao et al. 2023), equation 4.

        Args:
            product: The product's name.
            kernel: float32[m, n].
            least: What is taken from the input before.

        Returns:
            float32[m].

        Raises:
            UserError: The ranges have another size.
        """
        inputs, weights = self.ranges[product] - np.float32(least), np.abs(kernel).max(axis=1)
        if inputs.shape != weights.shape:
            raise UserError(
                f"{FILE} must belong to the weights; received {inputs.shape} ranges for {product}, which has "
                f"{weights.shape} inputs: quantize again, or remove it"
            )
        scales = np.maximum(inputs, _LEAST) ** SMOOTHING / np.maximum(weights, _LEAST) ** (1 - SMOOTHING)
        return (scales / np.exp(np.log(scales).mean())).astype(np.float32)

    def step(self, product: str, scales: Floats, least: float = 0.0) -> float:
        """Return the distance of neighbouring numbers of 8 bits for a product's input, fixed by ranges and `scales`."""
        return max(float(((self.ranges[product] - least) / scales).max()), _LEAST) / (255 if least else 127)


@dataclass(frozen=True)
class Recipe:
    """The rounding of a model to int8, and its scores.

    Attributes:
        weights: `graphs.model_key` of the model.
        rounding: How the products are rounded.
        f1: F1 of the int8 model, in percent.
        exact_match: Exact match of the int8 model, in percent.
        float32_f1: F1 of the float32 model on the same questions, in percent.
        float32_exact_match: Exact match of the float32 model, in percent.
        split: The split on which both were scored.
        examples: Number of questions.
        engines: The engines in which the int8 model was scored and loses little, the fastest first. The scores are
            those of the first.
    """

    weights: str
    rounding: Rounding
    f1: float
    exact_match: float
    float32_f1: float
    float32_exact_match: float
    split: str
    examples: int
    engines: tuple[str, ...] = ("onnx",)

    def facts(self) -> dict[str, Any]:
        """Everything but the ranges, for JSON."""
        facts = {name: value for name, value in vars(self).items() if name != "rounding"}
        return facts | _of_rounding(self.rounding)


def _of_rounding(rounding: Rounding) -> dict[str, Any]:
    """Everything of a rounding but the ranges, for JSON."""
    return {"kept": list(rounding.kept), "weight_bits": rounding.weight_bits}


def save(path: Path, rounding: Rounding, facts: Mapping[str, Any]) -> None:
    """Write a rounding together with other facts."""
    from safetensors.numpy import save as serialized

    metadata = {_KEY: orjson.dumps(dict(facts) | _of_rounding(rounding)).decode()}
    columns = {name: np.ascontiguousarray(value) for name, value in rounding.ranges.items()}
    path.write_bytes(serialized(columns, metadata))


def load(path: Path) -> tuple[Rounding, dict[str, Any]]:
    """Read a file of `save`.

    Raises:
        UserError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = dict(orjson.loads(file.metadata()[_KEY]))
            ranges = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
            kept, bits = tuple(facts.pop("kept")), facts.pop("weight_bits", 7)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, repr(error)) from None
    if not all(isinstance(name, str) for name in kept):
        raise _damaged(path, f"kept is {shown(kept)}")
    if bits not in (7, 8):
        raise _damaged(path, f"weight_bits is {shown(bits)}")
    for name, value in ranges.items():
        if value.dtype != np.float32 or value.ndim != 1 or not (np.isfinite(value) & (value >= 0)).all():
            raise _damaged(path, f"{shown(name)} does not hold magnitudes")
    return Rounding(kept, ranges, bits), facts


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{FILE} must be as qa-fast quantize writes it; {path} is not ({shown(reason, 200)}): remove it, and "
        "quantize again"
    )


def read_recipe(folder: Path) -> Recipe | None:
    """Return the recipe in a model folder, or None.

    Raises:
        UserError: The file is damaged.
    """
    path = plain_file(folder, FILE)
    if path is None:
        return None
    rounding, facts = load(path)
    engines = facts.pop("engines", ["onnx"])  # older recipes were scored in ONNX Runtime
    kinds = {"weights": str, "split": str, "examples": int} | dict.fromkeys(_SCORES, float)
    if {name: type(value) for name, value in facts.items()} != kinds:
        raise _damaged(path, f"it holds {shown(facts)}")
    if not isinstance(engines, list) or not all(isinstance(name, str) for name in engines):
        raise _damaged(path, f"engines is {shown(engines)}")
    return Recipe(rounding=rounding, engines=tuple(engines), **facts)


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
            f"the model folder must be writable; {folder}: {error.strerror}: copy it elsewhere first"
        ) from None
    return path
