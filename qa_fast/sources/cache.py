"""The cache of downloaded files."""

from __future__ import annotations

import os
from pathlib import Path

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.store import local_path


def cache_folder() -> Path:
    """Return the folder for downloads: $QA_FAST_CACHE, else $XDG_CACHE_HOME/qa-fast, else ~/.cache/qa-fast."""
    if named := os.environ.get("QA_FAST_CACHE"):
        return local_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else local_path("~/.cache")) / "qa-fast"


def put(data: bytes, path: Path) -> None:
    """Write a file into the cache whole or not at all, also if several processes write it at once.

    Raises:
        UserError: The cache folder cannot be written.
    """
    try:
        store.write_whole(path, data)
    except OSError as error:
        raise not_writable(path.parent, error) from None


def not_writable(folder: Path, error: OSError) -> UserError:
    """Return the error for a folder of the cache in which writing failed."""
    return UserError(
        f"the cache folder must be writable, with free space; {folder}: {error.strerror or error}: "
        "name another in the environment variable QA_FAST_CACHE"
    )
