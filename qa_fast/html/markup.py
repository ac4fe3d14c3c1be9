"""Markup as a type of its own, and the one place where texts are escaped.

`Html` is markup that functions of this package made. A `str` is text from somebody else and is escaped wherever it is
inserted. `Html` is deliberately no subclass of `str`, since a slice or a sum of markup need not be valid markup.

Texts stay complete and visible: characters that a page cannot hold or would obey (control characters, lone surrogates,
and characters that change the direction of the text after them) are shown by their code point.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
# Tab and line feed stay. U+FFFE and U+FFFF are no characters. U+202A to U+202E and U+2066 to U+2069 embed, override or
# isolate a direction.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
# Elements without content.
_VOID = frozenset({"br", "hr", "link", "meta"})
# Attributes that could fetch or run something unless they point into the page.
_ADDRESSES = ("src", "srcset", "href", "style", "srcdoc", "action")


@dataclass(frozen=True)
class Html:
    """Markup made by this package.

    Attributes:
        source: The markup; valid as UTF-8.
    """

    source: str

    def __str__(self) -> str:
        return self.source


Part: TypeAlias = "Html | str | int | float | Iterable[Part] | None"


def visible(text: str) -> str:
    """Replace characters that are invisible or would be obeyed by their code points, as in [U+0000]."""
    return _INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def joined(parts: Iterable[Part]) -> Html:
    """Join parts: markup as it is, texts escaped, numbers as text, None left out."""
    return Html("".join(map(_source, parts)))


def _source(part: Part) -> str:
    if isinstance(part, Html):
        return part.source
    if part is None:
        return ""
    if isinstance(part, str | int | float):
        return html.escape(visible(str(part)))
    return "".join(map(_source, part))


def element(name: str, /, *parts: Part, **attributes: str | float | bool | None) -> Html:
    """Return one element.

    Args:
        name: Name in HTML or SVG.
        parts: Content; see `joined`.
        attributes: `_` stands for `-`, and a trailing `_` is dropped, as in `class_`. True gives an attribute without
            a value; None and False leave it out.

    Raises:
        ValueError: A name is not valid, or an attribute would run a script or fetch something.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"an element's name must be letters, digits and hyphens; received {name!r}")
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(parts)}</{name}>")


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.removesuffix("_").replace("_", "-")
    if not _NAME.fullmatch(name) or name.startswith("on"):
        raise ValueError(f"an attribute's name must be letters, digits and hyphens, and no event's; received {name!r}")
    if name in _ADDRESSES and not str(value).startswith("#"):
        raise ValueError(f"a page holds all that it needs: {name} must point into it (#...); received {value!r}")
    return f" {name}" if value is True else f' {name}="{_source(value)}"'
