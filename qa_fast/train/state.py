"""Checkpoints of a run: everything that decides what comes next, in a folder that is whole or not there.

`step-00000500/` holds `arrays.safetensors` (weights, first and second moments),
`state.json` (position in the data, loss scale, best score so far, options, what was measured) and, written last,
`checkpoint.json` with the checksums of both. There is no random state in it: data order and dropout masks are pure
functions of seed, epoch and step. So a checkpoint that is damaged costs the steps since the one before, and nothing
else: `newest_checkpoint` goes back to that, and the run comes to the same weights.
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
# 1 had no checksums, and no checkpoint.json to say so.
FORMAT = 2
INDEX, ARRAYS, STATE = "checkpoint.json", "arrays.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{8,12})")
_SCRATCH = ".writing-"


def write_checkpoint(folder: Path, step: int, arrays: dict[str, list[Floats]], state: dict[str, Any]) -> Path:
    """Write a checkpoint under a temporary name, rename it, and remove all but it and the one before.

    Those of later steps go, too: a run that is at this step has gone back behind them, because they are damaged.

    Args:
        folder: Of all checkpoints of the run; made if missing.
        step: Optimisation steps done.
        arrays: What `Engine.read` gives.
        state: JSON-ready.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: It cannot be written; the checkpoints before it are as they were.
    """
    from safetensors.numpy import save_file

    final = folder / checkpoint_name(step)
    with writing("a checkpoint", folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        try:
            made, old = scratch / "new", scratch / final.name
            made.mkdir()
            flat = {
                f"{group}/{index:04d}": np.ascontiguousarray(array)
                for group, members in arrays.items()
                for index, array in enumerate(members)
            }
            save_file(flat, str(made / ARRAYS))
            (made / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
            about = {
                name: {"bytes": (made / name).stat().st_size, CHECKSUM: file_checksum(made / name)}
                for name in (ARRAYS, STATE)
            }
            (made / INDEX).write_text(json.dumps({"format": FORMAT, "files": about}, indent=1), encoding="utf-8")
            for path in made.iterdir():
                _flush(path)  # some disks say only now that they are full
            if final.is_symlink() or final.exists():
                os.replace(final, old)
            os.replace(made, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    there = [path for path in _named(folder) if _step_of(path) <= step and is_committed(path)]
    for path in _named(folder):
        if path not in there[-KEPT:]:
            _discard(path)
    return final


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def writing(what: str, path: Path, folder: Path) -> Iterator[None]:
    """Turn what a disk refuses within into one line.

    Args:
        what: That is written.
        path: Where.
        folder: Of the run's checkpoints, for what to do.

    Raises:
        UserError: Instead of any `OSError`, and of safetensors' own.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{what} needs a folder that can be written, with room; {path}: {store.refusal(error)}: make room; "
            f"{going_on(folder)}"
        ) from None


def going_on(folder: Path) -> str:
    """Whether there is something to go on from, in words."""
    saved = checkpoints(folder)
    return f"--resume goes on from {saved[-1].name}" if saved else "no checkpoint was written yet to --resume from"


def _named(folder: Path) -> list[Path]:
    """Whatever is called a checkpoint, oldest first."""
    try:
        names = store.names_in(folder)
    except OSError:
        return []
    return sorted((folder / name for name in names if _NAME.fullmatch(name)), key=_step_of)


def checkpoint_name(step: int) -> str:
    """The folder's name of a checkpoint."""
    return f"step-{step:08d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def is_committed(path: Path) -> bool:
    """Whether all of a checkpoint was written; what became of it since is another matter."""
    return store.is_file(path / INDEX)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run that were written to their end, oldest first."""
    return [path for path in _named(folder) if is_committed(path)]


def is_begun(folder: Path) -> bool:
    """Whether there is anything that is called a checkpoint."""
    return bool(_named(folder))


def newest_checkpoint(
    folder: Path, say: Callable[[str], None]
) -> tuple[Path, dict[str, list[Floats]], dict[str, Any]] | None:
    """The newest checkpoint that is whole: its folder, and what `write_checkpoint` was given.

    Args:
        folder: Of all checkpoints of the run.
        say: Told of each newer one that is not.

    Returns:
        None where there is nothing that is called a checkpoint.

    Raises:
        UserError: There are some, and none is whole.
    """
    first = None
    for path in reversed(_named(folder)):
        try:
            return path, *read_checkpoint(path)
        except UserError as error:
            first = first or error
            say(f"{error}; going back to the one before it")
    if first is not None:
        raise UserError(f"{first}; there is none before it that is: begin anew with --overwrite")
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, list[Floats]], dict[str, Any]]:
    """What `write_checkpoint` was given.

    Raises:
        UserError: It is not whole, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        _check_files(path)
        state = json.loads((path / STATE).read_bytes())
        flat = load_file(str(path / ARRAYS))
        if not isinstance(state, dict):
            raise ValueError(f"{STATE} holds {shown(state)}")
    # What is as its checksum says may still be anybody's.
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
    """Hold a checkpoint's files against what was noted when they were written.

    Raises:
        ValueError: One is missing or another than it was.
    """
    if not store.is_folder(path):
        raise ValueError("it is no folder")
    if not store.is_file(path / INDEX):
        earlier = store.is_file(path / STATE)
        raise ValueError(f"it has no {INDEX}" + (", so it is cut short or of an earlier version" if earlier else ""))
    index = store.read_json(path / INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("files"), dict):
        raise ValueError(f"{INDEX} is damaged")
    if index.get("format") != FORMAT:
        raise ValueError(f"it is of format {shown(index.get('format'))}, this version reads {FORMAT}")
    for name in (ARRAYS, STATE):
        about = index["files"].get(name)
        if not isinstance(about, dict):
            raise ValueError(f"{INDEX} is damaged")
        if not store.is_file(path / name):
            raise ValueError(f"it has no {name}")
        size = store.size_of(path / name)
        if size != about.get("bytes"):
            raise ValueError(f"{name} has {size:,} bytes, and was written with {shown(about.get('bytes'))}")
        if file_checksum(path / name) != about.get(CHECKSUM):
            raise ValueError(f"{name} is not what was written: its checksum is another")


def sweep(folder: Path) -> None:
    """Remove what a killed run left half written; what it had moved aside for that goes back to its place.

    Raises:
        OSError: It cannot be moved.
    """
    for leftover in folder.glob(f"{_SCRATCH}*"):
        for aside in leftover.glob("step-*"):
            if not (folder / aside.name).exists():
                os.replace(aside, folder / aside.name)
        store.remove_folder(leftover)


def discard(folder: Path) -> None:
    """Remove all checkpoints, the newest last and each one's index first: what is left of a kill is none, or whole."""
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
