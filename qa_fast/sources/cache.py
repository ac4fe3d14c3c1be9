"""Where downloaded files are kept, and how they get there: whole, checked, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from qa_fast.errors import UserError


def cache_folder() -> Path:
    """The folder for downloads: $QA_FAST_CACHE, else $XDG_CACHE_HOME/qa-fast, else ~/.cache/qa-fast."""
    named = os.environ.get("QA_FAST_CACHE")
    if named:
        return local_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else local_path("~/.cache")) / "qa-fast"


def local_path(name: str) -> Path:
    """A name as a path, `~` resolved where there is a home to resolve it to."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, or no home
        return Path(name)


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is no file."""
    try:
        return path.is_file()
    except OSError:
        return False


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(data: bytes, path: Path) -> None:
    """Write a file so that it is there whole or not at all, also when several processes write it at once.

    Raises:
        UserError: The cache folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"the cache folder must be one that can be written, with room; {path.parent}: {error.strerror}: "
            "name another in the environment variable QA_FAST_CACHE"
        ) from None
