"""Local and remote files are written whole and read back, and unreachable ones are reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qa_fast import store, temporary
from qa_fast.builder.job import build_shards
from qa_fast.cache import SEAL
from qa_fast.errors import UnreachableError, UserError
from qa_fast.progress import Reporter
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.sources import pieces, resolve_model
from tests import sample
from tests.builder.test_build import rejected
from tests.damages import DAMAGES, damage
from tests.memory_place import memory_place
from tests.object_store import s3_bucket

CONFIG = FeatureConfig(max_length=48, doc_stride=12)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_bucket(patch) as url:
        yield url


def write_and_fail(local: Path) -> None:
    local.write_bytes(b"half")
    raise ZeroDivisionError


def test_names_are_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.place("~/a") == tmp_path / "a"
    assert store.place("~no-such-user-here/x") == Path("~no-such-user-here/x")
    assert store.place(f"file://{tmp_path}/b") == tmp_path / "b"
    assert store.place(tmp_path) is tmp_path
    away = store.place("memory://x/y.json")
    assert (store.is_local(tmp_path), store.is_local(away)) == (True, False)
    assert (away.name, away.suffix) == ("y.json", ".json")
    assert store.place(away) is away
    assert [store.is_url(name) for name in ("s3://b/c", "C://x", "a/b", "/a", "hf://datasets/x/y")] == [
        True, False, False, False, True,
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"a URL must be one that fsspec knows, such as s3://bucket/name; nosuch://a"):
        store.place("nosuch://a")


@pytest.mark.parametrize("remote", [False, True])
def test_files_appear_whole_or_not_at_all(tmp_path: Path, remote: bool) -> None:
    folder = memory_place() if remote else tmp_path / "new"
    store.write_whole(folder / "a", b"one")
    for name in ("a", "b"):
        with pytest.raises(ZeroDivisionError), store.whole_file(folder / name) as local:
            write_and_fail(local)
    assert (folder / "a").read_bytes() == b"one"
    assert store.names_in(folder) == ["a"]
    store.write_json(folder / "c.json", {"näme": ["港", "half \udcff"]})
    assert store.read_json(folder / "c.json") == {"näme": ["港", "half \udcff"]}
    assert store.read_json(folder / "none.json") is None
    store.write_whole(folder / "d.json", b"[" * 100_000)
    assert store.read_json(folder / "d.json") is None
    store.remove(folder / "d.json")
    store.remove(folder / "d.json")
    long = "港" * 84  # 252 bytes; file systems allow 255
    store.write_whole(folder / long, b"one")
    assert store.names_in(folder) == ["a", "c.json", long]
    store.remove_folder(folder)
    store.remove_folder(folder)
    assert store.names_in(folder) == []


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".a.1-01234567.tmp", ".a.2-01234567.tmp", ".mine.tmp"))
    for path in (old, new, other):
        path.write_bytes(b"")
    for path in (old, other):
        os.utime(path, (time.time() - 1e6,) * 2)
    store.write_whole(tmp_path / "b", b"")
    assert store.names_in(tmp_path) == [new.name, other.name, "b"]


@pytest.mark.slow
def test_scratch_of_dead_processes_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for name in (f"qa-fast-{int(dead.stdout)}-abcdefgh", f"qa-fast-{os.getppid()}-abcdefgh", "qa-fast-1-notes"):
        (tmp_path / name).mkdir()
    with temporary.scratch() as folder:
        assert folder.is_dir()
        assert set(store.names_in(tmp_path)) == {f"qa-fast-{os.getppid()}-abcdefgh", "qa-fast-1-notes", folder.name}
    assert not folder.exists()


@pytest.mark.slow
def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path, ended = tmp_path / "a", threading.Event()
    texts = [bytes([65 + i]) * (1 << 20) for i in range(4)]
    store.write_whole(path, texts[0])

    def write(text: bytes) -> None:
        while not ended.is_set():
            store.write_whole(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    seen = {path.read_bytes() for _ in range(60)}
    ended.set()
    for thread in threads:
        thread.join()
    assert seen <= set(texts)
    assert store.names_in(tmp_path) == ["a"]


def test_what_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UnreachableError, match=r"must be one that can be reached and used; s3://nobucket/x") as caught:
        build_shards("s3://nobucket/x", None)
    assert "\n" not in str(caught.value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.cluster
def test_from_an_object_store_to_an_object_store(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1500)
    model = sample.model_folder(tmp_path / "model")
    many = [{**row, "id": f"{row['id']}-{i % 9}"} for i in range(12) for row in sample.rows()]
    sample.write(tmp_path / "source" / "train.jsonl", many)
    pq.write_table(sample.table(), tmp_path / "source" / "dev.parquet")
    for path in (*(tmp_path / "source").iterdir(), *model.iterdir()):
        store.place(f"{bucket}/{path.parent.name}/{path.name}").write_bytes(path.read_bytes())

    here = build_shards(str(tmp_path / "source"), tmp_path / "out", str(model), CONFIG)
    there = build_shards(f"{bucket}/source", f"{bucket}/out", f"{bucket}/model", CONFIG, workers=2)
    for split, about in here.manifest["splits"].items():
        sums = [file["xxh3_128"] for file in about["shards"]]
        assert [file["xxh3_128"] for file in there.manifest["splits"][split]["shards"]] == sums
    opened = open_shards(f"{bucket}/out")
    for split in ("train", "validation"):
        local = open_shards(tmp_path / "out").split(split)
        assert list(opened.split(split)) == list(local)
    assert (store.place(f"{bucket}/out") / "rejected.jsonl").read_bytes() == (
        tmp_path / "out" / "rejected.jsonl"
    ).read_bytes()
    assert len(rejected(tmp_path / "out")) == 24
    assert not (store.place(f"{bucket}/out") / ".qa_fast-partial").exists()

    said: list[str] = []
    report = Reporter(said.append)
    assert build_shards(f"{bucket}/source", f"{bucket}/out", f"{bucket}/model", CONFIG, report=report).up_to_date
    with pytest.raises(UserError, match="made with other inputs or options"):
        build_shards(f"{bucket}/source", f"{bucket}/out", str(model), FeatureConfig(50, 12))
    build_shards(f"{bucket}/source", f"{bucket}/out", str(model), FeatureConfig(50, 12), overwrite=True)
    names = {path.name for path in (store.place(f"{bucket}/out") / "train").iterdir()}
    assert len({name.split("-")[1] for name in names if name.startswith("data-")}) == 1
    assert json.loads((store.place(f"{bucket}/out") / "qa_fast.json").read_bytes())["config"]["max_length"] == 50


def test_a_damaged_file_elsewhere_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    model = sample.model_folder(tmp_path / "model")
    path = sample.write(tmp_path / "train.json", sample.squad())
    out = memory_place() / "out"
    build_shards(str(path), str(out), str(model), CONFIG)
    (name,) = [name for name in store.names_in(out / "train") if name.startswith("data-")]
    data = bytearray((out / "train" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / "train" / name).write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"must be as featurize left it; train/{name} is damaged: featurize again"):
        open_shards(str(out)).split("train")
    store.remove(out / "train" / name)
    with pytest.raises(UserError, match=rf"{name} does not exist"):
        open_shards(str(out)).split("train")
    with pytest.raises(UserError, match=r"SHARDS must be a folder that 'qa-fast featurize' made; memory:.* has no qa"):
        open_shards(str(out / "train"))


def test_a_model_elsewhere_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    model, away, said = sample.model_folder(tmp_path / "model"), memory_place(), []
    for path in model.iterdir():
        store.write_whole(away / path.name, path.read_bytes())
    for _ in range(2):
        folder = resolve_model(str(away), said.append)
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SEAL} == {
            path.name: path.read_bytes() for path in model.iterdir()
        }
    assert len(said) == 1
    for kind in DAMAGES:
        damage(folder / "tokenizer.json", kind)
        assert resolve_model(str(away), said.append) == folder
        assert (folder / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert said[1:] == [f"{away}: fetching 1 files"] * len(DAMAGES)


def test_a_damaged_copy_of_shards_elsewhere_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    model, path = sample.model_folder(tmp_path / "model"), sample.write(tmp_path / "train.json", sample.squad())
    out = memory_place() / "out"
    build_shards(str(path), str(out), str(model), CONFIG)
    right = list(open_shards(str(out)).split("train"))
    copy = open_shards(str(out)).folder
    for file in [file for file in copy.rglob("*") if file.is_file()]:
        for kind in DAMAGES:
            damage(file, kind)
            assert list(open_shards(str(out)).split("train")) == right
