"""What must hold before a run starts: data to train on, a model that fits it, a place to write to."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast import store
from qa_fast.builder.staging import not_writable
from qa_fast.errors import UserError, shown
from qa_fast.hub.facts import hub_id
from qa_fast.schema import Int64s
from qa_fast.shards import Shards, Split
from qa_fast.store import local_path
from qa_fast.train.config import TrainConfig, changed_options
from qa_fast.train.state import checkpoints, is_begun, sweep

# What `checkpoint.save_model` writes a model in, beside its place.
_HALF = re.compile(r"\..+-[a-z0-9_]{8}")
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
    for name in ("patience", "validate_every", "validation_examples"):
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


def prepare_out(out: Path, sources: Iterable[tuple[str, Path]], config: TrainConfig) -> None:
    """Make sure that OUT is new, or ours to go on in or replace; what killed runs left half written goes.

    Nothing is replaced yet: `clear_out` is for when all else is known to be good.

    Args:
        out: The folder; nobody else is at it.
        sources: Folders that the run reads, with their options; none may be replaced.
        config: All options.

    Raises:
        UserError: It is not.
    """
    used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if config.resume:
        folder = out / "training" / "checkpoints"
        # Checkpoints are removed behind everything else, so a run that still has one was cut off before.
        if (out / "training" / "metrics.json").is_file() and not checkpoints(folder):
            raise UserError(
                f"--resume goes on with a run that was cut off; the one in {str(out)!r} is finished: use the model, or "
                "train anew with --overwrite"
            )
        if not is_begun(folder):
            anew = "add --overwrite instead of it" if used else "leave --resume out"
            raise UserError(f"--resume needs a checkpoint in --out; {str(out)!r} has none: {anew} to start anew")
        _tidy(out, folder)
        return
    if not used:
        return
    here = out.resolve()
    for option, source in sources:
        if here == source.resolve():
            raise UserError(
                f"--out must be another folder than {option}; received {str(out)!r} for both: choose another --out"
            )
        if here in source.resolve().parents:
            raise UserError(
                f"--out must not hold what the run reads; {str(out)!r} holds {option} {str(source)!r}: choose another "
                "--out"
            )
    if not config.overwrite:
        raise UserError(
            f"the output folder must be new or empty; {str(out)!r} is not: choose another --out, go on with --resume, "
            "or replace it with --overwrite"
        )
    if not _made_by_train(out):
        raise UserError(
            f"--overwrite replaces folders that train made only; {str(out)!r} is not one: choose another --out, or "
            "remove it yourself"
        )


def _made_by_train(out: Path) -> bool:
    """Whether a run's record is there, or a run was killed before it had any."""
    training = out / "training"
    if not training.is_dir():
        return False
    record = {path.name for path in training.iterdir()}
    alone = [path.name for path in out.iterdir()] == [training.name]
    return bool(record & {"metrics.json", "checkpoints", "tensorboard"}) or (alone and not record)


def _tidy(out: Path, folder: Path) -> None:
    """Take away what killed runs left half written, in a folder that is held by this one."""
    try:
        sweep(folder)
        for beside in (out, out / "training"):
            store.sweep(beside, seconds=0)
        for half in out.iterdir():  # a model's files, on their way into it
            if _HALF.fullmatch(half.name) and store.is_folder(half) and store.names_in(half) in ([], ["model"]):
                store.remove_folder(half)
    except OSError as error:
        raise not_writable(out, error) from None


def clear_out(out: Path) -> None:
    """Remove all but the folder itself, by whose lock other runs are kept out; see `prepare_out`.

    Raises:
        UserError: It cannot be written.
    """
    try:
        for path in out.iterdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path)
    except OSError as error:
        raise not_writable(out, error) from None


def base_model(config: TrainConfig, shards: Shards) -> str | None:
    """The Hub id of the model that a run starts from; None for a local folder, whose path stays on this machine."""
    name = config.model or shards.manifest["model"]["name"]
    return hub_id(name, local=name != "minilm" and local_path(name).exists())


def check_unchanged(
    state: dict[str, Any], config: TrainConfig, data: dict[str, Any], model: str, teacher: dict[str, str | None] | None
) -> None:
    """Refuse to go on with other options, other data, another model or another teacher than a checkpoint's.

    Args:
        state: The checkpoint's.
        config: All options.
        data: See `opening.Material.identity`.
        model: See `opening.identity_of`.
        teacher: See `opening.Sources.teacher_key`.

    Raises:
        UserError: Something differs.
    """
    before = state.get("config")
    if not isinstance(before, dict):
        raise UserError(
            f"a checkpoint must say its run's options; received {shown(before)}: begin anew with --overwrite"
        )
    changed = changed_options(before, config)
    if changed:
        raise UserError(
            f"a resumed run must have the options it began with; changed: {'; '.join(changed)}: use the same, or begin "
            "anew with --overwrite"
        )
    if state.get("data") != data:
        raise UserError(
            "a resumed run must have the shards it began with; these are others: use the same, or begin anew with "
            "--overwrite"
        )
    if state.get("model") != model:
        raise UserError(
            "a resumed run must have the model it began with; the config.json of this one says another: use the same, "
            "or begin anew with --overwrite"
        )
    if state.get("teacher") != teacher:
        raise UserError(
            "a resumed run must have the teacher it began with; --teacher has other weights or another int8 "
            "recipe: use the same, or begin anew with --overwrite"
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
