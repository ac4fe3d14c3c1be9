"""Temporary files and folders: deleted at the end of their use, and by a later run if a process was killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.tmp")
_SCRATCH = re.compile(r"qa-fast-([0-9]+)-[a-z0-9_]{8}")
# A temporary file of this age is not in use any more. Its process may be on another machine and cannot be looked up.
_STALE_SECONDS = 24 * 3600.0
# Temporary files and folders of this process, and folders that it made, which are deleted if they stay empty.
_unfinished: set[Path] = set()
made_folders: set[Path] = set()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary local folder, and delete those of processes that were killed."""
    for other in Path(tempfile.gettempdir()).glob("qa-fast-*"):
        owner = _SCRATCH.fullmatch(other.name)
        if owner and not _is_alive(int(owner[1])):
            shutil.rmtree(other, ignore_errors=True)
    with temporary_folder() as folder:
        yield folder


@contextlib.contextmanager
def temporary_folder(prefix: str | None = None, within: Path | None = None) -> Iterator[Path]:
    """Yield a new local folder, which is deleted at the end; without `within` it is where the system has them."""
    # `scratch` finds the process in the name.
    folder = Path(tempfile.mkdtemp(prefix=prefix or f"qa-fast-{os.getpid()}-", dir=within))
    with unfinished(folder):
        yield folder


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Delete a temporary file or folder at the end, also at an end by `signals.finish`, which unwinds nothing."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _delete(path)
        _unfinished.discard(path)


def has_unfinished() -> bool:
    """Tell whether there are temporary files or folders of this process, or folders that it made."""
    return bool(_unfinished or made_folders)


def remove_unfinished() -> None:
    """Delete the temporary files and folders of this process, and the empty ones among the folders that it made."""
    for path in list(_unfinished):
        _delete(path)
    for folder in list(made_folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it belongs to another user, so it exists
    return True


def sweep(folder: Path, seconds: float = _STALE_SECONDS) -> None:
    """Delete temporary files that are not in use any more.

    Args:
        folder: A local folder.
        seconds: Smallest age of the files to delete; 0 if no other process writes into the folder.
    """
    now = time.time()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime >= seconds:
                        os.unlink(entry.path)
