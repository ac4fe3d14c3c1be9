"""Answers by question id in files: written in the formats that the official scripts read, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from qa_fast.errors import UserError
from qa_fast.scoring.result import EvaluationResult
from qa_fast.store import whole_file

PREDICTIONS = "predictions.json"


def write_predictions(out: str | Path, result: EvaluationResult) -> list[Path]:
    """Write predictions.json, nbest_predictions.json and na_prob.json, each whole or not at all.

    `predictions.json` maps ids to texts, `na_prob.json` to probabilities (the official v2 script's `-n`, whose default
    threshold 1.0 expects them), `nbest_predictions.json` to lists as `EvaluationResult.n_best` gives them.

    Args:
        out: Folder, made where it is missing.
        result: What `evaluate_split` gave.

    Returns:
        The files.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    folder = Path(out).expanduser()
    probability = result.no_answer_probability.tolist()
    contents: dict[str, Iterable[tuple[str, Any]]] = {
        PREDICTIONS: zip(result.ids, result.predictions, strict=True),
        "nbest_predictions.json": result.n_best(),
        "na_prob.json": zip(result.ids, probability, strict=True),
    }
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, items in contents.items():
            with whole_file(folder / name) as temporary:
                _write_object(temporary, items)
            written.append(folder / name)
    except OSError as error:
        raise UserError(
            f"the output must be a folder that can be written to; {folder}: {error.strerror or error}: choose another"
        ) from None
    return written


def read_predictions(path: str | Path) -> dict[str, str]:
    """The answers that `write_predictions` wrote, or any JSON object of texts by id.

    Args:
        path: Folder with a predictions.json, or such a file.

    Returns:
        Answer by question id; "" is no answer.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    path = Path(path).expanduser()
    file = path / PREDICTIONS if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"predictions are read from a folder that 'qa-fast evaluate --out' wrote; {file}: "
            f"{error.strerror or error}: check the path"
        ) from None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UserError(
            f"predictions must be a JSON object of texts by question id; {file} is none: write it again with "
            "'qa-fast evaluate --out'"
        )
    return found


def _write_object(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    """A JSON object, one item a line, without holding all of them."""
    with path.open("wb") as file:
        separator = b"{\n"
        for key, value in items:
            file.write(separator + orjson.dumps(key) + b": " + orjson.dumps(value))
            separator = b",\n"
        file.write(b"{}\n" if separator == b"{\n" else b"\n}\n")
