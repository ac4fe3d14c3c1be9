"""The documentation site builds strictly and offline, and has every command, option and public name."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import qa_fast
from qa_fast.model.catalogue import CHECKPOINTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")  # Zensical does not follow links
    for name in ("mkdocs.yml", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("tools", "qa_fast"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder / "site"


def html(site: Path, page: str) -> str:
    return (site / page / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    names = set(re.findall(r'id="qa_fast\.([\w.]+)"', html(site, "reference")))
    assert set(qa_fast.__all__) - {"__version__"} <= names
    assert {"Split.to_tf_dataset", "Answerer.from_pretrained", "Examples.find"} <= names
    assert "integrations.haystack.ExtractiveReader" in names


@pytest.mark.slow
def test_every_command_and_option_is_on_the_page(site: Path) -> None:
    typer = pytest.importorskip("typer")
    from qa_fast.cli.app import app

    page = unescape(re.sub(r"<[^>]+>", "", html(site, "commands")))
    commands = typer.main.get_command(app).commands
    assert re.findall(r"^## (\w+)$", (ROOT / "docs" / "commands.md").read_text("utf-8"), re.M) == list(commands)
    for command in commands.values():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert all(option in page for option in parameter.opts)
                assert " ".join((parameter.help or "").split()) in " ".join(page.split())


@pytest.mark.slow
def test_every_checkpoint_is_on_the_page(site: Path) -> None:
    page = html(site, "models")
    assert [each.name for each in CHECKPOINTS if each.name not in page] == []


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)", text)
        loaded += [link for link in re.findall(r"<link[^>]+>", text) if "http" in link and "canonical" not in link]
        assert loaded == [], page


@pytest.mark.parametrize("name", [name for name in qa_fast.__all__ if name != "__version__"])
def test_every_public_name_says_what_it_does(name: str) -> None:
    found = getattr(qa_fast, name)
    assert inspect.getdoc(found)
    if not inspect.isclass(found):
        text = inspect.getdoc(found) or ""
        for argument in inspect.signature(found).parameters:
            assert f"{argument}:" in text, f"{name} does not explain {argument}"


def test_examples_of_docstrings_are_shown_as_code() -> None:
    """Under the heading `Example:` Markdown would take `data["train"][0]` for a link, and the strict build fails."""
    found = [path for path in (ROOT / "qa_fast").rglob("*.py") if re.search(r"^ *Example:$", path.read_text(), re.M)]
    assert found == [], "name the section of a docstring `Examples:`"
