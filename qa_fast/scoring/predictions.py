"""Files of predictions, in the formats that the official scripts read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from qa_fast.errors import UserError
from qa_fast.scoring.result import EvaluationResult
from qa_fast.store import check_output, is_folder, local_path, special, whole_file

PREDICTIONS = "predictions.json"
METRICS = "metrics.json"
_NBEST, _NA_PROB, _EVIDENCE = "nbest_predictions.json", "na_prob.json", "evidence.json"


def check_predictions(out: str | Path, *, reads: Iterable[str | Path] = (), overwrite: bool = False) -> None:
    """Refuse a folder in which files would be replaced; see `store.check_output`.

    Args:
        out: The folder for `write_predictions`, and for the metrics that the command adds.
        reads: Files and folders that the run reads.
        overwrite: Replace files that exist.
    """
    for name in (PREDICTIONS, _NBEST, _NA_PROB, _EVIDENCE, METRICS):
        check_output(local_path(str(out)) / name, "a file in --out", reads=reads, overwrite=overwrite)


def write_predictions(out: str | Path, result: EvaluationResult, *, overwrite: bool = False) -> list[Path]:
    """Write predictions.json, nbest_predictions.json and na_prob.json, each whole or not at all.

    `predictions.json` maps ids to texts and `na_prob.json` maps ids to probabilities (for `--na-prob-file` of the
    official v2 script with its default threshold of 1.0). `nbest_predictions.json` maps ids to the lists of
    `EvaluationResult.n_best`. With `require_all`, evidence.json maps ids to lists of texts, as MultiSpanQA's script
    takes them.

    Args:
        out: A folder, which is created if it does not exist.
        result: From `evaluate_split`.
        overwrite: Replace files that exist.

    Returns:
        The files.

    Raises:
        UserError: The folder cannot be created or written to, or a file there may not be replaced.
    """
    folder = local_path(str(out))
    check_predictions(folder, overwrite=overwrite)
    contents: dict[str, Iterable[tuple[str, Any]]] = {
        PREDICTIONS: zip(result.ids, result.predictions, strict=True),
        _NBEST: result.n_best(),
        _NA_PROB: zip(result.ids, result.no_answer_probability.tolist(), strict=True),
    }
    if result.evidence is not None:
        contents[_EVIDENCE] = zip(result.ids, result.evidence, strict=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, items in contents.items():
            with whole_file(folder / name, replace=overwrite) as temporary:
                _write_object(temporary, items)
    except OSError as error:
        raise UserError(
            f"the output must be a folder that can be written to; received {folder} ({error.strerror or error}): "
            "choose another"
        ) from None
    return [folder / name for name in contents]


def read_predictions(path: str | Path) -> dict[str, str]:
    """Read predictions that `write_predictions` wrote, or any JSON object of texts by id.

    Args:
        path: A folder with a predictions.json, or such a file.

    Returns:
        The answer of each question by id; "" is no answer.

    Raises:
        UserError: The file does not exist, or is no JSON object of texts.
    """
    path = local_path(str(path))
    file = path / PREDICTIONS if is_folder(path) else path
    kind = special(file)
    if kind is not None:
        raise UserError(f"predictions must be in a file; {file} is {kind}: save them to a file first")
    try:
        predictions = json.loads(file.read_bytes())  # UTF-8 or UTF-16, with or without a mark
    except OSError as error:
        raise UserError(
            f"predictions must be in a folder that 'qa-fast evaluate --out' wrote; {file}: "
            f"{error.strerror or error}: check the path"
        ) from None
    except (ValueError, RecursionError):
        predictions = None
    if not isinstance(predictions, dict) or not all(isinstance(text, str) for text in predictions.values()):
        raise UserError(
            f"predictions must be a JSON object of texts by question id; {file} is not: write it again with "
            "'qa-fast evaluate --out'"
        )
    return predictions


def _write_object(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    """Write a JSON object with one item a line, without holding all items in memory."""
    with path.open("wb") as file:
        separator = b"{\n"
        for key, value in items:
            file.write(separator + orjson.dumps(key) + b": " + orjson.dumps(value))
            separator = b",\n"
        file.write(b"{}\n" if separator == b"{\n" else b"\n}\n")
