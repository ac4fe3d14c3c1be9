"""The pages of docs/ and the README: their commands parse and run, their Python compiles and imports what exists."""

from __future__ import annotations

import ast
import glob
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import typer

import qa_fast
from qa_fast.cli.app import app, main
from tests import sample
from tests.backend import untraced
from tests.short_command import write_command
from tests.small_runs import PLACES, authored_examples, make_model_folder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose commands run here. docs/beyond.md needs an object store and has a test of its own; the README and the
# migration page name single commands without their surroundings.
RUN = ("getting-started", "your-data", "featurizing", "training", "evaluating", "answering", "reliable")


class Block(NamedTuple):
    """A block of code on a page, and whether a comment before it says that it is not run."""

    page: str
    line: int
    language: str
    code: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in order."""
    pattern = re.compile(r"(?P<skip><!-- not run: [^\n]+ -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text[: match.start("code")].count("\n"), match["language"], match["code"], not match["skip"])
        for match in pattern.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def command_lines(block: Block) -> list[list[str]]:
    """The `qa-fast` commands of a block of shell commands or of a console, as words."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    words = [shlex.split(line, comments=True) for line in lines if line.lstrip().startswith("qa-fast ")]
    return [[word for word in line if word not in ("&", "…")] for line in words]


def mentions() -> list[tuple[str, str]]:
    """Each `qa-fast …` inside a sentence or table, with its page."""
    found = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        found += [(page.name, code) for code in re.findall(r"`(qa-fast [^`\n]+)`", prose)]
    return found


def parse(words: list[str]) -> None:
    """Parse a command with the real command line, without running it; unknown options and values fail."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    name, arguments = words[1], words[2:]
    command = group.commands[name]  # type: ignore[attr-defined]
    if "--help" not in arguments:
        command.make_context(name, list(arguments))


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if command_lines(block)], ids=lambda block: f"{block.page}-{block.line}"
)
def test_every_command_parses(block: Block) -> None:
    for words in command_lines(block):
        parse(words)


@pytest.mark.parametrize(("page", "code"), mentions())
def test_every_command_and_option_in_the_text_exists(page: str, code: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    name, *words = code.removeprefix("qa-fast ").split()
    if name in ("COMMAND", "--help", "--version"):
        return
    options = {option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        assert not word.startswith("-") or word in options | {"--help"}, f"{page}: {word}"


def test_every_option_named_alone_belongs_to_a_command() -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    known |= {option for command in commands for parameter in command.params for option in parameter.secondary_opts}
    for page in PAGES:
        if page.name == "migration.md":  # its tables name the options of other programs
            continue
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for code in re.findall(r"`(--[a-z-]+)", prose):
            assert code in known | {"--help"}, f"{page.name}: {code}"


@pytest.mark.parametrize("name", ["docs/design.md", "ARCHITECTURE.md", "SECURITY.md", "bench/README.md"])
def test_every_file_that_a_page_names_exists(name: str) -> None:
    known = {path.name for folder in ("qa_fast", "bench", "tools", "tests") for path in (ROOT / folder).rglob("*.py")}
    named = re.findall(r"`(?:[\w/]+/)?(\w+\.py)\b", (ROOT / name).read_text(encoding="utf-8"))
    assert [file for file in named if file not in known] == []


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python"], ids=lambda block: f"{block.page}-{block.line}"
)
def test_every_block_of_python_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qa_fast"):
            if "haystack" in node.module:
                pytest.importorskip("haystack")
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "qa_fast":
            assert hasattr(importlib.import_module("qa_fast"), node.attr)


@pytest.fixture(scope="module")
def page_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all pages, so that graphs of the tiny model are made once."""
    return tmp_path_factory.mktemp("cache")


def run_here(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a `qa-fast` command within this process."""
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code, words


def run_in_shell(script: str) -> None:
    """Run a part of a page as a reader would, with `qa-fast` from `PATH`."""
    done = subprocess.run(["bash", "-e", "-x", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def harbour() -> dict[str, Any]:
    """The example data of docs/your-data.md."""
    return json.loads((ROOT / "examples" / "harbour.json").read_text(encoding="utf-8"))


def many_short() -> list[dict[str, Any]]:
    """Enough questions for a calibration: any model finds a word that stands alone, and seldom one among others."""
    rows = []
    for number in range(1100):
        words = [PLACES[(number + more) % 8] for more in range(1 if number % 2 else 8)]
        answers = {"text": words[:1], "answer_start": [0]}
        if number % 8 == 6:
            answers = {"text": [], "answer_start": []}
        question = f"Where is number {number}?"
        context = " ".join(words) + "\n" * (number // 16)  # many documents
        rows.append({"id": f"short-{number}", "question": question, "context": context, "answers": answers})
    return rows


def test_the_example_data_is_what_the_page_says() -> None:
    articles = harbour()["data"]
    contexts = [article["paragraphs"][0]["context"] for article in articles]
    questions = [question for article in articles for question in article["paragraphs"][0]["qas"]]
    assert len(articles) == 12
    assert all(1500 <= len(context.split()) <= 2600 for context in contexts)
    assert len({question["id"] for question in questions}) == 150
    assert sum(question["is_impossible"] for question in questions) == 38
    wrong = [
        question["id"]
        for context, article in zip(contexts, articles, strict=True)
        for question in article["paragraphs"][0]["qas"]
        for answer in question["answers"]
        if not context.startswith(answer["text"], answer["answer_start"])
    ]
    assert wrong == ["harbour-05-06", "harbour-07-01"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_commands_of_a_page_run(
    name: str, tmp_path: Path, page_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one folder where `squad` and `minilm` are local: a small data set and a tiny model.

    The first page that a reader meets runs in a shell, each command a process. On the other pages `qa-fast` runs within
    this process, which has imported the frameworks already, and only what stands between its commands is for the shell.
    """
    pytest.importorskip("tensorflow")
    rows = authored_examples()
    sample.write(tmp_path / "squad" / "train.jsonl", rows[:18])
    sample.write(tmp_path / "squad" / "validation.jsonl", rows[18:] + (many_short() if name == "reliable" else []))
    make_model_folder(tmp_path / "minilm", head=False, max_position_embeddings=512)
    make_model_folder(tmp_path / "squad-model", max_position_embeddings=512)
    data = harbour()
    for article in data["data"]:  # a question with an answer and one without are enough to run
        del article["paragraphs"][0]["qas"][1:-1]
    sample.write(tmp_path / "examples" / "harbour.json", data)
    code = [block.code for block in blocks(ROOT / "docs" / f"{name}.md") if block.language == "sh" and block.runs]
    assert code
    write_command(tmp_path / "bin")
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("QA_FAST_CACHE", str(page_cache))
    monkeypatch.chdir(tmp_path)
    script = re.sub(r"--epochs \d+", "--epochs 1", "".join(code)).replace("\\\n", " ")
    if name == "getting-started":
        run_in_shell(script)
        return
    for part in re.split(r"^(qa-fast .*)$", script, flags=re.M):
        if part.startswith("qa-fast "):
            words = shlex.split(part, comments=True)
            with untraced():
                run_here([name for word in words for name in sorted(glob.glob(word)) or [word]], monkeypatch)
        elif part.strip():
            run_in_shell(part)


@pytest.mark.parametrize("name", [name for name in qa_fast.__all__ if name != "__version__"])
def test_every_public_name_has_an_example(name: str) -> None:
    if name in ("SpanModel", "SquadMetrics"):
        pytest.importorskip("keras")
    assert "Examples:" in (getattr(qa_fast, name).__doc__ or ""), name
