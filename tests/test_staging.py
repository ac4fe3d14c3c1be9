"""A folder replaced whole or left as it was: the steps of it, each cut short."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from qa_fast import staging
from qa_fast.errors import UserError
from qa_fast.staging import check_out, check_replaceable, clear, finished, locked, put_in_place, staged


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by relative name."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def make(out: Path, mark: str, splits: tuple[str, ...], rejected: bool = False) -> None:
    """One whole run: files that say `mark`."""
    with locked(out):
        check_replaceable(out, splits)
        with staged(out) as partial:
            fill(partial, mark, splits, rejected)
            put_in_place(partial, out, {"mark": mark, "splits": {split: {} for split in splits}})


def fill(partial: Path, mark: str, splits: tuple[str, ...], rejected: bool = False) -> None:
    for split in splits:
        (partial / split).mkdir()
        (partial / split / "data-00000-of-00001.arrow").write_text(mark)
        (partial / split / "state.json").write_text(mark)
    (partial / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    if rejected:
        (partial / "rejected.jsonl").write_text(mark)


def test_files_are_made_and_replaced(tmp_path: Path) -> None:
    out = tmp_path / "a" / "shards"
    make(out, "old", ("train", "test"), rejected=True)
    assert set(contents(out)) == {
        "qa_fast.json", "dataset_dict.json", "rejected.jsonl", "train/data-00000-of-00001.arrow", "train/state.json",
        "test/data-00000-of-00001.arrow", "test/state.json",
    }  # fmt: skip
    (out / "notes.md").write_text("mine")
    (out / "train" / "cache-123.arrow").write_text("stale")
    make(out, "new", ("train", "validation"))
    assert set(contents(out)) == {
        "qa_fast.json", "dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json",
        "validation/data-00000-of-00001.arrow", "validation/state.json", "notes.md",
    }  # fmt: skip
    assert contents(out)["train/state.json"] == "new"
    assert contents(out)["notes.md"] == "mine"
    assert finished(out) == {"mark": "new", "splits": {"train": {}, "validation": {}}}


class Killed(BaseException):
    """Stands for the process being gone: nothing after it runs."""


@contextmanager
def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let so many renames and removals through, then die, the cleaning up included."""
    left = [steps]

    def counted(real: Any) -> Any:
        def step(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "mkdir", counted(Path.mkdir))
        patch.setattr(staging.shutil, "rmtree", counted(staging.shutil.rmtree))
        patch.setattr(staging, "write_json", counted(staging.write_json))
        with suppress(Killed):
            yield


@pytest.mark.parametrize("had_old", [True, False])
def test_a_run_that_is_killed_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, had_old: bool
) -> None:
    endings = set()
    for steps in range(60):
        out = tmp_path / str(steps)
        if had_old:
            make(out, "old", ("train", "test"), rejected=True)
            (out / "notes.md").write_text("mine")
        before = contents(out) if had_old else {}
        with killed_after(steps, monkeypatch):
            make(out, "new", ("train", "validation"))
        index = finished(out)
        if index is not None and index["mark"] == "new":  # what an index vouches for is there
            assert contents(out)["validation/data-00000-of-00001.arrow"] == "new"
        elif index is not None:
            assert contents(out).items() >= before.items()
        with locked(out):
            clear(out)
        after = contents(out) if out.exists() else {}
        new = {"train/state.json", "validation/state.json", "dataset_dict.json", "qa_fast.json"}
        if after == before:
            endings.add("old")
        else:
            assert after["train/state.json"] == after["validation/state.json"] == "new"
            assert new <= set(after)
            assert not any(name.startswith(("test/", "rejected", ".")) for name in after)
            endings.add("new")
        if had_old:
            assert after["notes.md"] == "mine"
        make(out, "third", ("train", "test"))
        assert contents(out)["test/state.json"] == "third"
    assert endings == {"old", "new"}


def test_a_failure_halfway_is_undone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "old", ("train", "test"), rejected=True)
    before = contents(tmp_path)
    real, count = Path.rename, [0]

    def fails_once(path: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] == 8:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(UserError, match=r"--out must be a folder that can be written, with room; .*Input/output error"):
        make(tmp_path, "new", ("train", "validation"))
    assert contents(tmp_path) == before


def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), locked(out), staged(out) as partial:
        (partial / "file").write_text(str(1 // 0))
    assert not out.exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "there"), staged(tmp_path / "there"):
        raise KeyboardInterrupt
    assert list((tmp_path / "there").iterdir()) == []


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "out"),
        pytest.raises(UserError, match=r"one run at a time may write .*out; another is at it"),
        locked(tmp_path / "out"),
    ):
        pass
    with locked(tmp_path / "out"):  # the lock went with its run
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(staging.fcntl, "flock", unable)
    make(tmp_path, "new", ("train",))
    assert finished(tmp_path) is not None
    monkeypatch.setattr(staging, "fcntl", None)
    make(tmp_path, "newer", ("train",))
    assert contents(tmp_path)["train/state.json"] == "newer"


def test_folders_that_are_not_ours_to_write(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    check_out(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=r"--out must be a folder; received .*file, which is a file: choose another"):
        check_out(file)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--out must be a folder; received"):
        check_out(tmp_path / "dangling")
    with pytest.raises(
        UserError, match=r"must be new, empty or a folder of shards; .* holds other files .dangling, file"
    ):
        check_out(tmp_path)
    with pytest.raises(UserError, match=r"--out must be a folder that can be written, with room; .*File name too long"):
        check_out(tmp_path / ("x" * 5000))
    for out in (file / "below", Path("/proc/no-such-folder")):
        with pytest.raises(UserError, match="--out must be a folder that can be written"), locked(out):
            pass


def test_a_folder_that_may_not_be_written() -> None:
    am_root = os.geteuid() == 0
    with TemporaryDirectory() as name:  # not tmp_path: others must be able to look into it
        folder = Path(name)
        folder.chmod(0o555)
        if am_root:
            os.seteuid(65534)
        try:
            for out in (folder, folder / "below"):
                with pytest.raises(UserError, match=r"--out must be a folder that can be written.*Permission denied"):
                    make(out, "new", ("train",))
        finally:
            if am_root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_own_files_in_the_way_are_never_touched(tmp_path: Path) -> None:
    make(tmp_path, "old", ("train",))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"must hold nothing of yours where shards are written; .* holds test: move"):
        make(tmp_path, "new", ("train", "test"))
    (tmp_path / "train" / "thesis.docx").write_text("mine")
    with pytest.raises(UserError, match=r"holds train/thesis\.docx: move that away, or choose another --out"):
        make(tmp_path, "new", ("train",))
    (tmp_path / "train" / "thesis.docx").unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"splits": 5}', '{"no": 1}'])
def test_a_damaged_index_vouches_for_nothing_and_is_replaced(tmp_path: Path, damage: str) -> None:
    make(tmp_path, "old", ("train", "test"), rejected=True)
    (tmp_path / "qa_fast.json").write_text(damage)
    assert finished(tmp_path) is None
    make(tmp_path, "new", ("train",))
    assert set(contents(tmp_path)) == {
        "qa_fast.json", "dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json",
    }  # fmt: skip


def test_links_are_unlinked_not_followed(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    make(out, "old", ("train", "test"))
    (out / "test").rename(elsewhere)
    (out / "test").symlink_to(elsewhere)
    make(out, "new", ("train",))
    assert (elsewhere / "state.json").read_text() == "old"
    assert not (out / "test").exists()


def test_who_waits_holds_the_folder_that_is_there(tmp_path: Path) -> None:
    """The one before took the empty folder away; a lock on what is gone keeps nobody out."""
    out, inside, leave = tmp_path / "out", threading.Event(), threading.Event()

    def first() -> None:
        with staging.locked(out):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.3, leave.set).start()
    with staging.locked(out, wait=True):
        assert out.is_dir()
        with pytest.raises(UserError, match="one run at a time"), staging.locked(out):
            pass
    thread.join()
