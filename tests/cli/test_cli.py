"""`qa-fast featurize` on the command line: options, output, exit codes, and never a traceback."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

from qa_fast.builder.options import BuildOptions
from qa_fast.cli.answer import _document as document_of
from qa_fast.cli.app import app, main
from qa_fast.errors import UserError
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.sources.read import read_examples
from tests import sample
from tests.sources.test_files import save

ROOT = Path(__file__).parents[2]
SMALL = ["--max-length", "48", "--doc-stride", "12"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sample.model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def source(tmp_path: Path) -> str:
    sample.write(tmp_path / "source" / "train.json", sample.squad_v2())
    sample.write(tmp_path / "source" / "dev.jsonl", sample.rows(sample.OTHER_DOCUMENTS))
    return str(tmp_path / "source")


class Command:
    """The command within this process."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capture = patch, capture

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self.patch.setattr(sys, "argv", ["qa-fast", *arguments])
        self.capture.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        out, err = self.capture.readouterr()
        return int(done.value.code or 0), out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # the command sets them; put them back
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Command(monkeypatch, capsys)


def process(*arguments: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", "qa_fast.cli", *arguments], env=settings, capture_output=True, timeout=120, check=False
    )


def test_a_run_says_what_it_made(tmp_path: Path, source: str, model: str) -> None:
    out = str(tmp_path / "out")
    done = process("featurize", source, "--out", out, "--model", model, *SMALL)
    assert done.returncode == 0, done.stderr
    words = done.stdout.decode().split()
    for word in (
        "validation",
        "train",
        "examples",
        "features",
        "without",
        "rejected",
        "tokens",
        "padding",
        "avoided",
    ):
        assert word in words
    assert str(sample.QUESTIONS + len(sample.DOCUMENTS)) in words
    assert f"{out}:" in words
    last = done.stdout.decode().splitlines()[-1]
    times = re.search(
        r": ([\d.]+) s: fetching ([\d.]+), loading kernels ([\d.]+), featurizing ([\d.]+) \([\d,]+ examples/s\)$", last
    )
    assert times, last
    whole, *parts = map(float, times.groups())
    assert abs(whole - sum(parts)) < 0.03
    assert f"{source}: local, validation (1 file), train (1 file)" in done.stderr.decode()
    again = process("featurize", source, "--out", out, "--model", model, *SMALL)
    assert again.returncode == 0
    assert "already there" in again.stdout.decode()
    assert "is up to date: same source, model and options" in again.stderr.decode()


@pytest.mark.slow
def test_quiet_and_json(command: Command, tmp_path: Path, source: str, model: str) -> None:
    base = ["featurize", source, "--model", model, *SMALL]
    assert command(*base, "--out", str(tmp_path / "quiet"), "--quiet") == (0, "", "")
    code, out, err = command(*base, "--out", str(tmp_path / "json"), "--json")
    assert (code, err) == (0, "")
    outcome = json.loads(out)
    assert outcome["out"] == str(tmp_path / "json")
    assert not outcome["up_to_date"]
    parts = [outcome[f"{part}_seconds"] for part in ("fetch", "compile", "featurize")]
    assert abs(sum(parts) - outcome["seconds"]) < 0.005
    assert min(parts) >= 0
    assert outcome["examples_per_second"] > 0
    train = outcome["splits"]["train"]
    assert train["examples"] == sample.QUESTIONS + len(sample.DOCUMENTS)
    split = open_shards(tmp_path / "json").split("train")
    assert train["features"] == len(split)
    assert train["padding_avoided"] == round(1 - float(split.lengths.sum()) / (48 * len(split)), 4)
    assert set(outcome["stage_seconds"]) == {"load", "check", "encode", "windows", "labels", "lay out", "write"}
    outcome = json.loads(command(*base, "--out", str(tmp_path / "json"), "--json")[1])
    assert outcome["up_to_date"]
    assert outcome["examples_per_second"] is None


def test_options_reach_the_build(command: Command, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qa_fast.builder import job as build

    seen: list[Any] = []

    class Stop(Exception):
        pass

    def record(*arguments: Any) -> None:
        seen.extend(arguments)
        raise Stop

    monkeypatch.setattr(build, "build", record)
    line = (
        "qa-fast featurize data --out o --model m --max-length 99 --doc-stride 9 --labels reference --drop-impossible "
        "--split train --split test --max-examples 7 --columns question=frage,context=text --columns id=nr --workers 3 "
        "--overwrite --strict --quiet --encode direct --engine ray --address auto"
    )
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(Stop):
        main()
    assert seen.pop().progress is None
    assert seen[:4] == ["data", "o", "m", FeatureConfig(99, 9, "reference", True)]
    assert dataclasses.asdict(seen[4]) == {
        "columns": {"question": "frage", "context": "text", "id": "nr"},
        "splits": ["train", "test"],
        "validation_share": None,
        "max_examples": 7,
        "encode": "direct",
        "workers": 3,
        "overwrite": True,
        "strict": True,
        "engine": "ray",
        "address": "auto",
    }
    monkeypatch.setattr(sys, "argv", ["qa-fast", "featurize", "data", "--workers", "0"])
    with pytest.raises(Stop):
        main()
    assert seen[-2] == BuildOptions(columns={}, workers=0)  # all processors


def test_rejects_are_pointed_to(command: Command, tmp_path: Path, model: str) -> None:
    flat = sample.rows()
    flat[0]["question"] = ""
    path = sample.write(tmp_path / "train.json", flat)
    code, _, err = command("featurize", str(path), "--out", str(tmp_path / "out"), "--model", model, *SMALL)
    assert code == 0
    share = f"1 ({100 / len(flat):.3g} %)"
    place = tmp_path / "out"
    assert f"train: {share} of the questions were rejected; see why with: qa-fast show {place} --rejected" in err
    code, _, err = command("featurize", str(path), "--out", str(tmp_path / "o2"), "--model", model, *SMALL, "--strict")
    assert code == 2
    assert err.splitlines()[-1].startswith(
        "error: --strict allows no rejected and no repaired example, and no answer that is left out; received 1 or more"
    )


@pytest.mark.parametrize(
    ("name", "data", "arguments", "message"),
    [
        ("a.json", b'{"data": [\n  {"paragraphs": [}\n]}', [], "must be JSON; .* at line 2, column"),
        ("a.json", json.dumps({"data": []}).encode("utf-16-le"), [], "it is UTF-16 without a byte order mark"),
        ("a.json", b"", [], "must hold examples; it is empty"),
        ("a.jsonl", b'{"frage": "q"}\n' * 2, [], "missing question, context, answers, found frage"),
        ("a.parquet", b"PAR1PAR1PAR1", [], "must be a whole Parquet file"),
        ("a.arrow", b"ARROW1\0\0ARROW1", [], "must be a whole Arrow file"),
        ("a.json", b"[]", [], "must hold at least one good example"),
        (
            "a.json",
            b"[]",
            ["--max-length", "8", "--doc-stride", "8"],
            "--doc-stride .* must be smaller than --max-length",
        ),
        ("a.json", b"[]", ["--labels", "best"], "--labels must be one of exact, reference; received 'best'"),
        (
            "a.json",
            b"[]",
            ["--columns", "question"],
            "--columns takes OURS=THEIRS, such as question=frage; received 'question'",
        ),
        ("a.json", b"[]", ["--columns", "question="], "--columns takes OURS=THEIRS, .* received 'question='"),
        ("a.json", b"[]", ["--columns", "title=x"], "--columns maps id, question, context, answers"),
        ("a.json", b"[]", ["--max-examples", "0"], "--max-examples must be at least 1; received 0"),
        ("a.json", b"[]", ["--workers", "-1"], "--workers must be at least 0; received -1"),
        ("a.json", b"[]", ["--split", "train", "--split", "x"], "--split must name splits"),
        ("a.json", b"[]", ["--model", "./none"], "MODEL must be 'minilm', a local model folder, or a model id"),
        (
            "a.json",
            b"[]",
            ["--model", "org/none"],
            "MODEL 'org/none' is not a local folder, so it must come from the Hub",
        ),
        ("a.json", b"[]", ["--out", "{here}/a.json"], "--out must be a folder; received .*a.json, which is a file"),
        ("a.json", b"[]", ["--out", "{here}/a.json/below"], "--out must be a writable folder"),
        ("a.json", b"[]", ["--out", "{here}"], "--out must be new, empty or a folder of shards; .* holds other files"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    command: Command, tmp_path: Path, model: str, name: str, data: bytes, arguments: list[str], message: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / name).write_bytes(data)
    given = [argument.replace("{here}", str(here)) for argument in arguments]
    base = ["featurize", str(here / name), "--out", str(tmp_path / "out"), "--model", model]
    code, out, err = command(*base, *given)
    assert code == 2
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line)
    assert err.splitlines()[-1] == line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_no_traceback_in_a_process_of_its_own(tmp_path: Path, model: str) -> None:
    path = sample.write(tmp_path / "train.json", {"data": [{"paragraphs": 5}]})
    for arguments in (
        ["featurize", str(path), "--out", str(tmp_path / "out"), "--model", model],
        ["featurize", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")],
        ["featurize", os.fsdecode(b"\xff.json"), "--out", str(tmp_path / "out")],
        ["featurize", str(path), "--out", "/proc/none", "--model", model],
        ["featurize", "--max-length", "many", str(path)],
        ["featurize"],
        ["no-such-command"],
    ):
        done = process(*arguments)
        assert done.returncode == 2, arguments
        assert b"Traceback" not in done.stderr
        assert done.stderr


@pytest.mark.slow
def test_names_that_are_no_utf8(tmp_path: Path, model: str) -> None:
    path = tmp_path / os.fsdecode(b"train-\xff.json")
    sample.write(path, sample.squad())
    out = tmp_path / os.fsdecode(b"out-\xfe")
    for encoding in ("utf-8", "ascii"):
        for form in ("--json", "--strict"):
            arguments = ["featurize", str(path), "--out", str(out), "--model", model, *SMALL, form]
            done = process(*arguments, PYTHONIOENCODING=encoding)
            assert done.returncode == 0, done.stderr
            if form == "--json":
                assert json.loads(done.stdout)["out"] == str(out)
    for path in (save(sample.table(), tmp_path / os.fsdecode(b"\xff.parquet")),
                 save(sample.table(), tmp_path / os.fsdecode(b"\xff.arrow"))):  # fmt: skip
        assert [table.num_rows for table, _ in read_examples(path, {})] == [sample.QUESTIONS]
    assert (out / "qa_fast.json").is_file()
    source = json.loads((out / "qa_fast.json").read_text(encoding="utf-8"))["source"]
    assert source["name"] == str(tmp_path / os.fsdecode(b"train-\xff.json"))


def test_output_that_nobody_reads(tmp_path: Path, source: str, model: str) -> None:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    arguments = ["featurize", source, "--out", str(tmp_path / "out"), "--model", model, *SMALL]
    run = subprocess.Popen([sys.executable, "-m", "qa_fast.cli", *arguments], env=settings, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)  # fmt: skip
    assert run.stdout is not None
    run.stdout.close()
    _, err = run.communicate(timeout=120)
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


def test_help_loads_no_framework() -> None:
    code = (
        "import sys\n"
        "from qa_fast.cli import main\n"
        "sys.argv = ['qa-fast', 'featurize', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'transformers', 'pyarrow', 'numba', 'datasets', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    options = (
        "out model max-length doc-stride labels drop-impossible split max-examples columns workers overwrite strict"
    )
    for option in [*options.split(), "quiet", "json"]:
        assert f"--{option} " in done.stdout
    assert "the overlap, not the step" in done.stdout


def test_featurizing_loads_no_framework(tmp_path: Path, source: str, model: str) -> None:
    code = (
        "import sys\n"
        "from qa_fast.builder.job import build_shards\n"
        "from qa_fast.schema import FeatureConfig\n"
        f"build_shards({source!r}, {str(tmp_path / 'out')!r}, {model!r}, FeatureConfig(48, 12))\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_no_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import qa_fast.cli.app as module

    for error in (
        MemoryError("Unable to allocate 2.00 TiB"),
        pa.ArrowMemoryError("malloc of size 5 failed"),
        MemoryError(),
    ):

        def fails(raised: Exception = error) -> None:
            raise raised

        monkeypatch.setattr(module, "app_of", lambda _, fails=fails: fails)
        with pytest.raises(SystemExit) as stop:
            module.main()
        assert stop.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith("error: there must be enough memory; ")
        assert told.count("\n") == 1


def test_a_full_disk_is_told_with_the_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "/data/out.arrow")

    monkeypatch.setattr("qa_fast.cli.app.app_of", lambda _: full)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    told = "error: /data/out.arrow must be writable, with free space; No space left on device: free some space"
    assert capsys.readouterr().err == told + "\n"


def test_a_file_that_ends_early_is_no_interruption() -> None:
    from qa_fast.cli.records import GroupedCommand

    cut = typer.Typer()

    @cut.command(cls=GroupedCommand)
    def read() -> None:
        raise EOFError("Ran out of input")

    result = CliRunner().invoke(cut, [])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == "files must be whole; one ends too early (Ran out of input): make it again"
    assert "Aborted" not in result.output


def test_no_summary_of_a_command_is_cut_at_80_columns() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"})
    assert "..." not in result.stdout.partition("Commands:")[2]


def test_a_document_in_any_encoding_is_read_or_refused_with_its_name(tmp_path: Path) -> None:
    path, text = tmp_path / "text", "Die Mühle steht."
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for pack in (bytes, gzip.compress):
            path.write_bytes(pack(text.encode(encoding)))
            assert document_of(None, path) == text
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(
        UserError, match=r"the document in .*text must be UTF-8; received byte 0xfc at byte 5: .* CP1252"
    ):
        document_of(None, path)
