"""A folder that is made or replaced whole, or left as it was.

New files are written to a temporary folder inside `out`. When they are whole, the old ones are moved aside, their index
first, and the new ones moved in, their index last: nothing is ever vouched for that is not there, and a run that fails
or is killed halfway is undone, by itself or by the next. Only files that an index lists are ever moved or deleted. A
lock on `out` keeps two runs apart, and goes when its process does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qa_fast.errors import UserError
from qa_fast.shards import INDEX, write_json

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks there
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".qa_fast-partial"
# Old files that were moved aside: some of them, all of them.
_ASIDE, _ALL_ASIDE = "aside", "all-aside"
_SHARED_NAMES = {INDEX, "dataset_dict.json", "rejected.jsonl"}
# What a split's folder may hold: our files, and the caches that `datasets` leaves beside them.
_SPLIT_FILES = re.compile(
    r"data-\d+-of-\d+\.arrow|examples\.arrow|contexts\.arrow|state\.json|dataset_info\.json|cache-.*\.arrow|tmp.*"
)


def check_out(out: Path) -> None:
    """Refuse a folder that is not ours to write, before any work is done.

    Raises:
        UserError: A file, or a folder with other files.
    """
    try:
        if not out.is_dir():
            if out.exists() or out.is_symlink():
                raise UserError(f"--out must be a folder; received {out}, which is a file: choose another --out")
            return
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise _not_writable(out, error) from None
    if names and INDEX not in names and _PARTIAL not in names:
        raise UserError(
            f"--out must be new, empty or a folder of shards; {out} holds other files "
            f"({', '.join(sorted(names)[:3])}): choose another --out"
        )


def _not_writable(out: Path, error: OSError) -> UserError:
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
    made = not out.exists()
    folder = _locked_folder(out, wait)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()
        if folder is not None:
            os.close(folder)


def _locked_folder(out: Path, wait: bool) -> int | None:
    """A descriptor that holds the lock on what is `out` now; None where there are no locks."""
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = os.open(out, os.O_RDONLY) if fcntl else None
        except OSError as error:
            raise _not_writable(out, error) from None
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
            raise UserError(f"one run at a time may write {out}; another is at it: wait for it, or stop it") from None
        # Some network file systems lock no folders; there, keeping runs apart is the user's.


def finished(out: Path) -> dict[str, Any] | None:
    """The index of finished shards, if there is one that can be read."""
    try:
        value = json.loads((out / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("splits"), dict) else None


def check_replaceable(out: Path, splits: Iterable[str]) -> None:
    """Refuse to write where a user's own files stand in the way.

    Args:
        out: The folder.
        splits: Those to be written.

    Raises:
        UserError: A file that no index lists has the name of one to be written, or lies among a split's files.
    """
    ours = _listed(out)
    in_the_way = [name for name in sorted({*splits, *_SHARED_NAMES} - ours) if (out / name).exists()]
    for name in sorted(ours - _SHARED_NAMES):
        if (out / name).is_dir():
            in_the_way += [
                f"{name}/{file.name}" for file in (out / name).iterdir() if not _SPLIT_FILES.fullmatch(file.name)
            ]
    if in_the_way:
        raise UserError(
            f"--out must hold nothing of yours where shards are written; {out} holds {', '.join(in_the_way[:3])}: "
            "move that away, or choose another --out"
        )


def _listed(out: Path) -> set[str]:
    """Names in `out` that its index lists; where that cannot be read, what stands beside it for `datasets`."""
    if not (out / INDEX).exists():
        return set()
    try:
        beside = json.loads((out / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        beside = []
    return _SHARED_NAMES | set((finished(out) or {"splits": beside})["splits"])


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder inside `out`, taken away again if anything fails; `out` must be `locked`.

    Raises:
        UserError: The folder cannot be written, or is full.
    """
    partial = out / _PARTIAL
    try:
        clear(out)
        partial.mkdir()
        yield partial
    except BaseException as error:
        with contextlib.suppress(OSError):
            clear(out)
        if isinstance(error, OSError):
            raise _not_writable(out, error) from None
        raise


def clear(out: Path) -> None:
    """Undo what a run that did not finish left."""
    partial = out / _PARTIAL
    if not partial.exists():
        return
    if not (out / INDEX).exists():
        new = finished(partial)
        if (partial / _ALL_ASIDE).exists() and new is not None:
            for name in _SHARED_NAMES | set(new["splits"]):
                if not (partial / name).exists():
                    _remove(out / name)  # it was moved in already
        for aside in (_ASIDE, _ALL_ASIDE):
            _move(partial / aside, out)
    shutil.rmtree(partial)


def put_in_place(partial: Path, out: Path, index: dict[str, Any]) -> None:
    """Replace the files that `out`'s index lists by those in `partial`, and its index by the given one."""
    write_json(partial / INDEX, index)
    aside = partial / _ASIDE
    aside.mkdir()
    listed = _listed(out)
    for name in sorted(listed, key=lambda name: name != INDEX):
        if (out / name).exists():
            (out / name).rename(aside / name)
    aside.rename(partial / _ALL_ASIDE)
    _move(partial, out)
    shutil.rmtree(partial, ignore_errors=True)


def _move(source: Path, out: Path) -> None:
    """Move everything but the files aside from one folder to another, the index last."""
    if not source.exists():
        return
    for path in sorted(source.iterdir(), key=lambda path: path.name == INDEX):
        if path.name != _ALL_ASIDE:
            path.rename(out / path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
