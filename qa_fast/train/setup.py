"""What must hold before a run starts: data to train on, a model that fits it, a place to write to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.hub.facts import hub_id
from qa_fast.schema import Int64s
from qa_fast.shards import Shards, Split
from qa_fast.store import local_path
from qa_fast.train.config import TrainConfig, changed_options
from qa_fast.train.state import checkpoints

# Options that name a model folder.
_MODELS = ("model", "teacher", "init_head")


def select(split: Split, config: TrainConfig) -> Int64s:
    """int64: the features to train on, all those of the chosen examples."""
    example = np.concatenate([chunk.example_index for chunk in split.chunks] or [np.zeros(0, np.int32)])
    if not len(example):
        raise UserError("the split named train must hold features; it has none: featurize a source with examples")
    return chosen_rows(example, config)


def chosen_rows(example: npt.NDArray[np.integer], config: TrainConfig) -> Int64s:
    """int64: the features of the examples that `max_examples` chooses, increasing; `example` is each feature's."""
    if config.max_examples is None:
        return np.arange(len(example))
    distinct = np.unique(example)
    if config.max_examples >= len(distinct):
        return np.arange(len(example))
    chosen = np.random.default_rng(config.seed).permutation(distinct)[: config.max_examples]
    return np.flatnonzero(np.isin(example, chosen))


def validation_split(shards: Shards, config: TrainConfig) -> Split | None:
    """The split to score after each epoch, None where there is none.

    Raises:
        UserError: It cannot be scored, or an option needs one.
    """
    split = _validation_split(shards, config)
    for name in ("patience", "validate_every"):
        if split is None and getattr(config, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} needs a split to validate on; {shards.folder} has "
                f"{', '.join(shards.names)} and --validation is {config.validation!r}: featurize one along, or leave "
                "the option out"
            )
    return split


def _validation_split(shards: Shards, config: TrainConfig) -> Split | None:
    if not config.validation or config.validation not in shards.names:
        if config.validation and config.validation != TrainConfig.validation:
            raise UserError(
                f"--validation must be one of the shards' splits; received {config.validation!r}, there are "
                f"{', '.join(shards.names)}"
            )
        return None
    split = shards.split(config.validation)
    if split.examples is None:
        raise UserError(
            f"--validation must be a split with examples; {config.validation!r} has none (train never has): choose "
            "another"
        )
    return split if len(split) else None


def prepare_out(out: Path, sources: Mapping[str, Path], config: TrainConfig) -> None:
    """Make sure that OUT is new, or ours to go on in or replace.

    Args:
        out: The folder.
        sources: Model folders that the run reads, by their option; none may be replaced.
        config: All options.

    Raises:
        UserError: It is not.
    """
    used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if config.resume:
        if (out / "training" / "metrics.json").is_file():
            raise UserError(
                f"--resume goes on with a run that was cut off; the one in {str(out)!r} is finished: use the model, or "
                "train anew with --overwrite"
            )
        if not checkpoints(out / "training" / "checkpoints"):
            raise UserError(
                f"--resume needs a checkpoint in --out; {str(out)!r} has none: leave --resume out to start anew"
            )
        return
    for option, source in sources.items():
        if used and out.resolve() == source.resolve():
            raise UserError(
                f"--out must be another folder than {option}; received {str(out)!r} for both: choose another --out"
            )
    if not used:
        return
    if not config.overwrite:
        raise UserError(
            f"the output folder must be new or empty; {str(out)!r} is not: choose another --out, go on with --resume, "
            "or replace it with --overwrite"
        )
    if not (out / "training").is_dir():
        raise UserError(
            f"--overwrite replaces folders that train made only; {str(out)!r} is not one: choose another --out, or "
            "remove it yourself"
        )
    shutil.rmtree(out)


def base_model(config: TrainConfig, shards: Shards) -> str | None:
    """The Hub id of the model that a run starts from; None for a local folder, whose path stays on this machine."""
    name = config.model or shards.manifest["model"]["name"]
    return hub_id(name, local=name != "minilm" and local_path(name).exists())


def check_unchanged(state: dict[str, Any], config: TrainConfig, data: dict[str, Any]) -> None:
    """Refuse to go on with other options or other data than a checkpoint's."""
    changed = changed_options(state["config"], config)
    if changed:
        raise UserError(
            f"a resumed run must have the options it began with; changed: {'; '.join(changed)}: use the same, or begin "
            "anew with --overwrite"
        )
    if state["data"] != data:
        raise UserError(
            "a resumed run must have the shards it began with; these are others: use the same, or begin anew with "
            "--overwrite"
        )


def check_same(processes: list[dict[str, Any]]) -> None:
    """Refuse a job whose processes would not do the same.

    Args:
        processes: Of each, "options", "data", "model" and "teacher": of models what they are, for where they lie may
            differ.
    """
    facts = ("data", "model", "teacher")
    for number, other in enumerate(processes[1:], 1):
        options = [
            name
            for name, value in processes[0]["options"].items()
            if name not in ("out", *_MODELS) and other["options"].get(name) != value
        ]
        given = [name for name in _MODELS[1:] if _is_given(name, other) != _is_given(name, processes[0])]
        differing = [*options, *given, *(name for name in facts if other.get(name) != processes[0].get(name))]
        if differing:
            raise UserError(
                "all processes of a job must have the same options, shards and model; process "
                f"{number} differs from process 0 in {', '.join(differing)}: give each the same"
            )


def _is_given(option: str, process: dict[str, Any]) -> bool:
    return process["options"].get(option) is not None
