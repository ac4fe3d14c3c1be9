"""Pages with hostile texts, opened in a real browser: nothing in them runs or is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

from playwright.sync_api import Browser

from qa_fast.report.analysis import analyse
from qa_fast.report.compare import Other
from qa_fast.report.page import report_page
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.show.gather import gather
from qa_fast.show.notebook import answer_html, example_html
from qa_fast.show.page import overview_page
from qa_fast.show.source import open_show_source
from tests import sample
from tests.report.test_report import guesses
from tests.scoring.test_scoring import make_split
from tests.serve.test_page import browser  # noqa: F401  (a fixture)
from tests.tokenizers_for_tests import save_folder, small_tokenizer

pytestmark = pytest.mark.browser

# Each part would set `window.taken` or load something, if it were read as markup in some place of a page.
HOSTILE = (
    "<script>window.taken=1</script><img src=//x.invalid/a onerror=window.taken=1><svg onload=window.taken=1>"
    "</style></title></details><iframe srcdoc='<script>parent.taken=1</script>'>"
    "\" onmouseover=window.taken=1 x=\" ' onfocus=window.taken=1 autofocus '<link rel=stylesheet href=//x.invalid/b>"
    "<style>*{background:url(//x.invalid/c)}</style><meta http-equiv=refresh content='0;url=//x.invalid/d'>"
    "<a href='javascript:window.taken=1'>\u202e\u0000\u2028]]>--><!-- &lt;b&gt; &#60;script&#62;"
)


def pages(folder: Path) -> dict[str, str]:
    """The pages and pieces of a page that hold texts of data, questions, answers and names, all of them hostile."""
    text = f"{HOSTILE} answer {HOSTILE}"
    answers = {"text": ["answer"], "answer_start": [text.index("answer")]}
    good = {"id": text, "question": text, "context": text, "answers": answers}
    source = sample.write(folder / "train.jsonl", [good, {**good, "id": f"{text} 2", "question": ""}])
    model = save_folder(small_tokenizer("wordpiece"), folder / "model")
    shown = open_show_source(str(source), str(model))
    views = [gather(shown, limit=5, with_statistics=True), gather(shown, limit=5, with_rejected=True)]
    result = evaluate_split(guesses({0: (0, 2)}), make_split([(HOSTILE, HOSTILE, HOSTILE, [HOSTILE[8:20]])]))
    return {
        "statistics": overview_page(views[0], shown.config),
        "rejected": overview_page(views[1], shown.config),
        "report": report_page(analyse(result, Other(HOSTILE, [HOSTILE], HOSTILE)), HOSTILE, {HOSTILE: HOSTILE}),
        "example": example_html(good, HOSTILE),
        "answer": answer_html({"score": 0.5, "start": 3, "end": 9, "answer": HOSTILE}, HOSTILE, HOSTILE),
    }


def test_hostile_texts_run_nothing_and_load_nothing(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    for name, html in pages(tmp_path).items():
        path = tmp_path / f"{name}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context()
        page, asked = context.new_page(), []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        page.mouse.move(200, 200)
        assert asked == [path.as_uri()], name
        assert page.evaluate("window.taken") is None, name
        assert page.locator("script, img, iframe, link, a[href^=javascript], [onload], [onerror]").count() == 0, name
        assert "window.taken=1</script>" in page.content().replace("&lt;", "<").replace("&gt;", ">"), name
        context.close()
