"""Every output of every command, aimed at inputs, at side files and at links: no byte of another file changes."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qa_fast import store
from qa_fast.cli.app import app
from qa_fast.errors import UserError
from qa_fast.html.page import page, save_page
from tests import sample
from tests.small_runs import make_model_folder, make_shards

# OUT is the place that is attacked.
COMMANDS = (
    "featurize data --model model --max-length 48 --doc-stride 12 --out OUT",
    "show data/rows.json --model model --html OUT",
    "show shards --html OUT",
    "train shards --model model --epochs 1 --out OUT",
    "sweep shards --trials 1 --out OUT",
    "evaluate shards model --out OUT",
    "evaluate shards model --report OUT",
    "evaluate shards model --compare data/predictions.json --report OUT",
    "answer model --input data/rows.json --output OUT",
    "answer model --input data/q.rejected.jsonl --output OUT",
    "answer model --input data --output OUT --format parquet",
    "export model --format onnx --out OUT",
    "export model --format keras --out OUT",
    "export model --format saved-model --out OUT",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all inputs, files of the user beside them, and links to them of both kinds."""
    root = tmp_path_factory.mktemp("outputs")
    sample.write(root / "data" / "rows.json", sample.rows())
    for name in ("q.rejected.jsonl", "notes.rejected.jsonl", "model.onnx", "model.keras"):
        sample.write(root / "data" / name, sample.rows())
    sample.write(root / "data" / "predictions.json", {"a": "b"})
    make_shards(root / "shards", make_model_folder(root / "model"))
    (root / "links").mkdir()
    for place in [
        root / "data",
        root / "model",
        root / "shards",
        *(root / "data").iterdir(),
        *(root / "model").iterdir(),
    ]:
        (root / "links" / f"soft-{place.name}").symlink_to(place)
        if place.is_file():
            os.link(place, root / "links" / f"hard-{place.name}")
    (root / "links" / "nowhere.onnx").symlink_to(root / "nowhere")
    return root


def contents(root: Path) -> dict[str, bytes | str]:
    """Return the bytes of every file and the aims of every link below a folder."""
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def targets(root: Path, command: str) -> list[str]:
    """Return the places to attack: whatever exists, and names whose side files exist."""
    below = [str(path.relative_to(root)) for path in root.rglob("*")]
    besides = ["data/q.jsonl", "data/notes.jsonl", "data/notes.parquet"] if "--output" in command else []
    return [*sorted(below), *besides, "data/../model", "./data/rows.json"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_output_replaces_what_it_did_not_make(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = contents(folder)
    if command.startswith("evaluate") and "--out " in command:
        for name in ("data", "links/soft-data"):
            run = CliRunner().invoke(app, command.replace("OUT", name).split())
            assert "a file in --out must not exist" in str(run.exception)
        assert contents(folder) == before
        return
    for target in targets(folder, command):
        arguments = [target if word == "OUT" else word for word in command.split()]
        for flags in ([], ["--overwrite"] if "sweep" not in command and _is_input(command, target) else []):
            run = CliRunner().invoke(app, [*arguments, *flags])
            assert isinstance(run.exception, UserError) or run.exit_code == 2, (arguments, run.output, run.exception)
            changed = {name for name, content in contents(folder).items() if before.get(name) != content}
            assert not changed, arguments
            assert contents(folder).keys() == before.keys(), arguments


def _is_input(command: str, target: str) -> bool:
    """Tell whether a command reads the file or folder that is its output: then not even a flag may replace it."""
    real = Path(target).resolve()
    reads = [Path(word).resolve() for word in command.split() if (Path.cwd() / word).exists()]
    return any(real in (read, *read.parents) or read in real.parents for read in reads)


def test_pages_of_ours_alone_are_replaced_without_a_flag(tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    save_page(place, page("old"))
    save_page(place, page("new"))
    assert "new" in place.read_text("utf-8")
    place.write_text("<!doctype html><p>mine</p>")
    with pytest.raises(UserError, match=r"--html must not exist; .* does: choose another, or pass --overwrite"):
        save_page(place, page("new"))
    save_page(place, page("new"), overwrite=True)
    assert "new" in place.read_text("utf-8")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def no_links(*places: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
    place = tmp_path / "out.jsonl"
    store.write_whole(tmp_path / "free", b"ours", replace=False)
    assert (tmp_path / "free").read_bytes() == b"ours"

    def write() -> None:
        with store.whole_file(place, replace=False) as temporary:
            temporary.write_bytes(b"ours")
            place.write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        write()
    assert place.read_bytes() == b"theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "out.jsonl"]


def test_links_at_an_output_are_not_written_through(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"mine")
    (tmp_path / "soft").symlink_to(kept)
    os.link(kept, tmp_path / "hard")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for name in ("soft", "hard", "nowhere"):
        with pytest.raises(UserError, match="--out must not exist"):
            store.check_output(tmp_path / name, "--out")
        store.write_whole(tmp_path / name, b"ours")
        assert (tmp_path / name).read_bytes() == b"ours"
        assert not (tmp_path / name).is_symlink()
    assert kept.read_bytes() == b"mine"
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"--out must be a file, .* is a device"):
        store.check_output(Path("/dev/null"), "--out", overwrite=True)


def test_a_link_that_comes_and_goes_is_never_written_through(tmp_path: Path) -> None:
    kept, place, ended = tmp_path / "kept", tmp_path / "out", threading.Event()
    kept.write_bytes(b"mine")

    def attack() -> None:
        while not ended.is_set():
            for link in (os.symlink, os.link):
                with contextlib.suppress(OSError):
                    link(kept, place)
                with contextlib.suppress(OSError):
                    place.unlink()

    attacker = threading.Thread(target=attack)
    attacker.start()
    for turn in range(300):
        with contextlib.suppress(FileExistsError):
            store.write_whole(place, b"ours", replace=turn % 2 == 0)
    ended.set()
    attacker.join()
    assert kept.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
