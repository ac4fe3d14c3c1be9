"""A lock on a local folder, which keeps the processes of one machine apart and ends with its process."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from qa_fast import temporary
from qa_fast.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: Path, not_writable: Callable[[Path, OSError], UserError], *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone; make it first, and remove it afterwards if it was made and is empty.

    Systems and network file systems without locks are not an error; processes are not kept apart there.

    Args:
        folder: A local folder.
        not_writable: Makes the error to raise where the folder cannot be made or opened.
        wait: Wait until no other process holds the folder, instead of refusing.

    Raises:
        UserError: Another process holds the folder, or it cannot be made.
    """
    descriptor, made = _made_and_locked(folder, not_writable, wait)
    try:
        if made:
            temporary.made_folders.add(folder)
        yield
    finally:
        try:
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
                temporary.made_folders.discard(folder)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _made_and_locked(
    folder: Path, not_writable: Callable[[Path, OSError], UserError], wait: bool
) -> tuple[int | None, bool]:
    """Return a descriptor of the folder that holds its lock (None without locks), and whether the folder was made."""
    while True:
        made = True
        try:
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                made = False
                if folder.exists() and not folder.is_dir():
                    raise
            if fcntl is None:
                return None, made
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not made and not folder.is_symlink():
                continue  # the holder removed it just now
            raise not_writable(folder, error) from None
        try:
            _lock(descriptor, folder, wait)
            if _is_open(folder, descriptor):
                return descriptor, made
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder removed the empty folder meanwhile: this lock would keep nobody out


def _lock(descriptor: int, folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(
                f"one run at a time may write {folder}; another run holds it: wait until it ends, or stop it"
            ) from None


def _is_open(folder: Path, descriptor: int) -> bool:
    """Tell whether a descriptor is of the folder that has this path now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False
