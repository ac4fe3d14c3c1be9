"""Where downloaded files are kept, and how they get there: whole, checked, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.store import local_path


def cache_folder() -> Path:
    """The folder for downloads: $QA_FAST_CACHE, else $XDG_CACHE_HOME/qa-fast, else ~/.cache/qa-fast."""
    named = os.environ.get("QA_FAST_CACHE")
    if named:
        return local_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else local_path("~/.cache")) / "qa-fast"


def put(data: bytes, path: Path) -> None:
    """Write a file so that it is there whole or not at all, also when several processes write it at once.

    Raises:
        UserError: The cache folder cannot be written.
    """
    try:
        store.write_whole(path, data)
    except OSError as error:
        raise UserError(
            f"the cache folder must be one that can be written, with room; {path.parent}: {error.strerror}: "
            "name another in the environment variable QA_FAST_CACHE"
        ) from None
