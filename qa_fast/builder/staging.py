"""A folder of shards that is made or replaced whole, or left as it was.

Files of builds that differ have different names, so the new ones are written beside the old; the index, written last,
changes from the old to the new in one step, and only then do the old files go. Nothing is ever vouched for that is not
there, whenever a run is killed, here or on an object store. Only files that an index lists, or whose names only a build
gives, are ever deleted. A lock on a local `out` keeps two runs apart and goes when its process does; on other stores a
lease does, which a run renews while it lives.
"""

from __future__ import annotations

import contextlib
import errno
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

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.shards.format import DESCRIPTION, INDEX, REJECTED, SPLITS, file_name, is_file_name, kind_of, number_of
from qa_fast.shards.journal import PARTIAL, Journal

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks there
    fcntl = None  # type: ignore[assignment]

_SHARED_NAMES = {INDEX, SPLITS, REJECTED}
_FOR_DATASETS = {"state.json", "dataset_info.json"}
# What a split's folder may hold beside: caches that `datasets` leaves, and what earlier versions wrote.
_SPLIT_FILES = re.compile(r"data-\d+-of-\d+\.arrow|examples\.arrow|contexts\.arrow|cache-.*\.arrow|tmp.*|\..*\.tmp")
_LEASE = "lease.json"
# A lease is renewed a few times before it runs out.
_LEASE_SECONDS, _RENEW_SECONDS = 120.0, 30.0


def check_out(out: Path) -> None:
    """Refuse a folder that is not ours to write, before any work is done.

    Raises:
        UserError: A file, or a folder with other files.
    """
    try:
        with store.reached(out, "--out"):
            if not out.is_dir():
                if out.exists() or (store.is_local(out) and out.is_symlink()):
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
    """What to say where writing failed."""
    reason = error.strerror or str(error)
    return UserError(f"--out must be a folder that can be written, with room; {out}: {reason}")


@contextlib.contextmanager
def locked(out: Path, wait: bool = False) -> Iterator[None]:
    """Hold `out` for this run alone; makes it if need be, and takes it away again if it stays empty.

    Args:
        out: The folder.
        wait: For a run that holds it, instead of refusing.

    Raises:
        UserError: Another run holds it, or it cannot be made.
    """
    if not store.is_local(out):
        with _leased(out):
            yield
        return
    made = not out.exists()
    folder = _locked_folder(out, wait)
    try:
        yield
    finally:
        try:
            if made:
                with contextlib.suppress(OSError):
                    out.rmdir()
        finally:
            if folder is not None:
                os.close(folder)


def _locked_folder(out: Path, wait: bool) -> int | None:
    """A descriptor that holds the lock on what is `out` now; None where there are no locks."""
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = os.open(out, os.O_RDONLY) if fcntl else None
        except OSError as error:
            raise not_writable(out, error) from None
        if folder is None:
            return None
        try:
            _lock(folder, out, wait)
            there = os.stat(out)
            if os.path.samestat(os.fstat(folder), there):
                return folder
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(folder)
            raise
        os.close(folder)  # whoever held it took the empty folder away: that lock keeps nobody out


def _lock(folder: int, out: Path, wait: bool) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise _held(out) from None
        # Some network file systems lock no folders; there, keeping runs apart is the user's.


def _held(out: Path) -> UserError:
    return UserError(f"one run at a time may write {out}; another is at it: wait for it, or stop it")


@contextlib.contextmanager
def _leased(out: Path) -> Iterator[None]:
    """Say in the folder that a run is at it, again and again until it ends.

    Two runs that begin within a moment may both think it theirs; they still leave a whole folder, the last one's.
    """
    lease = out / PARTIAL / _LEASE
    mine = {"run": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    ended = threading.Event()

    def said() -> None:
        store.write_whole(lease, json.dumps({**mine, "time": time.time()}).encode())

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(UserError, OSError):  # the next time, or the write that matters says so
                said()

    with store.reached(out, "--out"):
        other = store.read_json(lease)
        if isinstance(other, dict) and time.time() - float(other.get("time", 0)) < _LEASE_SECONDS:
            raise UserError(
                f"one run at a time may write {out}; another is at it (process {other.get('pid')} on "
                f"{other.get('host')}): wait for it, or stop it and try again after {_LEASE_SECONDS:.0f} s"
            )
        said()
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(UserError, OSError):
            store.remove(lease)


def finished(out: Path) -> dict[str, Any] | None:
    """The index of finished shards, if there is one that can be read."""
    with store.reached(out, "--out"):
        value = store.read_json(out / INDEX)
    return value if isinstance(value, dict) and isinstance(value.get("splits"), dict) else None


def check_replaceable(out: Path, splits: Iterable[str]) -> None:
    """Refuse to write where a user's own files stand in the way.

    Args:
        out: The folder.
        splits: Those to be written.

    Raises:
        UserError: A file that is no build's has the name of one to be written, or lies among a split's files.
    """
    ours = _vouched(out)
    under_way = (out / PARTIAL).exists()
    shared = [] if ours or under_way else sorted(_SHARED_NAMES - {INDEX})
    in_the_way = [name for name in shared if (out / name).exists()]
    for split in sorted({*splits, *ours}):
        if (out / split).exists() and not (out / split).is_dir():
            in_the_way.append(split)
            continue
        names = store.names_in(out / split)
        theirs = [name for name in names if not _is_ours(name, split in ours or under_way)]
        in_the_way += [f"{split}/{name}" for name in theirs]
    if in_the_way:
        raise UserError(
            f"--out must hold nothing of yours where shards are written; {out} holds {', '.join(in_the_way[:3])}: "
            "move that away, or choose another --out"
        )


def _is_ours(name: str, vouched: bool) -> bool:
    return is_file_name(name) or (vouched and (name in _FOR_DATASETS or _SPLIT_FILES.fullmatch(name) is not None))


def _vouched(out: Path) -> set[str]:
    """The splits that `out`'s index lists; where that cannot be read, those beside it for `datasets`."""
    index = finished(out)
    if index is not None:
        return set(index["splits"])
    beside = store.read_json(out / SPLITS) if (out / INDEX).exists() else None
    listed = beside.get("splits") if isinstance(beside, dict) else None
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()


def sweep(out: Path, keep: dict[str, set[str]], splits: Iterable[str]) -> None:
    """Delete what other builds left, finished or not.

    Args:
        out: The folder.
        keep: Files to keep in each split; a split with none goes.
        splits: Further splits to look into.
    """
    for split in sorted({*splits, *keep}):
        folder = out / split
        if store.is_local(folder) and folder.is_symlink():
            if not keep.get(split):
                folder.unlink()
            continue
        kept = keep.get(split, set())
        for name in store.names_in(folder):
            old = is_file_name(name) or _SPLIT_FILES.fullmatch(name) or (name in _FOR_DATASETS and not kept)
            if old and name not in kept:
                _remove(folder / name)
        if not kept and store.is_local(folder):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not (store.is_local(path) and path.is_symlink()):
        store.remove_folder(path)
    else:
        store.remove(path)


def made_splits(out: Path) -> set[str]:
    """Folders in `out` that a build wrote, finished or not, as their files' names or dataset_info.json say."""
    found = set()
    for name in store.names_in(out):
        if name == PARTIAL or not (out / name).is_dir():
            continue
        about = store.read_json(out / name / "dataset_info.json")
        ours = isinstance(about, dict) and about.get("description") == DESCRIPTION
        if ours or any(map(is_file_name, store.names_in(out / name))):
            found.add(name)
    return found


def sweep_others(out: Path, fingerprint: str) -> None:
    """Delete what interrupted builds of other inputs or options left; the files of the index stay.

    Args:
        out: The folder.
        fingerprint: Of the build that begins.
    """
    index = finished(out)
    listed = {} if index is None else index["splits"]
    for split in made_splits(out):
        kept = {file["file"] for file in listed.get(split, {}).get("shards", ())}
        for name in store.names_in(out / split):
            if (
                is_file_name(name)
                and name not in kept
                and name != file_name(kind_of(name), fingerprint, number_of(name))
            ):
                store.remove(out / split / name)


def leave(out: Path, journal: Journal, splits: Iterable[str], may_go_on: bool) -> int:
    """Take away what a run that failed left.

    Args:
        out: The folder.
        journal: Of the run.
        splits: Those that it wrote.
        may_go_on: Leave the shards that it finished, for a run that goes on from them.

    Returns:
        How many finished shards are left.
    """
    kept = len([name for name in store.names_in(journal.folder) if name.endswith(".json")])
    if not kept or not may_go_on:
        kept = 0
        journal.clear()
        sweep_others(out, "")
        if store.is_local(out):
            for split in splits:
                with contextlib.suppress(OSError):
                    (out / split).rmdir()  # an empty one
    return kept


def commit(out: Path, index: dict[str, Any]) -> None:
    """Make the index that vouches for the shards the folder's own, and take away what it does not list.

    Everything that it vouches for must be in its place.
    """
    before = _vouched(out)
    store.write_json(out / INDEX, index)
    keep = {split: {file["file"] for file in about["shards"]} for split, about in index["splits"].items()}
    sweep(out, keep, before | made_splits(out))
