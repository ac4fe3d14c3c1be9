"""The page of reference: every public name, with what it does."""

from __future__ import annotations

import inspect
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import qa_fast

ROOT = Path(__file__).parents[2]


class Anchors(HTMLParser):
    """The names that a page explains, and what it loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.names.add(str(found["id"]))
        if tag in ("script", "link", "img") and (found.get("src") or found.get("href")):
            self.loaded.append(str(found.get("src") or found.get("href")))


@pytest.mark.slow
def test_every_public_name_is_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    done = subprocess.run(
        [sys.executable, "tools/reference.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    page = Anchors()
    page.feed(Path(done.stdout.strip()).read_text(encoding="utf-8"))
    assert set(qa_fast.__all__) <= page.names
    assert {"Split.to_tf_dataset", "Answerer.from_pretrained", "Examples.find"} <= page.names
    assert [source for source in page.loaded if not source.startswith("data:")] == []
    assert "Warn" not in done.stderr


@pytest.mark.parametrize("name", [name for name in qa_fast.__all__ if name != "__version__"])
def test_every_public_name_says_what_it_does(name: str) -> None:
    found = getattr(qa_fast, name)
    assert inspect.getdoc(found)
    if not inspect.isclass(found):
        text = inspect.getdoc(found) or ""
        for argument in inspect.signature(found).parameters:
            assert f"{argument}:" in text, f"{name} does not explain {argument}"
