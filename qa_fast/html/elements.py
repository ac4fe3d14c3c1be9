"""What pages are made of: headings, tables, facts, folds, cards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from qa_fast.html.markup import Html, Part, element


def heading(text: Part, level: int = 2) -> Html:
    """A heading of level 2, 3 or 4; the page's title is the only one of level 1."""
    if level not in (2, 3, 4):
        raise ValueError(f"a heading's level must be 2, 3 or 4; received {level}")
    return element(f"h{level}", text, dir="auto")


def paragraph(*parts: Part, kind: str | None = None) -> Html:
    """A paragraph; kind "quiet" for what is said beside, "lead" for what counts, "note" or "note bad" for a box."""
    return element("p", *parts, class_=kind, dir="auto")


def code(text: str) -> Html:
    """A name, path or command."""
    return element("code", text)


def link(text: Part, target: str) -> Html:
    """A link to the element of the same page that has the id `target`."""
    return element("a", text, href=f"#{target}")


def card(*parts: Part, target: str | None = None) -> Html:
    """A block on paper; `target` is the id that `link` names."""
    return element("section", *parts, class_="card", id=target)


def grid(*parts: Part, kind: str = "") -> Html:
    """Parts beside each other where there is room; kind "two" for at most two wide ones, "tiles" for figures."""
    return element("div", *parts, class_=f"grid {kind}".rstrip())


def details(summary: Part, *parts: Part, is_open: bool = False) -> Html:
    """Parts that are folded away below a line that opens them."""
    return element("details", element("summary", summary), *parts, open=is_open)


def facts(named: Mapping[str, Part] | Iterable[tuple[str, Part]]) -> Html:
    """Names and their values, in order."""
    pairs = named.items() if isinstance(named, Mapping) else named
    terms = (
        (element("dt", name), element("dd", f"{value:,}" if type(value) is int else value, dir="auto"))
        for name, value in pairs
    )
    return element("dl", *terms, class_="facts")


def table(
    header: Sequence[Part], rows: Iterable[Sequence[Part]], caption: Part = None, numeric: Collection[int] = ()
) -> Html:
    """A table that scrolls sideways where it is too wide.

    Args:
        header: C names of columns; none at all leaves the header out.
        rows: C cells each. Integers are written with separators, other numbers to four digits, both to the right.
        caption: A line above it.
        numeric: Columns to write to the right whatever they hold.
    """
    body: list[Html] = []
    to_right = set(numeric)
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
            if is_number and not body:  # a header stands above its numbers
                to_right.add(column)
            kind = "number" if is_number or column in numeric else None
            cells.append(element("td", number(cell), class_=kind, dir=None if kind else "auto"))
        body.append(element("tr", *cells))
    names = (
        element("th", name, scope="col", class_="number" if column in to_right else None)
        for column, name in enumerate(header)
    )
    head = element("thead", element("tr", *names)) if header else None
    return element(
        "div",
        element("table", caption and element("caption", caption), head, element("tbody", *body)),
        class_="wide",
        tabindex="0",  # what scrolls must be reached with the keyboard
        role="group",
        aria_label=caption if isinstance(caption, str) else "table",
    )


def number(value: Part) -> Part:
    """A number as people read it, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
