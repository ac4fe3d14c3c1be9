"""Ray makes the same shards as local threads, on a real cluster on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from qa_fast.builder import ray_engine as ray_data
from qa_fast.builder import staging
from qa_fast.builder.job import build_shards
from qa_fast.errors import MissingExtraError, UnreachableError, UserError
from qa_fast.progress import Reporter
from qa_fast.schema import FeatureConfig
from qa_fast.shards import INDEX
from qa_fast.sources import pieces
from tests import sample
from tests.builder.test_build import contents, rejected

CONFIG = FeatureConfig(max_length=48, doc_stride=12)

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sample.model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files that make many blocks, with ids that repeat within them, across them, and rows that are no examples."""
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1500)
    many = [{**row, "id": f"{row['id']}-{i % 9}"} for i in range(12) for row in sample.rows()]
    many[5]["question"] = ""
    sample.write(tmp_path / "source" / "train-1.jsonl", [*many, many[0]])
    sample.write(tmp_path / "source" / "train-2.json", many[:10])
    sample.write(tmp_path / "source" / "dev.json", sample.squad_v2())
    return str(tmp_path / "source")


def test_actors_make_the_shards_of_one_thread(tmp_path: Path, source: str, model: str) -> None:
    divided: dict[str, Any] = {"splits": ["train"], "validation_share": 0.3}
    local = build_shards(source, tmp_path / "local", model, CONFIG, **divided)
    assert len(local.manifest["splits"]["train"]["shards"]) > 6
    assert len(rejected(tmp_path / "local")) > 20
    said: list[str] = []
    report = Reporter(said.append)
    build_shards(source, tmp_path / "ray", model, CONFIG, engine="ray", workers=2, report=report, **divided)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    build_shards(source, tmp_path / "threads", model, CONFIG, workers=3, **divided)
    assert contents(tmp_path / "threads") == contents(tmp_path / "local")
    assert build_shards(source, tmp_path / "local", model, CONFIG, engine="ray", **divided).up_to_date
    assert not any("interrupted" in line for line in said)


def test_mistakes_are_one_line(tmp_path: Path, source: str, model: str) -> None:
    (Path(source) / "train-3.json").write_text('{"data": [')
    with pytest.raises(UserError, match=r"train-3\.json must be JSON; .*at line 1") as caught:
        build_shards(source, tmp_path / "out", model, CONFIG, engine="ray", workers=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    (Path(source) / "train-3.json").unlink()
    with pytest.raises(
        UserError, match=r"--strict allows no rejected and no repaired example, .*; received 1 or more rejected"
    ):
        build_shards(source, tmp_path / "out", model, CONFIG, engine="ray", workers=1, strict=True)
    with pytest.raises(UserError, match="--engine must be one of local, ray; received 'spark'"):
        build_shards(source, tmp_path / "out", model, CONFIG, engine="spark")
    # An actor that is being killed may still write a part of its block.
    assert not (tmp_path / "out" / INDEX).exists()


def test_actors_that_are_killed_are_replaced(tmp_path: Path, source: str, model: str) -> None:
    build_shards(source, tmp_path / "local", model, CONFIG)
    killed, done = [], threading.Event()

    def kill() -> None:
        while len(killed) < 2 and not done.is_set():
            for process in psutil.Process().children(recursive=True):
                try:
                    if "MapWorker" in process.cmdline()[0] and process.pid not in killed:
                        time.sleep(0.05)
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        break
                except (psutil.Error, IndexError, ProcessLookupError):
                    continue
            time.sleep(0.1)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        build_shards(source, tmp_path / "out", model, CONFIG, engine="ray", workers=2)
    finally:
        done.set()
        thread.join()
    assert killed
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_one_actor_keeps_what_is_finished(
    tmp_path: Path, source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qa_fast.builder import job as build

    out = tmp_path / "out"
    build_shards(source, tmp_path / "local", model, CONFIG)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "put_together", stopped)
        with pytest.raises(KeyboardInterrupt):
            build_shards(source, out, model, CONFIG)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/*.arrow")}
    assert len(stamps) > 6
    broken = sorted(stamps)[0]
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    said: list[str] = []
    build_shards(source, out, model, CONFIG, engine="ray", workers=1, report=Reporter(said.append))
    assert contents(out) == contents(tmp_path / "local")
    assert sum("were finished by an interrupted run and are kept" in line for line in said) == 1
    there = {path: stamp for path, stamp in stamps.items() if path.exists()}  # a block may hold repeated ids alone
    changed = {path for path, stamp in there.items() if path.stat().st_mtime_ns != stamp}
    block = broken.name[-len("-00000.arrow") :]
    assert broken in changed
    # The labels of several answers are in a file of their own.
    assert changed <= {broken, *broken.parent.glob(f"labels-*{block}")}


def test_finished_shards_stay_where_ray_is_missing(
    tmp_path: Path, source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = staging.leave
    left: list[int] = []
    monkeypatch.setattr("qa_fast.builder.job.leave", lambda *args: left.append(leave(*args)) or left[-1])
    monkeypatch.setattr(staging.Journal, "clear", lambda _: pytest.fail("finished shards were taken away"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qa_fast.builder.job.put_together", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_shards(source, tmp_path / "out", model, CONFIG)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError):
        build_shards(source, tmp_path / "out", model, CONFIG, engine="ray")
    assert left[0] == left[1] > 0


def test_no_cluster_and_no_ray_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    def refuses(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", refuses)
    with (
        pytest.raises(
            UnreachableError, match=r"--address must be a running Ray cluster; received 10\.0\.0\.1:6379: Could"
        ),
        ray_data.connected("10.0.0.1:6379", None),
    ):
        pass
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with (
        pytest.raises(MissingExtraError, match=r"--engine ray needs packages .*'qa-fast\[ray\]'"),
        ray_data.connected(None, 1),
    ):
        pass
