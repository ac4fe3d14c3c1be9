"""Files that can be made again: compiled kernels, graphs, measured speeds, downloads, a teacher's logits.

Such a file is used only if its size and hash are those that were recorded when it was made. A damaged file, or one that
was made from something else, counts as missing, so that it is made again. A single file (`write_entry`) ends with its
hash; the files of a folder are listed in its seal (`seal`). Both are on the disk before they get their names.

A cache is optional: where it cannot be written, a temporary folder takes its place.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.progress import on_stderr

# The list of a folder's files with their sizes and hashes; an entry itself.
SEAL = ".sealed"
_HASH_BYTES = 16


def cache_folder() -> Path:
    """Return the folder of the cache: $QA_FAST_CACHE, else $XDG_CACHE_HOME/qa-fast, else ~/.cache/qa-fast.

    A user without a home folder gets a temporary one.
    """
    if named := os.environ.get("QA_FAST_CACHE"):
        return store.local_path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "qa-fast"
    try:
        return Path("~/.cache/qa-fast").expanduser()
    except RuntimeError:
        return _temporary("this user has no home folder")


def writable(place: Path) -> Path:
    """Return where to make what belongs at a place in the cache: there, or in a temporary folder if that is read-only.

    Args:
        place: A path in the cache. Its last two names tell it apart from all others.

    Raises:
        UserError: There is no temporary folder either.
    """
    problem = problem_in(place.parent)
    if problem is None:
        return place
    return _temporary(f"{cache_folder()} cannot be written ({problem})") / place.parent.name / place.name


def problem_in(folder: Path) -> str | None:
    """Make a folder if it is missing, and return why no file can be made in it; None if one can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # permissions alone do not tell: a file system may be read-only
    except OSError as error:
        return error.strerror or str(error)
    return None


def _temporary(reason: str) -> Path:
    """Return this user's temporary folder for what the cache would hold, and say once why it is used."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    try:
        folder = Path(tempfile.gettempdir()) / f"qa-fast-cache{user}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        # Compiled kernels in it are run, so nobody else may have made it or be able to write to it.
        if not stat.S_ISDIR(found.st_mode) or (user and (found.st_uid != os.getuid() or found.st_mode & 0o022)):
            raise PermissionError(0, f"{folder} must be a folder that only this user can write")
    except OSError as error:
        raise UserError(
            f"the cache or the temporary folder must be writable; {reason}; {error.strerror or error}: name a folder "
            "in the environment variable QA_FAST_CACHE"
        ) from None
    _say_once(f"caches are not kept: {reason}; {folder} is used: name a folder that is kept in QA_FAST_CACHE")
    return folder


@functools.cache
def _say_once(line: str) -> None:
    on_stderr(line)


def write_entry(path: Path, body: bytes, made_from: bytes = b"") -> None:
    """Write a file that ends with the hash of its content, whole or not at all.

    Args:
        path: The file.
        body: Its content.
        made_from: Describes what the content was made from; it is part of the hash.

    Raises:
        OSError: It cannot be written.
    """
    with store.whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(body + xxhash.xxh3_128_digest(made_from + body))
        file.flush()
        os.fsync(file.fileno())


def keep(path: Path, body: bytes, made_from: bytes = b"") -> None:
    """Write an entry as `write_entry`, or say once that it cannot be written."""
    try:
        write_entry(path, body, made_from)
    except OSError as error:
        _say_once(f"caches are not kept: {path.parent}: {error.strerror or error}")


def read_entry(path: Path, made_from: bytes = b"") -> bytes | None:
    """Return the content of a file of `write_entry`; None if it is missing, damaged or made from something else."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body, found = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    return body if found == xxhash.xxh3_128_digest(made_from + body) else None


def seal(folder: Path, names: Iterable[str]) -> None:
    """Record the sizes and hashes of files of a folder in its seal, beside what is recorded there of others.

    Raises:
        OSError: A file cannot be read, or the seal cannot be written.
    """
    facts = _sealed(folder)
    for name in names:
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
        facts[name] = facts_of(folder / name)
    write_entry(folder / SEAL, json.dumps(facts).encode())


def is_intact(folder: Path, names: Iterable[str] | None = None) -> bool:
    """Tell whether files of a folder are as they were when they were sealed; this reads them, at some GB a second.

    Args:
        folder: The folder.
        names: Some files; None means all that the seal lists.
    """
    facts = _sealed(folder)
    wanted = facts if names is None else names
    try:
        return bool(facts) and all(name in facts and facts_of(folder / name) == facts[name] for name in wanted)
    except OSError:
        return False


def _sealed(folder: Path) -> dict[str, Any]:
    return json.loads(read_entry(folder / SEAL) or b"{}")


def facts_of(path: Path) -> list[Any]:
    """Return the size of a file and the XXH3 of its bytes, JSON-ready."""
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()]


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
