"""Locks on folders: one process at a time holds one, and the lock ends with its process."""

from __future__ import annotations

import errno
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

from qa_fast import locks
from qa_fast.errors import UserError


def not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {folder}: {error.strerror}")


def test_a_held_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "out"
    with (
        locks.locked(folder, not_writable),
        pytest.raises(UserError, match=r"one run at a time may write .*out; another run holds it: wait until it ends"),
        locks.locked(folder, not_writable),
    ):
        pass
    assert not folder.exists()
    with locks.locked(folder, not_writable):
        (folder / "file").touch()
    assert (folder / "file").exists()


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    with locks.locked(tmp_path, not_writable):
        pass
    assert tmp_path.exists()


def test_who_waits_gets_the_folder_made_anew(tmp_path: Path) -> None:
    """The holder removes the folder when it ends; a lock on the removed one must not count."""
    folder, order, waiting = tmp_path / "out", [], threading.Event()

    def second() -> None:
        waiting.set()
        with locks.locked(folder, not_writable, wait=True):
            assert folder.exists()
            order.append("second")

    thread = threading.Thread(target=second)
    with locks.locked(folder, not_writable):
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not folder.exists()


def hold_and_die(folder: Path) -> None:
    locks.locked(folder, not_writable).__enter__()
    multiprocessing.current_process().kill()


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(tmp_path / "out",))
    process.start()
    process.join()
    with locks.locked(tmp_path / "out", not_writable):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*file: File exists"),
        locks.locked(tmp_path / "file", not_writable),
    ):
        pass


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="cannot write"), locks.locked(tmp_path / "link", not_writable):
        pass


def test_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unable)
    with locks.locked(tmp_path, not_writable), locks.locked(tmp_path, not_writable):
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.locked(tmp_path, not_writable), locks.locked(tmp_path, not_writable):
        pass
