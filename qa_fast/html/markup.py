"""Markup as a type of its own, and the one place where a text is made harmless.

`Html` is markup that our functions made; a `str` is a text of somebody's and is escaped wherever it is put in. `Html`
is no `str` on purpose: sums, slices or formats of it would be neither. Texts come out complete and visible: what a
page could not hold or would obey, such as control characters, lone surrogates and the characters that turn the
direction of all that follows, is shown by its number (pictures of them exist, but few fonts have those).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
# Tab and line feed are shown as what they are. U+FFFE and U+FFFF are no characters; 202A to 202E and 2066 to 2069
# embed, override or isolate a direction, which in a table's cell, say, nobody would see the cause of.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_EMPTY = frozenset({"br", "hr", "link", "meta"})


@dataclass(frozen=True)
class Html:
    """Markup made by this package.

    Attributes:
        source: The markup; valid as UTF-8.
    """

    source: str

    def __str__(self) -> str:
        return self.source

    def __html__(self) -> str:
        """The markup, by the name under which template engines look for it."""
        return self.source


Part: TypeAlias = "Html | str | int | float | Iterable[Part] | None"


def escaped(text: str) -> str:
    """A text as the content of an element or of a quoted attribute."""
    return html.escape(shown(text))


def shown(text: str) -> str:
    """A text with everything in it visible and nothing of it obeyed: still a text, to be escaped."""
    return _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def joined(parts: Iterable[Part]) -> Html:
    """Parts one after the other: markup as it is, texts escaped, numbers written out, None left out."""
    return Html("".join(map(_source, parts)))


def _source(part: Part) -> str:
    if isinstance(part, Html):
        return part.source
    if isinstance(part, str):
        return escaped(part)
    if part is None:
        return ""
    if isinstance(part, int | float):
        return escaped(str(part))
    return "".join(map(_source, part))


def element(name: str, /, *parts: Part, **attributes: str | float | bool | None) -> Html:
    """One element.

    Args:
        name: As in HTML or SVG.
        parts: Its content, see `joined`.
        attributes: `_` stands for `-`, and a last one is dropped, as in `class_`; True gives a bare name, and None and
            False give none.

    Raises:
        ValueError: A name that is none, or an attribute that would run a script or fetch something.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if not _NAME.fullmatch(name):
        raise ValueError(f"an element's name must be letters, digits and hyphens; received {name!r}")
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(parts).source}</{name}>")


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.removesuffix("_").replace("_", "-")
    if not _NAME.fullmatch(name) or name.startswith("on"):
        raise ValueError(f"an attribute's name must be letters, digits and hyphens, and no event's; received {name!r}")
    if name in ("src", "srcset", "href", "style", "srcdoc", "action") and not str(value).startswith("#"):
        raise ValueError(f"a page holds all that it needs: {name} must point into it (#...); received {value!r}")
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'
