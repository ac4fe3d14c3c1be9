"""Helps fit 80 columns and end with examples that run; mistakes are refused before a framework is imported."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import AnswerRules
from qa_fast.cli.app import app, main
from qa_fast.cli.examples import EXAMPLES
from tests import sample
from tests.backend import untraced
from tests.small_runs import authored_examples, make_model_folder

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# Options without a heading: those of few options, and these.
UNGROUPED = {"--quiet", "--json", "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_fits_80_columns_and_ends_with_two_examples(name: str) -> None:
    told = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"}).stdout.rstrip()
    assert [line for line in told.splitlines() if len(line) > 80] == []
    assert told.splitlines()[-3:] == ["Examples:", *(f"  {example}" for example in EXAMPLES[name])]
    for example in EXAMPLES[name]:
        words = [word for word in shlex.split(example) if not word.startswith(("QA_FAST_", "NUMBA_"))]
        assert words[:2] == ["qa-fast", name]
        COMMANDS[name].make_context(name, words[2:])


@pytest.mark.parametrize("name", COMMANDS)
def test_many_options_are_grouped(name: str) -> None:
    options = [each for each in COMMANDS[name].params if each.param_type_name == "option"]
    if len(options) > 10:
        assert [each.opts for each in options if not each.rich_help_panel and not UNGROUPED & set(each.opts)] == []


@pytest.mark.slow
@untraced()
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In order, in one folder where `squad` is small; what needs a network, a process or a thousand questions, or has
    no end, is replaced.
    """
    pytest.importorskip("tensorflow")
    rows = authored_examples()
    sample.write(tmp_path / "squad" / "train.jsonl", rows[:18])
    sample.write(tmp_path / "squad" / "validation.jsonl", rows[18:])
    sample.write(tmp_path / "questions.jsonl", [{"ask": row.pop("question"), **row} for row in authored_examples(2)])
    sample.write(tmp_path / "asked.jsonl", [{"question": "Who?", "context": "Ane Skou."}])
    small = make_model_folder(tmp_path / "minilm", max_position_embeddings=512)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", os.environ.get("NUMBA_CACHE_DIR", ""))  # put back what an example sets
    monkeypatch.setenv("QA_FAST_API_KEY", "")
    from qa_fast.hub import push
    from qa_fast.report import calibrate
    from qa_fast.serve import server
    from qa_fast.train import sweep

    monkeypatch.setattr(push, "push", lambda plan, **_: push.Pushed("https://hub.example", 1, 1))
    values = np.array([0, np.nan, 0, 0, 0, 0])  # all answers are wrong
    figures = calibrate.Figures(values, [(0.0, 1.0)] * 6, {"f1": 1.0})
    rules = AnswerRules(
        null_threshold=0.5, calibration=Calibration(1, 0, 0, "squad", "validation", "", 0, 500, 0.1, 0.1)
    )
    made = calibrate.Calibrated(rules, True, 500, figures, figures, None)
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, **__: made)
    monkeypatch.setattr(server, "run_server", lambda _, bound: bound.close())
    score = {"epochs": [], "best": {"f1": 1.0, "exact_match": 1.0}}
    monkeypatch.setattr(sweep, "in_a_process", lambda arguments: score)
    assert small.is_dir()
    for example in [example for pair in EXAMPLES.values() for example in pair]:
        # Six questions cannot show that int8 loses little.
        lenient = " --max-loss 100" if "qa-fast quantize" in example else ""
        words = shlex.split(example.replace("--epochs 3", "--epochs 1") + lenient)
        while "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("=", 1))
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code, (example, capsys.readouterr().err[-2000:])


# For each command mistakes in its options, folders and port; {here} holds a file, a folder with a file, and a folder
# whose config.json describes no model.
REFUSED = """
train none
train {shards} --epochs 0
train {shards} --resume --overwrite
train {shards} --precision what
train {shards} --out {here}/full
train {shards} --out {here}/file
train {shards} --out {here}/new --model {here}/broken
train {shards} --out {here}/new --teacher {here}/broken
train {shards} --out {here}/new --validation other
train {shards} --process-id 1
sweep none
sweep {shards} --trials 0
sweep {shards} --validation ''
sweep {shards} --out {here}/full
sweep {shards} --out {here}/new --model {here}/broken
evaluate none {model}
evaluate {shards} {model} --engine what
evaluate {shards} {model} --precision what
evaluate {shards} {model} --n-best 0
evaluate {shards} {model} --max-answer-length 0
evaluate {shards} {model} --no-allow-no-answer --null-threshold 1
evaluate {shards} {model} --split train
evaluate {shards} {model} --out {here}/file
evaluate {shards} {model} --report {here}/file
evaluate {shards} {here}/broken
calibrate none {shards}
calibrate {model} none
calibrate {model} {shards}
calibrate {model} {shards} --engine what
calibrate {model} {shards} --split train
calibrate {model} {shards} --seed -1
quantize {model} none
quantize {here}/broken {shards}
quantize {model} {shards} --max-loss -1
quantize {model} {shards} --split train
answer {model} -q Who? -c Ane. --engine what
answer {model} -q Who? -c Ane. --precision what
answer {model} -q Who? -c Ane. --top-k 0
answer {here}/broken -q Who? -c Ane.
answer {model} -q Who? -f {here}/none
answer {model} --input {here}/none.jsonl --output {here}/new.jsonl
answer {model} --input {shards}-source/train.jsonl --output {shards}-source/validation.jsonl
answer {model} --input {shards}-source/train.jsonl --output {here}/new --format what
serve {model} --engine what
serve {model} --host 0.0.0.0
serve {model} --port {port}
serve {model} --time-limit 0
serve {model} --cors-origin '*'
serve {here}/broken
export {here}/broken --out {here}/new.keras
export {model} --out {here}/file --format onnx
export {model} --out {here}/new --format what
push {here}/broken a/b
featurize {here}/none.json
featurize {shards}-source --model {here}/broken
featurize {shards}-source --max-length 0
featurize {shards}-source --out {here}/full
show {here}/none.json
show {shards}-source --limit -1
show {shards}-source --html {here}/file
"""
# Runs the mistakes one after the other. No framework or engine may be imported by any of them.
SCRIPT = """
import shlex, sys
from qa_fast.cli import main
HEAVY = {"keras", "tensorflow", "jax", "torch", "transformers", "onnx", "onnxruntime", "openvino", "optuna", "ray",
         "fastapi", "uvicorn", "datasets"}
for line in sys.stdin.read().split("\\n"):
    sys.argv = ["qa-fast", *shlex.split(line)]
    code = None
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        code = repr(error)
    loaded = sorted(HEAVY & set(sys.modules))
    if code != 2 or loaded:
        print(line, code, *loaded, flush=True)
        HEAVY -= set(loaded)
"""


@pytest.mark.slow
def test_mistakes_are_refused_before_a_framework_is_imported(tmp_path: Path) -> None:
    import socket

    from tests.small_runs import make_shards

    model = make_model_folder(tmp_path / "model")
    shards = make_shards(tmp_path / "shards", model, places=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "none"}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        mistakes = REFUSED.format(here=tmp_path, model=model, shards=shards, port=taken.getsockname()[1]).strip()
        env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "QA_FAST_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", SCRIPT], input=mistakes, env=env, capture_output=True, text=True,
                              check=True, cwd=tmp_path)  # fmt: skip
    assert done.stdout == "", done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
