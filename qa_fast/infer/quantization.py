"""How a model is read in int8, and what that costs: the recipe that `qa-fast quantize` leaves in a model folder.

The recipe is a few lines of JSON bound to the weights by their hash. The int8 graph itself is derived from the weights
like any other (`graphs`), so that a model folder stays one that transformers opens, and a recipe for weights of before
the last training is not followed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from qa_fast.errors import UserError

FILE = "quantization.json"


@dataclass(frozen=True)
class Recipe:
    """What is known of a model in int8.

    Attributes:
        weights: `graphs.model_key` of the model.
        kept: Products that stay in float32, by what their names begin with ("block_0/outer").
        f1: In percent, of the int8 model.
        exact_match: In percent.
        float32_f1: In percent, of the model as it is, on the same questions.
        float32_exact_match: In percent.
        split: That both were scored on.
        examples: How many of its questions.
    """

    weights: str
    kept: tuple[str, ...]
    f1: float
    exact_match: float
    float32_f1: float
    float32_exact_match: float
    split: str
    examples: int


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe in a model folder, or None.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        raw = orjson.loads(path.read_bytes())
        return Recipe(**raw | {"kept": tuple(raw["kept"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{FILE} must be as qa-fast quantize writes it; {path} is not ({error}): quantize again, or remove it"
        ) from None


def write_recipe(folder: Path, recipe: Recipe) -> Path:
    """Write the recipe, whole or not at all.

    Raises:
        UserError: The folder cannot be written.
    """
    path = folder / FILE
    temporary = folder / f".{FILE}.tmp"
    try:
        temporary.write_bytes(orjson.dumps(asdict(recipe), option=orjson.OPT_INDENT_2))
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"the model folder must be one that can be written; {folder}: {error.strerror}: copy it elsewhere first"
        ) from None
    return path
