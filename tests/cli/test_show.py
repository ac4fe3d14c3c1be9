"""`qa-fast show`, as its user meets it: a terminal, a pipe, a page, and what it does not import."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import sample
from tests.cli.test_cli import SMALL, Command, process
from tests.cli.test_startup import run
from tests.html.test_html import Reader, inert
from tests.show.test_show import BAD, hostile_source


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sample.model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [*sample.rows(), *BAD]
    return str(sample.write(tmp_path_factory.mktemp("source") / "train.jsonl", rows))


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str) -> Any:
    for name in ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.delenv("COLUMNS", raising=False)
    command = Command(monkeypatch, capsys)
    return lambda *arguments: command("show", *arguments, "--model", model, *SMALL)


def test_a_source_is_summed_up_with_its_first_examples(show: Any, source: str) -> None:
    code, out, err = show(source, "--limit", "2")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["examples", str(sample.QUESTIONS + 2)] in lines  # one of the bad is repaired, one has too long a question
    assert ["train", "·", "en-1"] in lines
    assert ["train", "·", "en-2"] in lines
    assert "en-3" not in out
    assert "⟦in 1874⟧" in out


def test_examples_are_shown_by_id_and_with_all_tokens(show: Any, source: str) -> None:
    code, out, _ = show(source, "--id", "zh-1", "--id", "en-2", "--tokens")
    assert code == 0
    assert out.index("zh-1") < out.index("en-2")
    assert "distinct contexts" not in out
    assert "⟦Ane Skou⟧" in out
    code, out, err = show(source, "--id", "en-99")
    assert (code, out) == (2, "")
    assert err.startswith("error: --id must be an id of ")
    assert err.count("\n") == 1


def test_rejects_and_statistics(show: Any, source: str) -> None:
    code, out, _ = show(source, "--rejected")
    assert code == 0
    assert "5 examples rejected" in out
    code, out, _ = show(source, "--repaired")
    assert (code, "1 answer not at their answer_start" in out) == (0, True)
    code, out, _ = show(source, "--stats", "--limit", "0")
    assert code == 0
    assert "contexts, tokens" in out
    assert "windows of an example" in out
    assert "·" not in out
    assert show(source, "--limit", "-1")[2].startswith("error: --limit must be at least 0; received -1")
    code, out, err = show(source, "--rejected", "--repaired")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --rejected and --repaired show one list each; received both")


def test_a_page_is_written_and_named(show: Any, source: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, _ = show(source, "--html", str(page))
    assert (code, out) == (0, f"{page}\n")
    read = inert(page.read_text("utf-8"), "When was the harbour of Lindholm dug?")
    assert {"svg", "mark"} <= set(read.tags)
    assert list(tmp_path.iterdir()) == [page]
    code, _, _ = show(source, "--html", str(page), "--id", "en-2")
    assert code == 0
    assert "Ane Skou" in Reader(page.read_text("utf-8")).text
    code, _, err = show(source, "--html", str(tmp_path / "none" / "page.html"))
    assert code == 2
    assert "--html must be a file in a folder that can be written to" in err


def test_a_terminal_without_utf_8_gets_something(source: str, model: str) -> None:
    done = process("show", source, "--model", model, *SMALL, "--id", "zh-1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"\\u5357" in done.stdout


def test_no_framework_is_imported(source: str, model: str) -> None:
    done = run("-X", "importtime", "-m", "qa_fast.cli", "show", source, "--model", model, *SMALL, "--stats")
    assert done.returncode == 0, done.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    unused = ("pandas.", "scipy.linalg._", "transformers.", "tensorflow.", "keras.", "torch.", "jax.", "datasets.")
    assert not [name for name in imported if name.startswith(unused)]
    light = run("-X", "importtime", "-m", "qa_fast.cli", "show", "--help")
    assert not {"numba", "pyarrow", "qa_fast.show", "qa_fast.html"} & {
        line.rsplit("|", 1)[-1].strip() for line in light.stderr.splitlines()
    }
    pieces = run("-c", "import sys, qa_fast.show.notebook; assert 'numba' not in sys.modules")
    assert pieces.returncode == 0, pieces.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("QA_FAST_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path, and QA_FAST_BROWSER is not set")
    with sync.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_a_hostile_page_as_text(browser: Any, show: Any, tmp_path: Path, scheme: str) -> None:
    page_file = tmp_path / "page.html"
    hostile = hostile_source(tmp_path / "data")
    assert show(hostile, "--html", str(page_file))[0] == 0
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page, faults, requests = context.new_page(), [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert "".join(page.locator(".document").first.locator("mark.gold").all_inner_texts()) == "<b>answer</b>"
    assert page.locator("script, img, iframe, object, b b").count() == 0
    assert page.locator("svg[role=img]").count() > 5
    assert page.locator(".chip").count() > 50
    assert page.title() == hostile
    ground, ink = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    assert (_brightness(ground) > _brightness(ink)) == (scheme == "light")
    context.close()
    assert requests == [page_file.as_uri()]
    assert faults == []


def _brightness(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_what_is_left_out_is_not_shown_as_good(show: Any, tmp_path: Path) -> None:
    rows = sample.rows()[:2]
    source = sample.write(tmp_path / "train.jsonl", [rows[0], rows[1] | {"id": rows[0]["id"]}])
    code, out, err = show(str(source))
    assert (code, err) == (0, "")
    assert "ids must be unique" in out


def test_a_name_that_no_file_can_have(show: Any) -> None:
    code, out, err = show("x" * 300)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
