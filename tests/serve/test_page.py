"""The page, in a real browser: Debian's Chromium (or another), driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from qa_fast.serve.limits import Limits
from tests.serve_doubles import PATIENCE, Client, KeywordModel, running

expect.set_options(timeout=1000 * PATIENCE)

pytestmark = pytest.mark.browser

TEXT = "The harbour was dug in 1874. 🌊 A widow paid for the harbour; the 🚢 came later."
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("QA_FAST_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path, and QA_FAST_BROWSER is not set")
    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def engine() -> KeywordModel:
    return KeywordModel()


@pytest.fixture(scope="module")
def client(engine: KeywordModel) -> Iterator[Client]:
    with running(engine, Limits(characters=250_000)) as made:
        yield made


class Faults(list[str]):
    """Errors of scripts and refusals by the content policy; a test that expects some clears them."""


def opened(browser: Browser, url: str, **context: Any) -> Iterator[tuple[Page, Faults]]:
    made = browser.new_context(**context)
    page, faults = made.new_page(), Faults()
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(url) else None)
    page.goto(url)
    expect(page.locator("#model")).to_have_text("keyword-model")
    yield page, faults
    made.close()
    assert not faults


@pytest.fixture
def visit(browser: Browser, client: Client) -> Iterator[tuple[Page, Faults]]:
    yield from opened(browser, client.url, viewport={"width": 1200, "height": 700})


@pytest.fixture
def page(visit: tuple[Page, Faults]) -> Page:
    return visit[0]


def ask(page: Page, question: str, text: str | None = None) -> None:
    if text is not None:
        page.locator("#source").fill(text)
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")


def paste(page: Page, text: str) -> None:
    """Put a text into the document from the clipboard; `fill` takes seconds for a long one, which pasting does not."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
    page.locator("#source").focus()
    page.keyboard.press("Control+V")


def drop(page: Page, name: str, data: list[int] | str) -> None:
    """Drop a file on the page, as a user does."""
    page.evaluate(
        """([name, data]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([typeof data === "string" ? data : new Uint8Array(data)], name));
            const about = {dataTransfer: transfer, bubbles: true, cancelable: true};
            for (const type of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(type, about));
        }""",
        [name, data],
    )


def wait_until_visible(page: Page) -> None:
    """Wait until the mark is inside the visible part of the document."""
    page.wait_for_function(
        """() => {
            const mark = document.querySelector("mark[aria-current]").getBoundingClientRect();
            const frame = document.getElementById("reader").getBoundingClientRect();
            return mark.top >= frame.top && mark.bottom <= frame.bottom;
        }"""
    )


def test_an_answer_is_shown_and_marked_in_the_document(page: Page) -> None:
    ask(page, "Who paid for the harbour?", TEXT)
    expect(page.locator("mark")).to_have_count(2)
    expect(page.locator("mark[aria-current]")).to_have_text("harbour")
    expect(page.locator(".candidate.best .text")).to_have_text("harbour")
    expect(page.locator(".candidate.best .score")).to_have_text("score 75 %")
    expect(page.locator(".candidate.best .around")).to_have_text("The harbour was dug in 1874.")
    expect(page.locator("#status")).to_have_text("Answer: harbour, score 75 %. 2 passages are marked in the document.")
    assert page.locator("#reader").inner_text() == TEXT
    expect(page.locator("#source")).to_be_hidden()


def test_one_can_jump_between_the_passages(page: Page) -> None:
    ask(page, "Who paid for the harbour?", TEXT)
    second = page.locator(".candidate").nth(1)
    expect(second.locator(".score")).to_have_text("score 38 %")
    expect(page.locator("#place")).to_have_text("1 of 2")
    page.get_by_role("button", name="Next passage").click()
    expect(second).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".candidate.best")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#status")).to_have_text("Passage 2 of 2: harbour, score 38 %.")
    before = page.evaluate("document.querySelector('mark[aria-current]').previousSibling.data")
    assert before == TEXT[TEXT.index(" was dug") : TEXT.rindex("harbour")]  # behind an emoji: code points
    page.get_by_role("button", name="Next passage").click()
    expect(page.locator("#place")).to_have_text("1 of 2")
    page.get_by_role("button", name="Previous passage").click()
    expect(page.locator("#place")).to_have_text("2 of 2")
    ask(page, "Who was the widow?")
    expect(page.locator("#jump")).to_be_hidden()
    page.locator(".exchange").nth(1).locator(".candidate").nth(1).click()
    expect(page.locator("mark")).to_have_count(2)
    expect(page.locator("#place")).to_have_text("2 of 2")


def test_a_follow_up_needs_no_second_paste(page: Page, engine: KeywordModel) -> None:
    ask(page, "Who paid for the harbour?", TEXT)
    expect(page.locator("mark[aria-current]")).to_have_text("harbour")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("Who was the widow?")  # the first question is selected, so this takes its place
    page.keyboard.press("Enter")
    expect(page.locator("mark[aria-current]")).to_have_text("widow")
    assert page.locator(".exchange h3").all_inner_texts() == ["Who was the widow?", "Who paid for the harbour?"]
    page.locator(".exchange").nth(1).locator(".candidate.best").click()
    expect(page.locator("mark[aria-current]")).to_have_text("harbour")


def test_a_changed_document_drops_the_answers_of_the_old_one(page: Page) -> None:
    ask(page, "Who was the widow?", TEXT)
    expect(page.locator("mark")).to_have_text("widow")
    page.get_by_role("button", name="Edit text").click()
    expect(page.locator("#source")).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.type(" More.")
    expect(page.locator(".exchange")).to_have_count(0)
    ask(page, "What is More.")
    expect(page.locator("mark")).to_have_text("More.")
    assert page.locator("#reader").inner_text() == TEXT + " More."


def test_no_answer_is_shown_as_such(page: Page) -> None:
    ask(page, "Where is the moon?", TEXT)
    expect(page.locator(".candidate.none .text")).to_have_text("No answer in this text")
    expect(page.locator(".candidate.none .score")).to_have_text("score 20 %")
    expect(page.locator("#status")).to_have_text("No answer in this text, score 20 %.")
    expect(page.locator("mark")).to_have_count(0)


def test_a_script_in_a_document_shows_as_text(page: Page) -> None:
    evil = "<script>window.taken = 1</script><img src=x onerror='window.taken = 1'> & &lt; the <b>widow</b>"
    ask(page, "Who is the <b>widow</b>", evil)
    expect(page.locator("mark")).to_have_text("<b>widow</b>")
    assert page.locator("#reader").inner_text() == evil
    assert page.locator(".exchange h3").inner_text() == "Who is the <b>widow</b>"
    assert page.locator("#reader script, #reader img, #reader b, .exchange script, .exchange img").count() == 0
    assert page.evaluate("window.taken") is None


def test_mistakes_are_shown_at_their_field(page: Page) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("Paste or open a document first.")
    expect(page.locator("#source")).to_be_focused()
    ask(page, "  ", TEXT)
    expect(page.get_by_role("alert")).to_have_text("Type a question first.")
    expect(page.locator("#question")).to_have_attribute("aria-invalid", "true")
    page.locator("#source").clear()
    paste(page, "x" * 250_001)
    ask(page, "Who?")
    expect(page.get_by_role("alert")).to_contain_text("at most 250,000 characters; this one has 250,001")


def test_messages_of_the_server_are_shown(visit: tuple[Page, Faults]) -> None:
    page, faults = visit
    ask(page, "crash?", TEXT)
    expect(page.get_by_role("alert")).to_have_text("the server could not answer; see its log")
    faults.clear()  # the browser notes status 500
    ask(page, "Who was the widow?")
    expect(page.locator("mark")).to_have_text("widow")
    expect(page.get_by_role("alert")).to_be_empty()


def test_asking_can_be_cancelled(page: Page, engine: KeywordModel) -> None:
    engine.hold.clear()
    try:
        ask(page, "Who was the widow?", TEXT)
        expect(page.locator("#status")).to_have_text("Reading the document …")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator("#cancel")).to_be_hidden()
    finally:
        engine.hold.set()
    assert page.locator(".exchange").count() == 0


def test_files_are_opened_by_dropping_or_choosing(page: Page, tmp_path: Path) -> None:
    drop(page, "notes.txt", "Dropped:\r\nthe widow.")
    expect(page.locator("#source")).to_have_value("Dropped:\nthe widow.")
    expect(page.locator("#status")).to_have_text("notes.txt opened.")
    expect(page.locator("#drop")).to_be_hidden()
    ask(page, "Who was the widow.")
    expect(page.locator("mark")).to_have_text("widow.")
    path = tmp_path / "other.txt"
    path.write_bytes("Größe: 340 m".encode("utf-16"))
    page.locator("#file").set_input_files(path)
    expect(page.locator("#source")).to_have_value("Größe: 340 m")


def test_a_file_that_is_not_text_is_refused(page: Page) -> None:
    for data in ([0xFF, 0x00, 0x41], [0x41, 0x00, 0x42], [0xC3, 0x28]):
        drop(page, "photo.bin", data)
        expect(page.get_by_role("alert")).to_contain_text("photo.bin is not a text file in UTF-8")
    assert page.locator("#source").input_value() == ""


def test_marking_rebuilds_only_a_small_part_of_a_long_document(page: Page) -> None:
    line = "A grey heron stands by the mill pond, and nothing moves for an hour; then it is gone.\n"
    text = line * (200_000 // len(line)) + "In the end the 🌊 widow came."
    paste(page, text)
    expect(page.locator("#size")).to_have_text(f"{len(text):,} characters")
    ask(page, "Who is the widow?")
    expect(page.locator("mark")).to_have_text("widow")
    wait_until_visible(page)
    rebuilt = page.evaluate(
        """() => {
            reader.mark([]);
            const nodes = reader.blocks.map((block) => block.element.firstChild);
            const counts = [];
            for (let i = 0; i < 20; i++) {
                reader.mark([{start: 9000 * i + 5, end: 9000 * i + 12}]);
                counts.push(reader.blocks.filter((block, at) => block.element.firstChild !== nodes[at]).length);
                reader.mark([]);
                reader.blocks.forEach((block, at) => (nodes[at] = block.element.firstChild));
            }
            reader.mark([{start: 5, end: 12}]);
            return [reader.blocks.length, Math.max(...counts)];
        }"""
    )
    assert rebuilt[0] > 80
    assert rebuilt[1] <= 2
    assert page.locator("mark").count() == 1


def test_one_line_of_200_kb_can_be_marked(page: Page) -> None:
    paste(page, "sand " * 40_000 + "widow")
    ask(page, "Who is the widow")
    expect(page.locator("mark")).to_have_text("widow")
    wait_until_visible(page)


def test_the_page_works_by_keyboard(page: Page) -> None:
    page.locator("#source").focus()
    page.keyboard.insert_text(TEXT)
    page.keyboard.press("Tab")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.insert_text("Who paid for the harbour?")
    page.keyboard.press("Enter")
    expect(page.locator("mark[aria-current]")).to_have_text("harbour")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.className || document.activeElement.id"))
        if names[-1] == "candidate":
            break
    assert "candidate best" in names
    page.keyboard.press("Space")
    expect(page.locator(".candidate").nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator("#reader").focus()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Next passage")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".candidate.best")).to_have_attribute("aria-pressed", "true")


def test_elements_have_names_for_screen_readers(page: Page) -> None:
    for role, name in {"textbox": "Document", "region": "Document"}.items():
        expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_visible()
    assert page.locator("#status").get_attribute("role") == "status"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea")]
            .filter((e) => !e.innerText && !e.labels?.length && !e.ariaLabel && !e.getAttribute("aria-labelledby"))
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_pages_break_no_rule_of_axe(browser: Browser, client: Client, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def broken(page: Page) -> list[tuple[str, list[str]]]:
        page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
        found = axe.run(page).response["violations"]
        return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]

    for page, _ in opened(browser, client.url, color_scheme=scheme, viewport={"width": width, "height": 700}):
        assert broken(page) == []
        ask(page, "Who paid for the harbour?", TEXT)
        expect(page.locator("mark")).to_have_count(2)
        ask(page, "Where is the moon?")
        expect(page.locator(".none")).to_be_visible()
        page.locator(".exchange").nth(1).locator(".candidate").nth(1).click()
        page.locator("summary").click()
        assert broken(page) == []
        page.goto(client.url + "docs")
        expect(page.locator("#paths section")).to_have_count(3)
        assert broken(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Browser, client: Client, scheme: str) -> None:
    for page, _ in opened(browser, client.url, color_scheme=scheme):
        ask(page, "Who paid for the harbour?", TEXT)
        expect(page.locator("mark[aria-current]")).to_have_text("harbour")
        page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
        for selector in ("#reader", "mark", ".candidate.best .text", ".candidate .around", "#ask", "#status", ".hint"):
            assert contrast(page, selector) >= 4.5, selector


def contrast(page: Page, selector: str) -> float:
    """WCAG's contrast ratio of an element's text to the nearest ground behind it."""
    ink, ground = page.evaluate(
        """(selector) => {
            let element = document.querySelector(selector);
            const ink = getComputedStyle(element).color;
            const clear = (color) => color === "rgba(0, 0, 0, 0)";
            while (clear(getComputedStyle(element).backgroundColor)) element = element.parentElement;
            return [ink, getComputedStyle(element).backgroundColor];
        }""",
        selector,
    )
    light, dark = sorted(map(luminance, (ink, ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Browser, client: Client) -> None:
    for page, _ in opened(browser, client.url, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True):
        ask(page, "Who paid for the harbour?", TEXT + " " + "long" * 60)
        expect(page.locator("mark[aria-current]")).to_have_text("harbour")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        wait_until_visible(page)
        second = page.locator(".candidate").nth(1)
        second.tap()
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(page.locator("mark[aria-current]")).to_be_in_viewport()
        page.goto(client.url + "docs")
        expect(page.locator("#paths section")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_server_with_a_key_asks_for_it(browser: Browser, engine: KeywordModel) -> None:
    with running(engine, Limits(), api_key="correct-horse") as locked:
        for page, faults in opened(browser, locked.url):
            ask(page, "Who was the widow?", TEXT)
            expect(page.get_by_role("alert")).to_contain_text("this server needs its API key")
            expect(page.get_by_label("API key of this server")).to_be_focused()
            faults.clear()  # the browser notes status 401
            page.keyboard.type("correct-horse")
            page.keyboard.press("Enter")
            expect(page.locator("mark")).to_have_text("widow")


def test_a_stopped_server_is_reported(browser: Browser) -> None:
    with running(KeywordModel()) as short_lived:
        visits = opened(browser, short_lived.url)
        page, faults = next(visits)
    ask(page, "Who?", TEXT)
    expect(page.get_by_role("alert")).to_have_text("The server does not respond. Is it still running?")
    faults.clear()
    assert list(visits) == []


def test_the_api_page_lists_every_field(page: Page, client: Client) -> None:
    page.get_by_role("link", name="API").click()
    expect(page.locator("#paths section")).to_have_count(3)
    expect(page.locator("#paths")).to_contain_text("handle_impossible_answer")
    expect(page.locator("#curl")).to_contain_text(f"curl {client.url}")


def test_the_page_works_below_the_path_of_a_proxy(browser: Browser, engine: KeywordModel) -> None:
    with running(engine, root_path="/a/qa") as below:
        for page, _ in opened(browser, f"{below.url}a/qa"):  # nothing outside this path is asked for
            ask(page, "Who paid for the harbour?", TEXT)
            expect(page.locator("mark[aria-current]")).to_have_text("harbour")
            page.get_by_role("link", name="API").click()
            expect(page.locator("#curl")).to_contain_text(f"curl {below.url}a/qa/ ")


def test_pages_of_a_named_origin_may_ask(browser: Browser, engine: KeywordModel) -> None:
    asking = """async ([url, context]) => {
        const headers = {"Content-Type": "application/json", Authorization: "Bearer k"};
        const body = JSON.stringify({inputs: {question: "Who was the widow?", context},
                                     parameters: {offset_unit: "utf16"}});
        const response = await fetch(url, {method: "POST", headers, body});
        const [answer] = await response.json();
        return [context.slice(answer.start, answer.end), response.headers.get("x-request-id") !== null];
    }"""
    # The page's own server is another origin. The policy of its pages allows no other host, as pages elsewhere do.
    with running(KeywordModel()) as site:
        origin = site.url.rstrip("/")
        page = browser.new_context(bypass_csp=True).new_page()
        page.goto(site.url)
        with running(engine, api_key="k", cors_origin=[origin]) as other:
            assert page.evaluate(asking, [other.url, "🚢 " + TEXT]) == ["widow", True]
        with (
            running(engine, api_key="k", cors_origin=["https://app.example.org"]) as other,
            pytest.raises(Error, match="Failed to fetch"),
        ):
            page.evaluate(asking, [other.url, TEXT])
        page.context.close()
