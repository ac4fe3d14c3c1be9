"""Checkpoints of a run: everything that decides what comes next, in a folder that is whole or not there.

`step-00000500/` holds `arrays.safetensors` (weights, first and second moments, their average where the run has one) and
`state.json` (position in the data, loss scale, best score so far, options, what was measured). There is no random state
in it: data order and dropout masks are pure functions of seed, epoch and step.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.errors import UserError

if TYPE_CHECKING:
    from qa_fast.train.steps import Floats  # imports keras

KEPT = 2
_PREFIX = "step-"


def write_checkpoint(folder: Path, step: int, arrays: dict[str, list[Floats]], state: dict[str, Any]) -> Path:
    """Write a checkpoint under a temporary name, rename it, and remove all but the newest two.

    Args:
        folder: Of all checkpoints of the run; made if missing.
        step: Optimisation steps done.
        arrays: What `Engine.read` gives.
        state: JSON-ready.

    Returns:
        The checkpoint's folder.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{step:08d}"
    scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        flat = {
            f"{group}/{index:04d}": np.ascontiguousarray(array)
            for group, members in arrays.items()
            for index, array in enumerate(members)
        }
        save_file(flat, str(scratch / "arrays.safetensors"))
        with open(scratch / "state.json", "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").is_file())


def read_checkpoint(path: Path) -> tuple[dict[str, list[Floats]], dict[str, Any]]:
    """What `write_checkpoint` was given.

    Raises:
        UserError: The files are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        flat = load_file(str(path / "arrays.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"a checkpoint must be whole; {str(path)!r} is not ({error}): delete that folder to go on from the one "
            "before it"
        ) from None
    arrays: dict[str, list[Floats]] = {}
    for name in sorted(flat):
        arrays.setdefault(name.split("/")[0], []).append(flat[name])
    return arrays, state


def sweep(folder: Path) -> None:
    """Remove what a killed run left half written."""
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
