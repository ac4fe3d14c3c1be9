"""A text with its spans marked, however they overlap.

The text is cut where any mark begins or ends, and each piece carries the kinds of all the marks over it; kinds that
can meet are drawn so that both are seen, one as ground, one as line. Labels and ticks are drawn by the style sheet and
are no part of the content, so what a reader selects and copies is the text alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qa_fast.html.markup import Html, element

# Gold: what is right. Predicted: what a model says. Wrong: a prediction that misses. Window: a stretch, whose ends
# are labelled. Other kinds may be named, and are underlined.
KINDS = ("gold", "predicted", "wrong", "window")


class Mark(NamedTuple):
    """A span of a text: characters [char_start, char_end), its kind, and what to call it."""

    char_start: int
    char_end: int
    kind: str
    label: str = ""


def document(text: str, marks: Iterable[tuple[int, int, str, str]] = (), name: str = "document") -> Html:
    """The text with its marks, white space kept.

    Args:
        text: Any.
        marks: (char_start, char_end, kind, label), in any order, overlapping as they like. A label is shown when one
            points at the mark, and for windows at both ends.
        name: What a screen reader calls it.

    Raises:
        ValueError: A mark that does not lie in the text.
    """
    given = [Mark(*mark) for mark in marks]
    for mark in given:
        if not 0 <= mark.char_start <= mark.char_end <= len(text):
            raise ValueError(f"a mark must lie in the text of {len(text)} characters; received {mark}")
    pieces = _pieces(text, sorted(given))
    return element(
        "div", *pieces, class_="document", dir="auto", tabindex="0", role="group", aria_label=name
    )  # fmt: skip


def _pieces(text: str, marks: Sequence[Mark]) -> list[Html | str]:
    cuts = sorted({0, len(text), *(edge for mark in marks for edge in mark[:2])})
    begins: dict[int, list[Mark]] = {}
    ends: dict[int, list[Mark]] = {}
    for mark in marks:
        begins.setdefault(mark.char_start, []).append(mark)
        ends.setdefault(mark.char_end, []).append(mark)
    pieces: list[Html | str] = []
    active: list[Mark] = []
    for at, cut in enumerate(cuts):
        for mark in ends.get(cut, ()):
            if mark in active:
                active.remove(mark)
            if mark.kind == "window" and mark.char_end > mark.char_start:
                pieces.append(_tick(f"{mark.label}⟩"))
        for mark in begins.get(cut, ()):
            if mark.kind == "window":
                pieces.append(_tick(f"⟨{mark.label}" if mark.char_end > mark.char_start else f"⟨{mark.label}⟩"))
            if mark.char_end > mark.char_start:
                active.append(mark)
        if at + 1 < len(cuts):
            piece = text[cut : cuts[at + 1]]
            pieces.append(_marked(piece, active) if active else piece)
    return pieces


def _marked(piece: str, marks: Sequence[Mark]) -> Html:
    kinds = dict.fromkeys(mark.kind for mark in marks)
    if sum(mark.kind == "window" for mark in marks) > 1:
        kinds["shared"] = None
    labels = dict.fromkeys(mark.label for mark in marks if mark.label)
    return element("mark", piece, class_=" ".join(kinds), title=", ".join(labels) or None)


def _tick(label: str) -> Html:
    return element("span", class_="tick", data_label=label)


class Chip(NamedTuple):
    """A small piece beside others: its text, what stands below it, its kinds, and what is said when pointed at."""

    text: str
    below: str
    kind: str = ""
    says: str = ""


def chips(pieces: Iterable[Chip], name: str) -> Html:
    """Pieces in a row that wraps, such as the tokens of a text; kinds as those of marks, or "quiet"."""
    made = (
        element(
            "li",
            element("b", piece.text, dir="auto"),
            element("i", piece.below),
            class_=f"chip {piece.kind}".strip(),
            title=piece.says or None,
        )
        for piece in pieces
    )
    return element("ol", *made, class_="chips", tabindex="0", aria_label=name)


def key(kinds: Mapping[str, str]) -> Html:
    """What the kinds of marks mean: a short list, kind -> meaning."""
    return element(
        "ul", *(element("li", element("mark", word, class_=kind)) for kind, word in kinds.items()), class_="key"
    )
