"""Pages: texts never become markup, and what is drawn is what was given."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.html.charts import bars, histogram, lines, percent, short
from qa_fast.html.documents import Chip, Mark, chips, document, key
from qa_fast.html.elements import card, details, facts, grid, heading, link, paragraph, table
from qa_fast.html.markup import Html, element, joined, visible
from qa_fast.html.page import fragment, page, save_page

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`</title></style></textarea>--><!-- &lt; &#0; "
    "\x00\x1b[31m\x7f\x85 \ud800 \udfff \u202eabc\u2066 مرحبا n\u0303 👩‍🚀 ]]> {{7*7}} javascript:alert(1)"
)
NAMES = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "h3", "h4", "p", "code", "a",
    "section", "div", "details", "summary", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td",
    "mark", "span", "ul", "ol", "li", "b", "i", "figure", "figcaption",
    "svg", "g", "rect", "line", "text", "path", "circle",
}  # fmt: skip


class Reader(HTMLParser):
    """Every tag, attribute and text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.unmatched: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unmatched.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.unmatched.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def all_of(text: str) -> list[Html]:
    """Every element there is, with the text wherever a text can stand."""
    middle = len(text) // 2
    return [
        heading(text), paragraph(text, kind="lead"), link(text, "there"), card(text, target="there"),
        grid(text), details(text, text), facts({text: text}), facts([(text, 3)]), table([text], [[text], [4]], text),
        document(text, [Mark(0, middle, "gold", text), Mark(middle // 2, len(text), "window", text)], text),
        key({"gold": text}), histogram(text, [1, 2], [0, 1, 2], x_label=text, pointers={text: 1}),
        bars(text, [text, text], [1, 2], [(0, 1), (1, 2)], note=text),
        lines(text, [0, 1], {text: [1, 2], "b": [0, 1]}, x_label=text),
        chips([Chip(text, text, "gold", text)], text),
        histogram(text, [], [0]), bars(text, [], []), lines(text, [], {text: []}, x_label=text),
    ]  # fmt: skip


def inert(source: str, text: str) -> Reader:
    """The page, read, after checks that nothing of it came from a text."""
    read = Reader(source)
    assert set(read.tags) <= NAMES
    assert not read.unmatched
    assert not read.open
    names = {name for name, _ in read.attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "action", "srcdoc")}
    assert all(str(value).startswith("#") for name, value in read.attributes if name == "href")
    source.encode("utf-8")  # no lone surrogate is left
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", source)
    assert visible(text) in read.text
    return read


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE * 500, "]]>", "&amp;", "</body></html>"], ids=len)
def test_a_text_never_becomes_markup(text: str) -> None:
    parts = all_of(text)
    harmless = "h" * len(text)
    plain = all_of(harmless)
    whole = inert(page(text, *parts, subtitle=text), text)
    assert whole.tags == Reader(page(harmless, *plain, subtitle=harmless)).tags
    inert(fragment(*parts), text)
    assert text.isascii() or "\u202e" not in whole.text


@given(st.text(st.characters(codec=None), max_size=40))
def test_no_text_becomes_markup(text: str) -> None:
    inert(page(text, text, *all_of(text)[:11]), text)


def test_markup_is_no_text_and_a_text_no_markup() -> None:
    bold = element("b", "a < b")
    assert str(joined(["<i>", bold, 3, None, [bold, "&"]])) == "&lt;i&gt;<b>a &lt; b</b>3<b>a &lt; b</b>&amp;"
    assert not isinstance(bold, str)
    with pytest.raises(TypeError):
        bold + "<i>"  # type: ignore[operator]


def test_attributes_are_quoted_and_cannot_run_or_fetch() -> None:
    assert str(element("p", title="\"><b>'", open=True, hidden=False, lang=None, data_label=3)) == (
        '<p title="&quot;&gt;&lt;b&gt;&#x27;" open data-label="3"></p>'
    )
    for attribute in ({"onclick": "x"}, {"href": "https://example.org"}, {"src": "x"}, {"style": "x"}, {"a b": "x"}):
        with pytest.raises(ValueError, match=r"attribute's name|point into it"):
            element("p", **attribute)
    with pytest.raises(ValueError, match="element's name"):
        element("p onclick=x")


def test_control_characters_are_seen() -> None:
    assert visible("a\x00b\rc\td\ne\x7f\x85\ud800\u202e") == "a[U+0000]b[U+000D]c\td\ne[U+007F][U+0085][U+D800][U+202E]"


def test_a_page_allows_its_own_style_alone() -> None:
    source = page("A title", paragraph("x"))
    policy = html.unescape(re.search(r'Policy" content="([^"]+)"', source)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "<script" not in source
    assert "url(" not in source
    assert "@import" not in source
    assert "//" not in re.sub(r"sha256-\S+", "", source)


def test_a_piece_s_style_touches_nothing_else() -> None:
    style = re.search("<style>(.*?)</style>", fragment("x"), re.DOTALL)[1]  # type: ignore[index]
    rules = re.sub(r"@media[^{]*\{(.*?\})\s*\}", r"\1", style, flags=re.DOTALL)
    selectors = [selector for group in re.findall(r"([^{}]+)\{", rules) for selector in group.split(",")]
    assert len(selectors) > 50
    assert [selector for selector in selectors if ".qa-fast" not in selector] == []


def test_a_document_is_its_text_whatever_is_marked() -> None:
    text = "  Two\n\tlines, é 👩‍🚀 end "
    spans = [(2, 5, "gold", "a"), (3, 9, "predicted", "b"), (0, 12, "window", "1"), (8, len(text), "window", "2")]
    marks = [Mark(*span) for span in spans]
    source = str(document(text, marks))
    assert Reader(source).text == text
    assert '<mark class="window gold" title="1, a">T</mark>' in source
    assert '<mark class="window gold predicted" title="1, a, b">wo</mark>' in source
    assert "shared" in source
    assert re.findall('id="there"[^>]*>(.)', str(document(text, marks, target="there"))) == ["T"]
    assert re.findall('data-label="([^"]+)"', source) == ["⟨1", "⟨2", "1⟩", "2⟩"]


@given(st.data())
def test_every_character_carries_the_kinds_of_its_marks(data: st.DataObject) -> None:
    text = data.draw(st.text("ab<& é", min_size=1, max_size=30))
    edges = st.integers(0, len(text))
    spans = data.draw(st.lists(st.tuples(edges, edges, st.sampled_from(["gold", "predicted", "other"])), max_size=6))
    marks = [Mark(min(a, b), max(a, b), kind) for a, b, kind in spans]
    inside = str(document(text, marks)).partition(">")[2].removesuffix("</div>")
    seen = [
        set(kinds.split())
        for kinds, piece in re.findall(r"(?:<mark class=\"([^\"]*)\">)?([^<]+)(?:</mark>)?", inside)
        for _ in html.unescape(piece)
    ]
    assert seen == [{kind for a, b, kind, _ in marks if a <= at < b} for at in range(len(text))]


@pytest.mark.parametrize("span", [(-1, 2), (2, 1), (0, 6)])
def test_a_mark_must_be_within_the_text(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be within the text of 5 characters"):
        document("abcde", [Mark(*span, "gold")])


def test_numbers_in_tables_read_well() -> None:
    source = str(table(["name", "count", "share"], [["a", 1234567, 0.123456], ["b", 5, 1234.5]], numeric=[2]))
    assert '<td class="number">1,234,567</td>' in source
    assert '<td class="number">0.1235</td>' in source
    assert '<th scope="col" class="number">count</th>' in source
    assert '<th scope="col">name</th>' in source
    assert Reader(str(facts({"rows": 1234, "share": "5 %"}))).text == "rows1,234share5 %"


def rects(source: Html) -> list[dict[str, float]]:
    found = []
    for attributes in re.findall(r"<rect ([^>]*)>", str(source)):
        pairs: Any = re.findall(r'(x|y|width|height)="([-\d.]+)"', attributes)
        found.append({name: float(value) for name, value in pairs})
    return found


def test_a_histogram_draws_its_counts() -> None:
    drawn = histogram("Lengths", [1, 0, 4], [0, 10, 20, 30], pointers={"median": 25, "far": 99}, overflow=2)
    first, last = rects(drawn)
    assert last["height"] == pytest.approx(4 * first["height"], abs=0.3)
    assert last["x"] - first["x"] == pytest.approx(2 * (first["width"] + 1), abs=0.3)
    text = Reader(str(drawn)).text
    assert "median 25" in text
    assert "far" not in text
    assert "2 beyond 30 are not drawn" in text
    assert 'aria-label="Lengths: 5 values from 0 to 30, most often from 20 to 30; median 25"' in str(drawn)
    with pytest.raises(ValueError, match=r"N \+ 1 edges"):
        histogram("x", [1], [0])


def test_bars_draw_values_and_intervals() -> None:
    drawn = bars("Scores", ["a", "b"], [50, 100], [(40, 60), (90, 100)], value_format=short)
    first, second = rects(drawn)
    assert second["width"] == pytest.approx(2 * first["width"], abs=0.3)
    assert str(drawn).count('class="whisker"') == 6
    assert "40 to 60" in Reader(str(drawn)).text
    below = rects(bars("x", ["a", "b"], [-1, 1]))
    assert below[0]["x"] < below[1]["x"] == pytest.approx(below[0]["x"] + below[0]["width"], abs=0.2)
    with pytest.raises(ValueError, match="N labels need N values"):
        bars("x", ["a"], [])


def test_lines_draw_their_values() -> None:
    drawn = str(lines("Risk", [0, 0.5, 1], {"exact": [0.9, 0.6, 0.3], "F1": [0.9, 0.8, 0.7]}, x_label="answered"))
    paths = re.findall(r'<path d="([^"]+)" class="curve', drawn)
    assert [path.count("L") for path in paths] == [0, 0, 2, 2]  # the two of the key first
    heights = [float(point.split()[1]) for point in paths[2].removeprefix("M").split("L")]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert heights[0] < heights[1]  # SVG counts downwards
    assert "exact from 90 % to 30 %, at most 90 %; F1 from 90 % to 70 %" in drawn
    with pytest.raises(ValueError, match="at most 2 lines"):
        lines("x", [0], {str(number): [1] for number in range(3)}, x_label="x")
    with pytest.raises(ValueError, match="a value for each of 2 x"):
        lines("x", [0, 1], {"a": [1]}, x_label="x")


def test_charts_write_numbers_in_few_characters() -> None:
    assert [short(value) for value in (0, 7, 0.125, 1500, 2_000_000)] == ["0", "7", "0.125", "1.5k", "2M"]
    assert percent(0.5) == "50 %"


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    save_page(tmp_path / "a.html", page("é", "\ud800"))
    assert (tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(UserError, match="must be a file in a folder that can be written to"):
        save_page(tmp_path / "none" / "a.html", "x")
    with pytest.raises(UserError, match=r"--html must be in a folder; .*a\.html' is a file"):
        save_page(tmp_path / "a.html" / "b.html", "x")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=r"--html must not exist; .*folder\.html' does"):
        save_page(tmp_path / "folder.html", "x")
    with pytest.raises(UserError, match="must be a file in a folder"):
        save_page(tmp_path / "folder.html", "x", overwrite=True)
    assert not list(tmp_path.glob(".*"))
