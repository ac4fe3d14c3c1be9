"""Checks before a run starts: data to train on, and an output folder that may be written. Imports no framework."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast import store, temporary
from qa_fast.builder.staging import not_writable
from qa_fast.errors import UserError, shown
from qa_fast.hub.facts import hub_id
from qa_fast.options import flag_of
from qa_fast.schema import Int64s
from qa_fast.shards import Shards, Split
from qa_fast.store import local_path
from qa_fast.train.config import TrainConfig, changed_options
from qa_fast.train.state import checkpoints, has_checkpoints, sweep

# The temporary folder in which `checkpoint.save_model` writes a model, beside its final place.
_PARTIAL_MODEL = re.compile(r"\..+-[a-z0-9_]{8}")
_MODEL_OPTIONS = ("model", "teacher", "init_head")


def chosen_rows(example: npt.NDArray[np.integer], config: TrainConfig) -> Int64s:
    """Return int64, increasing, the features of the examples that `max_examples` chooses.

    Args:
        example: The example of each feature.
        config: `max_examples` and `seed` count.
    """
    distinct = np.unique(example)
    if config.max_examples is None or config.max_examples >= len(distinct):
        return np.arange(len(example))
    chosen = np.random.default_rng(config.seed).permutation(distinct)[: config.max_examples]
    return np.flatnonzero(np.isin(example, chosen))


def validation_split(shards: Shards, config: TrainConfig) -> Split | None:
    """Return the split to score after each epoch, or None.

    Raises:
        UserError: The split cannot be scored, or an option needs one.
    """
    name = config.validation
    split = shards.split(name) if name in shards.names else None
    if split is None and name not in ("", TrainConfig.validation):
        raise UserError(
            f"--validation must be one of the shards' splits; received {name!r}, the shards have "
            f"{', '.join(shards.names)}: choose one of those"
        )
    if split is not None and split.examples is None:
        raise UserError(
            f"--validation must be a split with examples; {name!r} has none (train never has): choose another"
        )
    if split is not None and len(split):
        return split
    for option in ("patience", "validate_every", "validation_examples"):
        if getattr(config, option) is not None:
            raise UserError(
                f"{flag_of(option)} needs a split to validate on; {shards.folder} has {', '.join(shards.names)} and "
                f"--validation is {name!r}: featurize a source with such a split, or leave the option out"
            )
    return None


def prepare_out(out: Path, sources: Iterable[tuple[str, Path]], config: TrainConfig) -> None:
    """Check that OUT is new, or a run's folder to resume or replace; remove what killed runs wrote in part.

    Nothing is replaced yet: `clear_out` does that when everything else is validated.

    Args:
        out: The folder; the caller holds its lock.
        sources: Folders that the run reads, with their options; none of them may be replaced.
        config: All options.

    Raises:
        UserError: OUT cannot be used.
    """
    check_out(out, sources, config)
    if config.resume:
        _tidy(out, out / "training" / "checkpoints")


def check_out(out: Path, sources: Iterable[tuple[str, Path]], config: TrainConfig) -> None:
    """Check OUT as `prepare_out` does, and change nothing."""
    used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if config.resume:
        folder = out / "training" / "checkpoints"
        # A finished run removes its checkpoints last, so a run that still has one was interrupted before its end.
        if (out / "training" / "metrics.json").is_file() and not checkpoints(folder):
            raise UserError(
                f"--resume continues an interrupted run; the one in {str(out)!r} is finished: use the model, or train "
                "again with --overwrite"
            )
        if not has_checkpoints(folder):
            advice = "replace --resume by --overwrite" if used else "leave --resume out"
            raise UserError(f"--resume needs a checkpoint in --out; {str(out)!r} has none: {advice} to start again")
        return
    if not used:
        return
    resolved = out.resolve()
    for option, source in sources:
        if resolved == source.resolve():
            raise UserError(
                f"--out must be another folder than {option}; received {str(out)!r} for both: choose another --out"
            )
        if resolved in source.resolve().parents:
            raise UserError(
                f"--out must not hold what the run reads; {str(out)!r} holds {option} {str(source)!r}: choose another "
                "--out"
            )
    if not config.overwrite:
        raise UserError(
            f"the output folder must be new or empty; {str(out)!r} is not: choose another --out, continue with "
            "--resume, or replace it with --overwrite"
        )
    if not _made_by_train(out):
        raise UserError(
            f"--overwrite replaces only folders that train made; {str(out)!r} is not one: choose another --out, or "
            "remove it yourself"
        )


def _made_by_train(out: Path) -> bool:
    """Return whether OUT holds a run's record, or the beginning of a run that was killed before it had one."""
    training = out / "training"
    if not training.is_dir():
        return False
    record = {path.name for path in training.iterdir()}
    alone = [path.name for path in out.iterdir()] == [training.name]
    return bool(record & {"metrics.json", "checkpoints", "tensorboard"}) or (alone and not record)


def _tidy(out: Path, folder: Path) -> None:
    """Remove what killed runs wrote in part, in a folder whose lock this run holds."""
    try:
        sweep(folder)
        for place in (out, out / "training"):
            temporary.sweep(place, seconds=0)
        for path in out.iterdir():
            partial = _PARTIAL_MODEL.fullmatch(path.name) and store.is_folder(path)
            if partial and store.names_in(path) in ([], ["model"]):
                store.remove_folder(path)
    except OSError as error:
        raise not_writable(out, error) from None


def clear_out(out: Path) -> None:
    """Remove the contents of OUT. The folder itself stays, because its lock keeps other runs out.

    Raises:
        UserError: OUT cannot be written.
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
    """Return the Hub id of the model that a run starts from; None for a local folder, whose path stays private."""
    name = config.model or shards.manifest["model"]["name"]
    return hub_id(name, local=name != "minilm" and local_path(name).exists())


def check_unchanged(
    state: dict[str, Any], config: TrainConfig, data: dict[str, Any], model: str, teacher: dict[str, str | None] | None
) -> None:
    """Refuse to resume a run with other options, data, model or teacher than those of its checkpoint.

    Args:
        state: The checkpoint's state.
        config: All options.
        data: See `plan.TrainingData.identity`.
        model: See `plan.identity_of`.
        teacher: See `plan.Sources.teacher_key`.

    Raises:
        UserError: Something differs.
    """
    before = state.get("config")
    if not isinstance(before, dict):
        raise UserError(
            f"a checkpoint must hold its run's options; received {shown(before)}: start again with --overwrite"
        )
    changed = changed_options(before, config)
    if changed:
        raise UserError(
            f"a resumed run must have the options it began with; changed: {'; '.join(changed)}: use the same, or start "
            "again with --overwrite"
        )
    for name, value, difference in (
        ("data", data, "the shards it began with; these are others"),
        ("model", model, "the model it began with; the config.json of this one differs"),
        ("teacher", teacher, "the teacher it began with; --teacher has other weights or another int8 recipe"),
    ):
        if state.get(name) != value:
            raise UserError(f"a resumed run must have {difference}: use the same, or start again with --overwrite")


def check_same(processes: list[dict[str, Any]]) -> None:
    """Refuse a job whose processes would train differently.

    Args:
        processes: "options", "data", "model" and "teacher" of each process. Paths of models may differ between
            machines, so "model" and "teacher" say what the models are.

    Raises:
        UserError: A process differs from the first.
    """
    first = processes[0]
    for number, other in enumerate(processes[1:], 1):
        differing = [
            name
            for name, value in first["options"].items()
            if name not in ("out", *_MODEL_OPTIONS) and other["options"].get(name) != value
        ]
        for name in _MODEL_OPTIONS[1:]:
            if (other["options"].get(name) is None) != (first["options"].get(name) is None):
                differing.append(name)
        differing += [name for name in ("data", "model", "teacher") if other.get(name) != first.get(name)]
        if differing:
            raise UserError(
                "all processes of a job must have the same options, shards and model; process "
                f"{number} differs from process 0 in {', '.join(differing)}: give each the same"
            )
