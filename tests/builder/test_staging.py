"""A folder is replaced as a whole or left as it was, wherever a run is interrupted."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from qa_fast import locks, store
from qa_fast.builder import staging
from qa_fast.builder.staging import check_out, check_replaceable, commit, finished, leave, locked, sweep_others
from qa_fast.errors import UserError
from qa_fast.shards.format import file_name
from qa_fast.shards.journal import Journal
from qa_fast.shards.write import write_for_datasets
from tests.memory_place import memory_place

MARKS = {"old": "0" * 16, "new": "1" * 16, "third": "2" * 16}


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by relative name."""
    return {
        str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*"), key=str) if path.is_file()
    }


def data_name(mark: str) -> str:
    return file_name("data", MARKS[mark], 0)


def make(out: Path, mark: str, splits: tuple[str, ...], rejected: bool = False) -> None:
    """One whole run: files that say `mark`."""
    with locked(out):
        check_replaceable(out, splits)
        sweep_others(out, MARKS[mark])
        journal = Journal(out, MARKS[mark])
        journal.open()
        shards = {split: [{"file": data_name(mark), "block": 0, "xxh3_128": mark * 6}] for split in splits}
        for split in splits:
            store.write_whole(out / split / data_name(mark), mark.encode())
        if rejected:
            store.write_whole(out / "rejected.jsonl", mark.encode())
        else:
            store.remove(out / "rejected.jsonl")
        write_for_datasets(out, shards)
        commit(out, {"mark": mark, "splits": {split: {"shards": shards[split]} for split in splits}})
        journal.clear()


def files_of(mark: str, *splits: str) -> set[str]:
    names = {"qa_fast.json", "dataset_dict.json"}
    for split in splits:
        names |= {f"{split}/{data_name(mark)}", f"{split}/state.json", f"{split}/dataset_info.json"}
    return names


@pytest.mark.parametrize("remote", [False, True])
def test_files_are_made_and_replaced(tmp_path: Path, remote: bool) -> None:
    out = memory_place() / "shards" if remote else tmp_path / "a" / "shards"
    make(out, "old", ("train", "test"), rejected=True)
    assert set(contents(out)) == files_of("old", "train", "test") | {"rejected.jsonl"}
    (out / "notes.md").write_text("mine")
    (out / "train" / "cache-123.arrow").write_text("stale")
    make(out, "new", ("train", "validation"))
    assert set(contents(out)) == files_of("new", "train", "validation") | {"notes.md"}
    assert contents(out)["notes.md"] == "mine"
    index = finished(out)
    assert index is not None
    assert index["mark"] == "new"


def test_a_teacher_s_logits_beside_the_shards_stand_in_nobody_s_way(tmp_path: Path) -> None:
    """They are no split and no build's: neither refused nor taken for shards, swept or vouched for."""
    out = tmp_path / "shards"
    make(out, "old", ("train", "test"))
    kept = {f".teachers/{'a' * 32}/part-00000.f16": "logits", f".teachers/{'a' * 32}/teacher.json": "{}"}
    for name, text in kept.items():
        store.write_whole(out / name, text.encode())
    check_out(out)
    make(out, "new", ("train",))
    assert set(contents(out)) == files_of("new", "train") | set(kept)
    assert kept.items() <= contents(out).items()
    assert staging.made_splits(out) == {"train"}
    with locked(out):
        sweep_others(out, MARKS["third"])
        journal = Journal(out, MARKS["third"])
        journal.open()
        leave(out, journal, ("train",), may_go_on=False)
    assert set(contents(out)) == files_of("new", "train") | set(kept)
    check_out(out)


class Killed(BaseException):
    """Simulates a killed process: nothing after it runs."""


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
        for name in ("replace", "mkdir", "unlink", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(store.shutil, "rmtree", counted(store.shutil.rmtree))
        with suppress(Killed):
            yield


@pytest.mark.parametrize("had_old", [True, False])
def test_a_run_that_is_killed_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, had_old: bool
) -> None:
    endings = set()
    for steps in range(70):
        out = tmp_path / str(steps)
        if had_old:
            make(out, "old", ("train", "test"), rejected=True)
            (out / "notes.md").write_text("mine")
        with killed_after(steps, monkeypatch):
            make(out, "new", ("train", "validation"))
        index, found = finished(out), contents(out) if out.exists() else {}
        if index is not None:  # what an index vouches for is there, whichever it is
            mark = index["mark"]
            endings.add(mark)
            for split, about in index["splits"].items():
                assert found[f"{split}/{about['shards'][0]['file']}"] == mark
                # and `datasets` finds files that are there, be they the old or the new
                state = json.loads(found[f"{split}/state.json"])
                assert f"{split}/{state['_data_files'][0]['filename']}" in found
        else:
            endings.add("none")
        if had_old:
            assert found["notes.md"] == "mine"
        make(out, "third", ("train", "test"))
        left = set(contents(out)) - {"notes.md"}
        assert {name for name in left if not name.endswith(".tmp")} == files_of("third", "train", "test")
    assert endings == ({"old", "new"} if had_old else {"none", "new"})


def test_what_a_failed_run_leaves(tmp_path: Path) -> None:
    make(tmp_path, "old", ("train", "test"), rejected=True)
    before = contents(tmp_path)
    for finished_shards in (0, 2):
        for may_go_on in (True, False):
            journal = Journal(tmp_path, MARKS["new"])
            journal.open()
            for split in ("train", "validation")[:finished_shards]:
                store.write_whole(tmp_path / split / data_name("new"), b"new")
                store.write_whole(journal.folder / f"{split}-00000.json", b"{}")
            assert leave(tmp_path, journal, ("train", "validation"), may_go_on) == finished_shards * may_go_on
            if finished_shards and may_go_on:
                assert contents(tmp_path).keys() - before.keys() >= {f"train/{data_name('new')}"}
            else:
                assert contents(tmp_path) == before
                assert not (tmp_path / "validation").exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "out"),
        pytest.raises(UserError, match=r"one run at a time may write .*out; another run holds it"),
        locked(tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "out").exists()
    with locked(tmp_path / "out"):  # the lock went with its run
        pass


def test_one_run_at_a_time_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    out = memory_place() / "out"
    lease = out / ".qa_fast-partial" / "lease.json"
    with (
        locked(out),
        pytest.raises(UserError, match=r"one run at a time may write memory:.*; another run holds it \(process \d+ on"),
        locked(out),
    ):
        pass
    assert not lease.exists()
    with locked(out):
        pass
    # Who was killed leaves a lease behind, which runs out.
    store.write_whole(lease, json.dumps({"run": "x", "pid": 1, "host": "h", "time": time.time() - 1000}).encode())
    with locked(out):
        assert json.loads(lease.read_bytes())["pid"] == os.getpid()
    # Who lives renews it.
    monkeypatch.setattr(staging, "_RENEW_SECONDS", 0.05)
    with locked(out):
        first = json.loads(lease.read_bytes())["time"]
        until = time.monotonic() + 60
        while json.loads(lease.read_bytes())["time"] == first and time.monotonic() < until:
            time.sleep(0.02)
        assert json.loads(lease.read_bytes())["time"] > first


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unable)
    make(tmp_path, "new", ("train",))
    assert finished(tmp_path) is not None
    monkeypatch.setattr(locks, "fcntl", None)
    make(tmp_path, "third", ("train",))
    assert contents(tmp_path)[f"train/{data_name('third')}"] == "third"


def test_a_folder_that_another_run_makes_meanwhile_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, is_folder = tmp_path / "out", Path.is_dir

    def just_before(path: Path) -> bool:
        found = is_folder(path)
        if path == out:
            os.makedirs(out, exist_ok=True)  # pathlib would call this
        return found

    monkeypatch.setattr(Path, "is_dir", just_before)
    check_out(out)
    assert out.exists()


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
    with pytest.raises(UserError, match=r"--out must be a writable folder with free space; .*File name too long"):
        check_out(tmp_path / ("x" * 5000))
    for out in (file / "below", Path("/proc/no-such-folder")):
        with pytest.raises(UserError, match="--out must be a writable folder"), locked(out):
            pass


def test_a_folder_that_may_not_be_written() -> None:
    am_root = os.geteuid() == 0
    with TemporaryDirectory() as name:  # not tmp_path: others must be able to look into it
        folder = Path(name)
        folder.chmod(0o555)
        if am_root:
            os.seteuid(65534)
        try:
            with (
                pytest.raises(UserError, match=r"--out must be a writable folder.*Permission denied"),
                locked(folder / "below"),
            ):
                pass
        finally:
            if am_root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_own_files_in_the_way_are_never_touched(tmp_path: Path) -> None:
    make(tmp_path, "old", ("train",))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(
        UserError, match=r"none of your own files where shards are written; .* holds test/mine\.txt: move"
    ):
        make(tmp_path, "new", ("train", "test"))
    (tmp_path / "train" / "thesis.docx").write_text("mine")
    with pytest.raises(UserError, match=r"holds train/thesis\.docx: move them, or choose another --out"):
        make(tmp_path, "new", ("train",))
    (tmp_path / "train" / "thesis.docx").unlink()
    (tmp_path / "validation").write_text("mine")
    with pytest.raises(UserError, match="holds validation: move them"):
        make(tmp_path, "new", ("train", "validation"))
    (tmp_path / "validation").unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"splits": 5}', '{"no": 1}'])
def test_a_damaged_index_vouches_for_nothing_and_is_replaced(tmp_path: Path, damage: str) -> None:
    make(tmp_path, "old", ("train", "test"), rejected=True)
    (tmp_path / "qa_fast.json").write_text(damage)
    assert finished(tmp_path) is None
    make(tmp_path, "new", ("train",))
    assert set(contents(tmp_path)) == files_of("new", "train")


def test_links_are_unlinked_not_followed(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    make(out, "old", ("train", "test"))
    (out / "test").rename(elsewhere)
    (out / "test").symlink_to(elsewhere)
    make(out, "new", ("train",))
    assert (elsewhere / "state.json").exists()
    assert not (out / "test").exists()


def test_who_waits_holds_the_folder_that_is_there(tmp_path: Path) -> None:
    """The one before took the empty folder away; a lock on what is gone keeps nobody out."""
    out, inside, leave_now = tmp_path / "out", threading.Event(), threading.Event()

    def first() -> None:
        with staging.locked(out):
            inside.set()
            leave_now.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    timer = threading.Timer(0.2, leave_now.set)
    timer.start()
    with staging.locked(out, wait=True):
        assert out.is_dir()
        with pytest.raises(UserError, match="one run at a time"), staging.locked(out):
            pass
    thread.join()
