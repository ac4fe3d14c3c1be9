"""Pushing: what goes, what is refused, and the upload itself against a small stand-in for the Hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from qa_fast.cli.push import push as push_command
from qa_fast.errors import UserError
from qa_fast.hub import check
from qa_fast.hub.card import CARD, write_card
from qa_fast.hub.files import upload_decision
from qa_fast.hub.push import plan_push
from qa_fast.model.identity import hash_of_weights
from tests.hub.test_card import manifest, trained_folder
from tests.small_runs import make_model_folder

TOKEN = "hf_" + "stand-in-secret-0123456789"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """The Hub's endpoints for making a repository and committing to it; keeps what it was sent.

    Attributes:
        repos: Repository -> whether it is private.
        files: (repository, branch) -> name -> content.
        asked: Method and path of every request.
        status: What whoami answers.
    """

    def __init__(self) -> None:
        self.repos: dict[str, bool] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.status = 200
        self.commit_status = 200
        self.validated: list[str] = []  # cards
        self.large: set[str] = set()  # endings that are sent as large files
        self._objects: dict[str, bytes] = {}
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                stand_in.asked.append(f"{self.command} {path}")
                allowed = "/objects/" in path or self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, value = stand_in.answer(self.command, path, body) if allowed else (401, {"error": "who?"})
                sent = json.dumps(value).encode()
                self.send_response(status)
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return self.status, {"name": "someone", "type": "user", "orgs": []}
        if path == "/api/validate-yaml":
            self.validated.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.repos[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return 200, {"url": f"{self.url}/{repo}", "name": repo, "id": "1"}
        if parts[0] == "objects":
            if hashlib.sha256(body).hexdigest() != parts[1]:
                return 400, {"error": "other bytes"}
            self._objects[parts[1]] = body
            return 200, {}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.url}/objects/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        repo = "/".join(parts[2:4])
        if parts[:2] != ["api", "models"] or repo not in self.repos:
            return 404, {"error": "no such repository"}
        if len(parts) == 4 or parts[4] == "revision":
            return 200, {"id": repo, "sha": COMMIT, "private": self.repos[repo], "siblings": []}
        if parts[4] == "branch":
            return 201, {}
        if parts[4] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(tuple(self.large)) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if parts[4] == "commit":
            if self.commit_status != 200:
                return self.commit_status, {"error": "not yours"}
            kept = self.files.setdefault((repo, parts[5]), {})
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    kept[entry["value"]["path"]] = self._objects[entry["value"]["oid"]]
            url = f"{self.url}/{repo}/commit/{COMMIT}"
            return 200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}
        raise AssertionError(path)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    served = StandIn()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture
def model(tmp_path: Path, weights: Path) -> Path:
    """A folder as training leaves it, with its card, that may be pushed as it is."""
    folder = trained_folder(tmp_path / "model")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(weights / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / "training" / "tensorboard").mkdir()
    (folder / "training" / "tensorboard" / "events.out.tfevents.1.this-machine").write_bytes(b"events")
    write_card(folder, manifest())
    return folder


@dataclass(frozen=True)
class Ran:
    """The outcome of a command."""

    code: int
    stdout: str
    stderr: str


Push = Callable[..., Ran]


@pytest.fixture
def qa_push(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Push]:
    """`qa-fast push` in this process, with the stand-in as the Hub."""
    from huggingface_hub import close_session, constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def run(*arguments: object, token: str | None = TOKEN, url: str = stand_in.url, xet: bool = False) -> Ran:
        close_session()
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        done = CliRunner().invoke(app(), [str(argument) for argument in arguments])
        if done.exception and not isinstance(done.exception, SystemExit | UserError):
            raise done.exception
        ran = Ran(done.exit_code, done.stdout, f"{done.stderr}{done.exception or ''}")
        assert TOKEN not in ran.stdout + ran.stderr
        return ran

    yield run
    close_session()


def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(push_command)
    return made


def sent_files(folder: Path, repo: str = "org/answers") -> dict[str, bytes]:
    """Return the files that should arrive: all of the folder except TensorBoard's, the card with the repository."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }
    return files | {CARD: plan_push(folder, repo).card.encode()}


def test_a_model_arrives_whole(model: Path, stand_in: StandIn, qa_push: Push) -> None:
    stand_in.large = {".safetensors", ".png"}
    before = (model / CARD).read_text()
    done = qa_push(model, "org/answers")
    assert done.code == 0, (done.stderr, stand_in.asked)
    assert f"{stand_in.url}/org/answers/commit/{COMMIT}: 11 files" in done.stdout
    assert "warning: no license is given" in done.stderr
    assert stand_in.repos == {"org/answers": False}
    arrived = stand_in.files["org/answers", "main"]
    assert arrived == sent_files(model)
    assert {"model.safetensors", "training/training.png", ".eval_results/rajpurkar-squad-validation.yaml"} <= {*arrived}
    card = arrived[CARD].decode()
    assert set(stand_in.validated) == {card}
    assert card.count("org/answers") == before.count("ORG/NAME") > 0
    assert "ORG/NAME" not in card
    assert "- name: answers" in card
    assert [asked for asked in stand_in.asked if "commit" in asked] == ["POST /api/models/org/answers/commit/main"]
    # Again, to a branch; the repository is there, and not made twice.
    done = qa_push(model, "org/answers", "--revision", "v2", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["url"].endswith(COMMIT)
    assert stand_in.files["org/answers", "v2"] == sent_files(model)
    assert stand_in.asked.count("POST /api/repos/create") == 1
    assert "POST /api/models/org/answers/branch/v2" in stand_in.asked
    # To another repository, whose card names that one.
    assert (model / CARD).read_text() == before
    assert qa_push(model, "us/final").code == 0
    card = stand_in.files["us/final", "main"][CARD].decode()
    assert card.count("us/final") == before.count("ORG/NAME")
    assert "org/answers" not in card


@pytest.mark.slow
def test_in_a_process_of_its_own(model: Path, stand_in: StandIn, tmp_path: Path) -> None:
    """The Hub's address comes from HF_ENDPOINT, the token from the file that `hf auth login` writes."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN)
    stand_in.large = {".safetensors"}
    script = "import typer\nfrom qa_fast.cli.push import push\napp = typer.Typer()\napp.command()(push)\napp()\n"
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": stand_in.url, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), "org/answers"],
        env=env | {"HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert stand_in.files["org/answers", "main"] == sent_files(model)


def test_private(model: Path, stand_in: StandIn, qa_push: Push) -> None:
    # With the Hub's newer protocol for large files switched on; there are none here.
    done = qa_push(model, "org/answers", "--private", xet=True)
    assert done.code == 0, done.stderr
    assert stand_in.repos == {"org/answers": True}
    assert stand_in.files["org/answers", "main"] == sent_files(model)
    assert sum(asked.startswith("POST") and "/commit/" in asked for asked in stand_in.asked) == 1
    # A public repository is not taken for a private one, and gets nothing.
    stand_in.repos["org/open"] = False
    done = qa_push(model, "org/open", "--private")
    assert done.code != 0
    assert "--private needs a new or a private repository; org/open exists and is public" in done.stderr
    assert ("org/open", "main") not in stand_in.files


def test_the_token_and_the_network(
    model: Path, stand_in: StandIn, qa_push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**settings: Any) -> str:
        done = qa_push(model, "org/answers", **settings)
        assert done.code != 0
        return done.stderr

    error = refused(token=None)
    assert "received none: log in with `hf auth login`, or set HF_TOKEN" in error
    assert not stand_in.asked
    assert "refused yours (401): log in again with `hf auth login --force`" in refused(token="hf_another")
    error = refused(url="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer (" in error
    assert "hf auth login" in error
    stand_in.status = 503
    assert "answered 503: try again later" in refused()
    stand_in.status, stand_in.commit_status = 200, 403
    error = refused()
    assert "the Hub refused the upload to org/answers (" in error
    assert "Forbidden" in error
    assert "check that your token may write to it" in error
    assert not stand_in.files
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set: unset it" in refused()


def test_a_token_in_an_error_is_not_printed(
    model: Path, stand_in: StandIn, qa_push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"could not send header 'Bearer {TOKEN}'")

    monkeypatch.setattr(HfApi, "create_commit", fail)
    assert (
        "refused the upload to org/answers (could not send header 'Bearer ***'): try again"
        in qa_push(model, "org/answers").stderr
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("training/checkpoints/step-00000500/arrays.safetensors", "optimizer state"),
        ("checkpoint-500/model.safetensors", "optimizer state"),
        ("optimizer.pt", "optimizer state"),
        ("training/.metrics.json.tmp", "an unfinished file"),
        ("predictions.json", "may hold your data"),
        ("eval/nbest_predictions.json", "may hold your data"),
        ("na_prob.json", "may hold your data"),
        ("train/data-00000-of-00001.arrow", "may hold your data"),
        ("qa_fast.json", "may hold your data"),
        ("questions.jsonl", "may hold your data"),
        ("dev-v1.1.json", "may hold your data"),
        ("notes.txt", "may hold your data"),
        ("table.csv.gz", "may hold your data"),
        ("data/config.json", "may hold your data"),
        ("pytorch_model.bin", "not known as part of a model"),
        (".env", "not known as part of a model"),
        ("model.safetensors.bak", "not known as part of a model"),
        ("deep/model.safetensors", "not known as part of a model"),
    ],
)
def test_what_must_not_be_uploaded(name: str, why: str, model: Path) -> None:
    path = model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"private")
    plan = plan_push(model, "org/answers")
    assert list(plan.files.refused) == [name]
    assert name not in plan.files.uploaded
    with pytest.raises(UserError, match=r"a folder to push must hold only a model; .*with --leave-out") as error:
        plan.check()
    assert f"{name} ({why})" in str(error.value)
    without = plan_push(model, "org/answers", leave_out=True)
    without.check()
    assert name in without.files.stays
    assert without.files.uploaded == plan.files.uploaded


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "qa_fast_answering.json", "served/1/assets.extra/qa_fast_answering.json",
     "model-00001-of-00002.safetensors", "model.safetensors.index.json", "spiece.model", "model.keras",
     "model.onnx", "onnx/model.onnx", "served/1/saved_model.pb", "served/1/variables/variables.index", "figure.svg"],
)  # fmt: skip
def test_what_is_uploaded(name: str) -> None:
    assert upload_decision(name) == "uploaded"


def test_a_linked_folder_is_named(model: Path, tmp_path: Path) -> None:
    """Its files are not read, so that they must not seem to have been uploaded."""
    (model / "training").rename(tmp_path / "training")
    (model / "training").symlink_to(tmp_path / "training")
    assert plan_push(model, "org/answers").files.refused == {"training": "a link to a folder"}


def test_a_model_without_a_head_is_not_pushed(model: Path, tmp_path: Path) -> None:
    bare = make_model_folder(tmp_path / "bare", head=False)
    shutil.copyfile(bare / "model.safetensors", model / "model.safetensors")
    with pytest.raises(UserError, match=r"must have a question answering head \(qa_outputs.weight"):
        plan_push(model, "org/answers").check()


def test_left_out_files_do_not_arrive(model: Path, stand_in: StandIn, qa_push: Push) -> None:
    wanted = set(sent_files(model))
    (model / "questions[1].jsonl").write_text("{}")
    (model / "training" / "checkpoints").mkdir()
    (model / "training" / "checkpoints" / "arrays.safetensors").write_bytes(b"moments")
    done = qa_push(model, "org/answers")
    assert done.code != 0
    assert "questions[1].jsonl (may hold your data)" in done.stderr
    assert "training/checkpoints/arrays.safetensors (optimizer state)" in done.stderr
    assert not stand_in.asked
    done = qa_push(model, "org/answers", "--leave-out")
    assert done.code == 0, done.stderr
    assert set(stand_in.files["org/answers", "main"]) == wanted


def test_dry_run(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    ran = CliRunner().invoke(app(), [str(model), "org/answers", "--dry-run"], catch_exceptions=False)
    assert ran.exit_code == 0
    size = (model / "model.safetensors").stat().st_size
    for line in (
        f"{size / 1000:.1f} kB  model.safetensors",
        "stays  training/tensorboard/events.out.tfevents.1.this-machine",
        "warning: no license is given, so nobody may use the model: add `license: ...` to README.md",
        "pipeline_tag: question-answering",
        '"org/answers"',
        "| SQuAD v1.1 | validation | all 1,057 | 61.12 | 72.50 |",
    ):
        assert line in ran.stdout, line
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
    (model / "predictions.json").write_text("{}")
    ran = CliRunner().invoke(app(), [str(model), "org/answers", "--dry-run", "--json"])
    about = json.loads(ran.stdout)
    assert about["refused"] == {"predictions.json": "may hold your data"}
    assert about["files"]["model.safetensors"] == size
    assert about["files"][CARD] == len(about["card"].encode())
    assert isinstance(ran.exception, UserError)
    assert about["problems"] == [str(ran.exception)]


def test_a_card_is_checked(model: Path) -> None:
    def findings(text: str) -> list[tuple[bool, str]]:
        (model / CARD).write_text(text)
        return [(finding.must, finding.text) for finding in plan_push(model, "org/answers").findings]

    good = (model / CARD).read_text()
    [(must, text)] = findings(good)
    assert not must
    assert "no license is given" in text
    assert findings(good.replace("---\n", "---\nlicense: apache-2.0\n", 1)) == []
    (must, text), *_ = findings(good.replace("pipeline_tag: question-answering", "pipeline_tag: fill-mask"))
    assert must
    assert "pipeline_tag must be question-answering; received 'fill-mask'" in text
    bare = findings("# A model")
    assert [text.split(":")[0].split(";")[0] for must, text in bare if must] == [
        "pipeline_tag must be question-answering",
        "library_name must name the library that loads the model",
    ]
    warned = " ".join(text for must, text in bare if not must)
    for expected in (
        "model-index has no exact_match and no f1",
        "base_model is missing",
        "datasets is missing",
        "language is missing",
    ):
        assert expected in warned
    (model / CARD).unlink()
    with pytest.raises(UserError, match=r"a model must have a card; .*README\.md does not exist"):
        plan_push(model, "org/answers").check()
    (model / CARD).write_text("---\n- a\n---\n")
    with pytest.raises(UserError, match="a card must begin with metadata"):
        plan_push(model, "org/answers")


def test_records_of_other_weights_do_not_go(model: Path) -> None:
    """As after a training with torch that saves into the same folder."""
    recorded = model / "training" / "metrics.json"
    metrics = json.loads(recorded.read_text())
    recorded.write_text(json.dumps(metrics | {"weights": hash_of_weights(model)}))
    assert not [finding for finding in plan_push(model, "org/name").findings if finding.must]
    recorded.write_text(json.dumps(metrics | {"weights": "0" * 32}))
    (finding,) = [finding for finding in plan_push(model, "org/name").findings if finding.must]
    assert "must describe the model's weights" in finding.text
    with pytest.raises(UserError, match="must describe the model's weights"):
        write_card(model)


def test_a_card_of_ones_own_goes_as_it_is(model: Path) -> None:
    text = "---\nlicense: mit\npipeline_tag: question-answering\nlibrary_name: transformers\n---\n# Mine\n"
    (model / CARD).write_text(text)
    assert plan_push(model, "org/answers").card == text


def test_paths_of_this_machine_are_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.Path, "home", lambda: Path("/home/someone"))
    warned = [finding.text for finding in plan_push(model, "org/answers").findings]
    assert "training/metrics.json: contains the path of your home folder" in warned
    monkeypatch.setattr(check.Path, "home", lambda: Path("/"))
    assert not any("home folder" in finding.text for finding in plan_push(model, "org/answers").findings)


def test_names(model: Path, tmp_path: Path) -> None:
    for name in ("answers", "org/a/b", "org/a b", "-org/a"):
        with pytest.raises(UserError, match=r"the repository must be named ORG/NAME.*; received"):
            plan_push(model, name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"MODEL must be a folder with config\.json and safetensors weights; .*empty"):
        plan_push(tmp_path / "empty", "org/answers")


def test_folders_and_cards_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("x" * 300, "~nobody-of-this-name/model"):
        with pytest.raises(UserError, match=r"MODEL must be a folder with config\.json"):
            plan_push(name, "org/name")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "README.md").write_bytes("Modèle".encode("latin-1"))
    with pytest.raises(UserError, match=r"a card must be UTF-8; .*at byte 3: convert it"):
        plan_push(tmp_path, "org/name")
