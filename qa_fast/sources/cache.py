"""Where downloaded files are kept, and how they get there: whole, checked, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder for downloads: $QA_FAST_CACHE, else $XDG_CACHE_HOME/qa-fast, else ~/.cache/qa-fast."""
    named = os.environ.get("QA_FAST_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qa-fast"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put(data: bytes, path: Path) -> None:
    """Write a file so that it is there whole or not at all, also when several processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
