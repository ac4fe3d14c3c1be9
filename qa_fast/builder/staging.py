"""A folder of shards is replaced as a whole or left as it was.

Different builds give their files different names, so new files are written beside the old ones. The index is written
last: it changes from the old files to the new ones in one step, and only then are the old files deleted. So an index
never lists a file that is missing, whenever a run is killed, on a local disk or an object store. Only files that an
index lists, or that have a name which only builds use, are ever deleted. A lock keeps two runs out of the same local
folder and ends with its process; elsewhere a lease does, which a run renews while it lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qa_fast import locks, store
from qa_fast.errors import UserError
from qa_fast.shards.format import (
    DESCRIPTION,
    INDEX,
    REJECTED,
    REPAIRED,
    SPLITS,
    file_name,
    is_file_name,
    kind_of,
    number_of,
)
from qa_fast.shards.journal import PARTIAL, Journal

_FOR_DATASETS = {"state.json", "dataset_info.json"}
# Other files in the folder of a split: caches of `datasets`, and temporary files.
_CACHES = re.compile(r"cache-.*\.arrow|tmp.*|\..*\.tmp")
_LEASE = "lease.json"
# A lease is renewed several times before it expires.
_LEASE_SECONDS, _RENEW_SECONDS = 120.0, 30.0


def check_out(out: Path) -> None:
    """Refuse a folder that a build may not write, before any work is done.

    Raises:
        UserError: It is a file, or a folder with other files.
    """
    try:
        with store.reached(out, "--out"):
            if not out.is_dir():
                there = out.exists() or (store.is_local(out) and out.is_symlink())
                if there and not out.is_dir():  # another run may have made it just now
                    raise UserError(f"--out must be a folder; received {out}, which is a file: choose another --out")
                return
            names = store.names_in(out)
    except OSError as error:
        raise not_writable(out, error) from None
    if names and INDEX not in names and PARTIAL not in names:
        raise UserError(
            f"--out must be new, empty or a folder of shards; {out} holds other files "
            f"({', '.join(names[:3])}): choose another --out"
        )


def not_writable(out: Path, error: OSError) -> UserError:
    """Return the error for a folder in which writing failed."""
    reason = error.strerror or str(error)
    return UserError(f"--out must be a writable folder with free space; {out}: {reason}")


def locked(out: Path, wait: bool = False) -> contextlib.AbstractContextManager[None]:
    """Hold `out` for this run alone; a local folder is made first, and removed afterwards if it was made and is empty.

    Args:
        out: The folder.
        wait: Wait until no other run holds a local folder, instead of refusing.

    Raises:
        UserError: Another run holds it, or it cannot be made.
    """
    return locks.locked(out, not_writable, wait=wait) if store.is_local(out) else _leased(out)


@contextlib.contextmanager
def _leased(out: Path) -> Iterator[None]:
    """Write a lease into the folder, and renew it until the run ends.

    Two runs that begin within a moment may both believe they hold the folder. They still leave a whole folder, that of
    the last one.
    """
    path = out / PARTIAL / _LEASE
    holder = {"run": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    ended = threading.Event()

    def write() -> None:
        store.write_whole(path, json.dumps({**holder, "time": time.time()}).encode())

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(UserError, OSError):  # tried again; if the store is down, writing shards fails too
                write()

    with store.reached(out, "--out"):
        other = store.read_json(path)
        if isinstance(other, dict) and time.time() - float(other.get("time", 0)) < _LEASE_SECONDS:
            raise UserError(
                f"one run at a time may write {out}; another run holds it (process {other.get('pid')} on "
                f"{other.get('host')}): wait until it ends, or stop it and try again after {_LEASE_SECONDS:.0f} s"
            )
        write()
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(UserError, OSError):
            store.remove(path)


def finished(out: Path) -> dict[str, Any] | None:
    """Return the index of finished shards; None if there is none, or it cannot be read."""
    with store.reached(out, "--out"):
        value = store.read_json(out / INDEX)
    return value if isinstance(value, dict) and isinstance(value.get("splits"), dict) else None


def check_replaceable(out: Path, splits: Iterable[str]) -> None:
    """Refuse to write shards where files of the user have the same names.

    Args:
        out: The folder.
        splits: The splits to be written.

    Raises:
        UserError: A file that is not of a build has the name of one to be written, or is in the folder of a split.
    """
    made = made_splits(out)
    interrupted = (out / PARTIAL).exists()
    shared = [] if made or interrupted else sorted({SPLITS, REJECTED, REPAIRED})
    in_the_way = [name for name in shared if (out / name).exists()]
    for split in sorted({*splits, *made}):
        if (out / split).exists() and not (out / split).is_dir():
            in_the_way.append(split)
            continue
        for name in store.names_in(out / split):
            is_beside = name in _FOR_DATASETS or _CACHES.fullmatch(name) is not None
            if not (is_file_name(name) or (is_beside and (split in made or interrupted))):
                in_the_way.append(f"{split}/{name}")
    if in_the_way:
        raise UserError(
            f"--out must hold none of your own files where shards are written; {out} holds "
            f"{', '.join(in_the_way[:3])}: move them, or choose another --out"
        )


def made_splits(out: Path) -> set[str]:
    """Return the folders in `out` that a build wrote, finished or not, by dataset_info.json or the names of files."""
    splits = set()
    for name in store.names_in(out):
        if name == PARTIAL or not (out / name).is_dir():
            continue
        info = store.read_json(out / name / "dataset_info.json")
        described = isinstance(info, dict) and info.get("description") == DESCRIPTION
        if described or any(map(is_file_name, store.names_in(out / name))):
            splits.add(name)
    return splits


def sweep_others(out: Path, fingerprint: str) -> None:
    """Delete the files of interrupted builds that have other inputs or options; the files of the index are kept.

    Args:
        out: The folder.
        fingerprint: The fingerprint of the build that begins.
    """
    index = finished(out)
    listed = {} if index is None else index["splits"]
    for split in made_splits(out):
        kept = {file["file"] for file in listed.get(split, {}).get("shards", ())}
        for name in filter(is_file_name, store.names_in(out / split)):
            if name not in kept and name != file_name(kind_of(name), fingerprint, number_of(name)):
                store.remove(out / split / name)


def leave(out: Path, journal: Journal, splits: Iterable[str], may_go_on: bool) -> int:
    """Clean up after a run that failed.

    Args:
        out: The folder.
        journal: The journal of the run.
        splits: The splits that the run wrote.
        may_go_on: Keep the shards that the run finished, for another run that continues it.

    Returns:
        The number of finished shards that are kept.
    """
    kept = sum(name.endswith(".json") for name in store.names_in(journal.folder))
    if kept and may_go_on:
        return kept
    journal.clear()
    sweep_others(out, "")
    if store.is_local(out):
        for split in splits:
            with contextlib.suppress(OSError):
                (out / split).rmdir()  # only an empty folder
    return 0


def commit(out: Path, index: dict[str, Any]) -> None:
    """Write the index, whose files must be in their places, and delete the files of other builds."""
    store.write_json(out / INDEX, index)
    listed = {split: {file["file"] for file in facts["shards"]} for split, facts in index["splits"].items()}
    for split in sorted(made_splits(out)):
        _sweep(out / split, listed.get(split, set()))


def _sweep(folder: Path, kept: set[str]) -> None:
    """Delete the files of builds from the folder of a split; the folder too if nothing is kept and it is then empty."""
    if store.is_local(folder) and folder.is_symlink():
        if not kept:
            folder.unlink()
        return
    for name in store.names_in(folder):
        old = is_file_name(name) or _CACHES.fullmatch(name) or (name in _FOR_DATASETS and not kept)
        if old and name not in kept:
            path = folder / name
            is_folder = path.is_dir() and not (store.is_local(path) and path.is_symlink())
            (store.remove_folder if is_folder else store.remove)(path)
    if not kept and store.is_local(folder):
        with contextlib.suppress(OSError):
            folder.rmdir()
