"""Building blocks of pages: headings, paragraphs, links, cards, folds, lists of facts, tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from qa_fast.html.markup import Html, Part, element


def heading(text: Part, level: int = 2) -> Html:
    """Return a heading of level 2 or 3. The title of the page is the only heading of level 1."""
    return element(f"h{level}", text, dir="auto")


def paragraph(*parts: Part, kind: str | None = None) -> Html:
    """Return a paragraph. Kinds: "quiet" for remarks, "lead" for the main line, "note" and "note bad" for boxes."""
    return element("p", *parts, class_=kind, dir="auto")


def link(text: Part, target: str) -> Html:
    """Return a link to the element of the same page whose id is `target`."""
    return element("a", text, href=f"#{target}")


def card(*parts: Part, target: str | None = None) -> Html:
    """Return a framed block; `target` is its id, for `link`."""
    return element("section", *parts, class_="card", id=target)


def grid(*parts: Part, kind: str = "") -> Html:
    """Put parts beside each other if there is room; kind "two" for at most two wide columns, "tiles" for figures."""
    return element("div", *parts, class_=f"grid {kind}".rstrip())


def details(summary: Part, *parts: Part, is_open: bool = False) -> Html:
    """Fold parts away below a line that opens them."""
    return element("details", element("summary", summary), *parts, open=is_open)


def facts(named: Mapping[str, Part] | Iterable[tuple[str, Part]]) -> Html:
    """Return a list of names and their values, in order."""
    pairs = named.items() if isinstance(named, Mapping) else named
    terms = ((element("dt", name), element("dd", _number(value), dir="auto")) for name, value in pairs)
    return element("dl", *terms, class_="facts")


def table(
    header: Sequence[Part], rows: Iterable[Sequence[Part]], caption: str | None = None, numeric: Collection[int] = ()
) -> Html:
    """Return a table that scrolls sideways if it is too wide.

    Args:
        header: Names of C columns.
        rows: C cells each. Integers get thousands separators, other numbers four digits; both are right-aligned.
        caption: A line above the table.
        numeric: Columns to right-align whatever they hold.
    """
    body: list[Html] = []
    right_aligned = set(numeric)
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            is_number = isinstance(cell, int | float)
            if is_number and not body:  # the header is aligned as the first row is
                right_aligned.add(column)
            kind = "number" if is_number or column in numeric else None
            cells.append(element("td", _number(cell), class_=kind, dir=None if kind else "auto"))
        body.append(element("tr", *cells))
    names = (
        element("th", name, scope="col", class_="number" if column in right_aligned else None)
        for column, name in enumerate(header)
    )
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", element("tr", *names)),
            element("tbody", *body),
        ),
        class_="wide",
        tabindex="0",  # an area that scrolls must be reachable with the keyboard
        role="group",
        aria_label=caption or "table",
    )


def _number(value: Part) -> Part:
    """Format a number for reading; return anything else as it is."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return value
