"""A text with marked spans, which may overlap.

The text is cut at the ends of all marks, and each piece carries the kinds of all marks that cover it. The style sheet
draws kinds that may overlap in different ways, one as a background and one as a line. Labels and ticks are drawn by
the style sheet too and are not content, so a selection copies the text alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qa_fast.html.markup import Html, element

_GAP = "\n…\n"


class Mark(NamedTuple):
    """A marked span of a text.

    Attributes:
        char_start: First character.
        char_end: One past the last character.
        kind: "gold" (right answer), "predicted", "wrong" (a prediction that misses), or "window" (a span whose ends
            are labelled). Any other kind is underlined.
        label: Shown when a pointer rests on the mark, and at both ends of a window.
    """

    char_start: int
    char_end: int
    kind: str
    label: str = ""


def document(text: str, marks: Iterable[Mark] = (), name: str = "document", target: str | None = None) -> Html:
    """Return the text with its marks and its white space.

    Args:
        text: Any text.
        marks: Marks in any order.
        name: Name of the document for screen readers.
        target: An id, for `elements.link`, given to the first marked piece that is more than a window.

    Raises:
        ValueError: A mark is outside the text.
    """
    ordered = sorted(marks)
    for mark in ordered:
        if not 0 <= mark.char_start <= mark.char_end <= len(text):
            raise ValueError(f"a mark must be within the text of {len(text)} characters; received {mark}")
    pieces = _pieces(text, ordered, target)
    return element("div", *pieces, class_="document", dir="auto", tabindex="0", role="group", aria_label=name)


def excerpt(text: str, marks: Iterable[Mark], whole: int, around: int) -> tuple[str, list[Mark]]:
    """Shorten a long text to the parts around its marks.

    Args:
        text: The whole text.
        marks: Marks in any order.
        whole: A text of at most this many characters is left whole.
        around: Number of characters to keep at both sides of each mark.

    Returns:
        The text with gaps shown as "…", and the marks at their places in it.
    """
    ordered = sorted(marks)
    if len(text) <= whole:
        return text, ordered
    kept = merged(
        (max(0, mark.char_start - around), min(len(text), mark.char_end + around))
        for mark in ordered or [Mark(around, around, "")]
    )
    shortened, moved = "", []
    for begin, end in kept:
        shortened += _GAP if begin else ""
        shift = len(shortened) - begin
        moved += [
            mark._replace(char_start=mark.char_start + shift, char_end=mark.char_end + shift)
            for mark in ordered
            if begin <= mark.char_start and mark.char_end <= end
        ]
        shortened += text[begin:end]
    return shortened + (_GAP if kept[-1][1] < len(text) else ""), moved


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans, which must be sorted, with those joined that overlap or touch."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _pieces(text: str, marks: Sequence[Mark], target: str | None) -> list[Html | str]:
    cuts = sorted({0, len(text), *(edge for mark in marks for edge in mark[:2])})
    begins: dict[int, list[Mark]] = {}
    ends: dict[int, list[Mark]] = {}
    for mark in marks:
        begins.setdefault(mark.char_start, []).append(mark)
        ends.setdefault(mark.char_end, []).append(mark)
    pieces: list[Html | str] = []
    active: list[Mark] = []
    for cut, next_cut in zip(cuts, [*cuts[1:], len(text)], strict=True):
        for mark in ends.get(cut, ()):
            if mark in active:
                active.remove(mark)
                if mark.kind == "window":
                    pieces.append(_tick(f"{mark.label}⟩"))
        for mark in begins.get(cut, ()):
            if mark.char_end > mark.char_start:
                active.append(mark)
            if mark.kind == "window":
                pieces.append(_tick(f"⟨{mark.label}" if mark in active else f"⟨{mark.label}⟩"))
        piece = text[cut:next_cut]
        if not active:
            pieces.append(piece)
            continue
        is_target = any(mark.kind != "window" for mark in active)
        pieces.append(_marked(piece, active, target if is_target else None))
        target = None if is_target else target
    return pieces


def _marked(piece: str, marks: Sequence[Mark], target: str | None) -> Html:
    kinds = dict.fromkeys(mark.kind for mark in marks)
    if sum(mark.kind == "window" for mark in marks) > 1:
        kinds["shared"] = None
    labels = dict.fromkeys(mark.label for mark in marks if mark.label)
    return element("mark", piece, class_=" ".join(kinds), title=", ".join(labels) or None, id=target)


def _tick(label: str) -> Html:
    return element("span", class_="tick", data_label=label)


class Chip(NamedTuple):
    """A small box such as a token: its text, a line below it, its kinds, and its tooltip."""

    text: str
    below: str
    kind: str = ""
    tooltip: str = ""


def chips(boxes: Iterable[Chip], name: str) -> Html:
    """Return boxes in rows that wrap, such as the tokens of a text; `name` is for screen readers."""
    items = (
        element(
            "li",
            element("b", box.text, dir="auto"),
            element("i", box.below),
            class_=f"chip {box.kind}".strip(),
            title=box.tooltip or None,
        )
        for box in boxes
    )
    return element("ol", *items, class_="chips", tabindex="0", aria_label=name)


def key(kinds: Mapping[str, str]) -> Html:
    """Return a short list that explains kinds of marks: kind -> meaning."""
    items = (element("li", element("mark", meaning, class_=kind)) for kind, meaning in kinds.items())
    return element("ul", *items, class_="key")
