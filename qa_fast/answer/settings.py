"""The options of answering that belong to a model: a small JSON file in its folder, `qa_fast_answering.json`.

`qa-fast train` writes the windows that it trained with, and whether the split that it scored, or else the one that it
learnt from, has questions without an answer. `qa-fast evaluate --keep` writes the options that it scored with, and a
threshold for no answer, and `qa-fast calibrate --keep` the calibration, which turns scores into the probability that an
answer is right. Every way of answering takes them as its defaults, see `AnswerOptions.over`. The file may come from
anybody, so that its values are checked like those of a user.

A threshold and a calibration are chosen for the scores of certain weights, of which the file has a hash. If the folder
holds other weights, such as those of a later training with torch, both are left out and a line says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import AnswerOptions
from qa_fast.errors import UserError, shown
from qa_fast.model.fields import Fields
from qa_fast.model.files import checked_files, plain_file, read_object
from qa_fast.model.folder import WEIGHTS, folder_config
from qa_fast.model.identity import are_other_weights, hash_of_weights
from qa_fast.progress import on_stderr
from qa_fast.store import remove, write_json

ANSWERING = "qa_fast_answering.json"
# What whoever asks wants to see; it does not change which answer is the best.
_WISHES = ("top_k", "evidence", "overlap_threshold")
_KEPT = tuple(field.name for field in dataclasses.fields(AnswerOptions) if field.name not in _WISHES)
# Values that belong to the scores of certain weights, and the name of the hash of those weights in the file.
_OF_WEIGHTS = ("null_threshold", "calibration")
_HASH = "weights"


def max_positions_of(folder: Path) -> int:
    """Return the longest input of a model folder in tokens, from its config.json and tokenizer_config.json."""
    config = folder_config(folder)
    tokenizer = Fields(read_object(folder, "tokenizer_config.json") or {}, "tokenizer_config.json")
    if tokenizer.raw.get("model_max_length") is None:
        return config.max_length
    return int(min(config.max_length, tokenizer.number("model_max_length", 1, least=1)))


def windows_of(features: Mapping[str, Any], max_positions: int) -> AnswerOptions:
    """Return the options with which answering cuts the windows of shards. Questions that fit these are read whole.

    Args:
        features: The options of the shards, `config` in their index.
        max_positions: Longest input of the model in tokens.
    """
    length = min(features["max_length"], max_positions)
    return AnswerOptions(
        max_seq_len=length, doc_stride=min(features["doc_stride"], length - 1), max_question_len=length
    )


def read_settings(folder: Path) -> AnswerOptions:
    """Return a model's own options of answering; None stands for those that it has none of.

    A threshold or a calibration of other weights than the folder's is left out, and a line on standard error says so.

    Args:
        folder: The model folder.

    Raises:
        UserError: The file is damaged, or a value is unknown, of another type or out of bounds.

    Examples:
        >>> options = AnswerOptions(top_k=3).over(read_settings(folder))
    """
    raw = read_object(folder, ANSWERING)
    if raw is None:
        return AnswerOptions()
    raw = dict(raw)
    of_weights, chosen_for = [name for name in _OF_WEIGHTS if raw.get(name) is not None], raw.pop(_HASH, None)
    unknown = [name for name in raw if name not in _KEPT]
    if unknown:
        raise UserError(
            f"{ANSWERING} must hold options that this version knows ({', '.join(_KEPT)}); received "
            f"{shown(unknown[0])} in {str(folder)!r}: update qa-fast, or remove the file"
        )
    try:
        if raw.get("calibration") is not None:
            raw = {**raw, "calibration": Calibration.of_json(raw["calibration"])}
        options = AnswerOptions(**raw).over(AnswerOptions())  # a threshold alone allows no answer here, too
        options.resolve(max_positions_of(folder), special_tokens=0)
        if of_weights and are_other_weights(folder, chosen_for):
            options = dataclasses.replace(options, **dict.fromkeys(_OF_WEIGHTS))
            on_stderr(
                f"{ANSWERING}: {' and '.join(of_weights)} in {str(folder)!r} were chosen for weights that have been "
                "replaced since, and are left out: choose them again (evaluate --keep, calibrate --keep)"
            )
    except UserError as error:
        raise UserError(f"{error} (it is in {str(folder / ANSWERING)!r}, which may also be removed)") from None
    return options


def kept_values(options: AnswerOptions) -> dict[str, Any]:
    """Return the options that a model's folder holds, as JSON-ready values by name; None and wishes are left out."""
    values = {name: getattr(options, name) for name in _KEPT}
    values["calibration"] = options.calibration and options.calibration.to_json()
    return {name: value for name, value in values.items() if value is not None}


def write_settings(folder: Path, options: AnswerOptions) -> Path:
    """Write a model's own options of answering, in place of those that it has.

    Args:
        folder: The model folder.
        options: The options; what a question wishes to see, such as `top_k`, is not written.

    Returns:
        The file. There is none if all options are None.

    Raises:
        UserError: The file is no plain file of the folder, or cannot be written.
    """
    plain_file(folder, ANSWERING)
    path, values = folder / ANSWERING, kept_values(options)
    if any(name in values for name in _OF_WEIGHTS) and checked_files(folder, WEIGHTS):
        values[_HASH] = hash_of_weights(folder)
    try:
        if values:
            write_json(path, values)
        else:
            remove(path)
    except OSError as error:
        raise UserError(
            f"a model's options of answering are written into its folder; {folder}: {error.strerror or error}: copy "
            "the model to a folder that can be written"
        ) from None
    return path
