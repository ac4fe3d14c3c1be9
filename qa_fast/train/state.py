"""Checkpoints of a run: everything that decides how it continues, in a folder that appears whole or not at all.

`step-00000500/` holds `arrays.safetensors` (weights, first and second moments), `state.json` (position in the data,
loss scale, best score so far, options, measured choices) and, written last, `checkpoint.json` with the checksums of
both. No random state is needed: data order and dropout masks are pure functions of seed, epoch and step. If a
checkpoint is damaged, `newest_checkpoint` returns the one before it, and the run repeats the steps since then and
reaches the same weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast import store
from qa_fast.errors import UserError, shown
from qa_fast.shards.format import CHECKSUM, file_checksum

if TYPE_CHECKING:
    from qa_fast.train.steps import Floats  # imports keras

KEPT = 2
FORMAT = 2  # format 1 had no checkpoint.json
INDEX, ARRAYS, STATE = "checkpoint.json", "arrays.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8,12})")
_SCRATCH = ".writing-"


def write_checkpoint(folder: Path, step: int, arrays: dict[str, list[Floats]], state: dict[str, Any]) -> Path:
    """Write a checkpoint under a temporary name, rename it, and remove all but it and the one before.

    Checkpoints of later steps are removed, too: a run only returns to an earlier step if they are damaged.

    Args:
        folder: Folder of the run's checkpoints; created if it is missing.
        step: Optimization steps done.
        arrays: What `TrainEngine.read` returns.
        state: JSON-ready.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: It cannot be written; the earlier checkpoints are unchanged.
    """
    from safetensors.numpy import save_file

    final = folder / checkpoint_name(step)
    with writing("a checkpoint", folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        try:
            new, old = scratch / "new", scratch / final.name
            new.mkdir()
            flat = {
                f"{group}/{index:04d}": np.ascontiguousarray(array)
                for group, members in arrays.items()
                for index, array in enumerate(members)
            }
            save_file(flat, str(new / ARRAYS))
            (new / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
            files = {
                name: {"bytes": (new / name).stat().st_size, CHECKSUM: file_checksum(new / name)}
                for name in (ARRAYS, STATE)
            }
            (new / INDEX).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")
            for path in new.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())  # some disks report only now that they are full
            if final.is_symlink() or final.exists():
                os.replace(final, old)
            os.replace(new, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    committed = [path for path in _named(folder) if _step_of(path) <= step and is_committed(path)]
    for path in _named(folder):
        if path not in committed[-KEPT:]:
            _discard(path)
    return final


@contextlib.contextmanager
def writing(what: str, path: Path, folder: Path) -> Iterator[None]:
    """Turn errors of writing into one line.

    Args:
        what: What is written, for the message.
        path: Where it is written, for the message.
        folder: Folder of the run's checkpoints, for the advice.

    Raises:
        UserError: Instead of any `OSError` and `SafetensorError`.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{what} needs a writable folder with free space; {path}: {store.refusal(error)}: free some space; "
            f"{how_to_continue(folder)}"
        ) from None


def how_to_continue(folder: Path) -> str:
    """Return advice on how to continue a run that failed."""
    saved = checkpoints(folder)
    return f"--resume continues from {saved[-1].name}" if saved else "no checkpoint was written yet to --resume from"


def _named(folder: Path) -> list[Path]:
    """Return every path with the name of a checkpoint, oldest first."""
    try:
        names = store.names_in(folder)
    except OSError:
        return []
    return sorted((folder / name for name in names if _NAME.fullmatch(name)), key=_step_of)


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def is_committed(path: Path) -> bool:
    """Return whether a checkpoint was written to its end; it may be damaged since."""
    return store.is_file(path / INDEX)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that were written to their end, oldest first."""
    return [path for path in _named(folder) if is_committed(path)]


def has_checkpoints(folder: Path) -> bool:
    """Return whether anything in a folder has the name of a checkpoint."""
    return bool(_named(folder))


def newest_checkpoint(
    folder: Path, say: Callable[[str], None]
) -> tuple[Path, dict[str, list[Floats]], dict[str, Any]] | None:
    """Read the newest checkpoint that is not damaged.

    Args:
        folder: Folder of the run's checkpoints.
        say: Receives a line about each newer one that is damaged.

    Returns:
        Its folder, arrays and state; None if the folder has no checkpoint.

    Raises:
        UserError: All checkpoints are damaged.
    """
    first = None
    for path in reversed(_named(folder)):
        try:
            return path, *read_checkpoint(path)
        except UserError as error:
            first = first or error
            say(f"{error}; going back to the one before it")
    if first is not None:
        raise UserError(f"{first}; no earlier checkpoint is usable: start again with --overwrite")
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, list[Floats]], dict[str, Any]]:
    """Return the arrays and the state of a checkpoint.

    Raises:
        UserError: It is damaged or has another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        _check_files(path)
        state = json.loads((path / STATE).read_bytes())
        flat = load_file(str(path / ARRAYS))
        if not isinstance(state, dict):
            raise ValueError(f"{STATE} holds {shown(state)}")
    # Files with the right checksums may still have been written by anybody.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        reason = store.refusal(error) if isinstance(error, OSError | SafetensorError) else str(error)
        raise UserError(
            f"a checkpoint must be as train wrote it; {str(path)!r} is not ({' '.join(reason.split())[:200]})"
        ) from None
    arrays: dict[str, list[Floats]] = {}
    for name in sorted(flat):
        arrays.setdefault(name.split("/")[0], []).append(flat[name])
    return arrays, state


def _check_files(path: Path) -> None:
    """Compare a checkpoint's files with its index.

    Raises:
        ValueError: A file is missing or differs.
    """
    if not store.is_folder(path):
        raise ValueError("it is not a folder")
    if not store.is_file(path / INDEX):
        earlier = store.is_file(path / STATE)
        raise ValueError(f"it has no {INDEX}" + (", so it is cut short or of an earlier version" if earlier else ""))
    index = store.read_json(path / INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("files"), dict):
        raise ValueError(f"{INDEX} is damaged")
    if index.get("format") != FORMAT:
        raise ValueError(f"it has format {shown(index.get('format'))}, this version reads {FORMAT}")
    for name in (ARRAYS, STATE):
        expected = index["files"].get(name)
        if not isinstance(expected, dict):
            raise ValueError(f"{INDEX} is damaged")
        if not store.is_file(path / name):
            raise ValueError(f"it has no {name}")
        size = store.size_of(path / name)
        if size != expected.get("bytes"):
            raise ValueError(f"{name} has {size:,} bytes, and was written with {shown(expected.get('bytes'))}")
        if file_checksum(path / name) != expected.get(CHECKSUM):
            raise ValueError(f"{name} is not what was written: its checksum differs")


def sweep(folder: Path) -> None:
    """Remove what a killed run wrote in part, and move back a checkpoint that it was about to replace.

    Raises:
        OSError: A checkpoint cannot be moved.
    """
    for leftover in folder.glob(f"{_SCRATCH}*"):
        for aside in leftover.glob("step-*"):
            if not (folder / aside.name).exists():
                os.replace(aside, folder / aside.name)
        store.remove_folder(leftover)


def discard(folder: Path) -> None:
    """Remove all checkpoints, the newest last and each index first, so that a kill leaves only whole ones."""
    for path in _named(folder):
        _discard(path)
    store.remove_folder(folder)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        store.remove(path / INDEX)
        store.remove_folder(path)
