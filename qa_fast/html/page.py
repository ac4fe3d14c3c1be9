"""Whole pages, and pieces for notebooks: one file each, without scripts and without anything fetched.

The content policy of a page allows only its own style sheet, which the policy names by its hash. Even if a text became
markup, neither a script nor a style nor a picture in it would take effect. A piece for a notebook holds the same style
sheet, in which every rule begins with `.qa-fast`, and has its own background and text colour.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.html.markup import Html, Part, element, joined, visible
from qa_fast.html.style import NOTEBOOK, PAGE, SHARED

# Marks a page as ours, so that a later run may replace it. It stands within so many bytes from the start.
_GENERATOR = '<meta name="generator" content="qa-fast">'
_HEAD_BYTES = 1 << 12


def page(title: str, *parts: Part, subtitle: Part = None) -> str:
    """Return a whole document.

    Args:
        title: Title of the window and first heading.
        parts: Content; texts are escaped.
        subtitle: A line below the title.
    """
    style = PAGE + SHARED
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        Html(_GENERATOR),
        element("title", title),
        Html(f"<style>{style}</style>"),
    )
    top = element("header", element("h1", title, dir="auto"), subtitle and element("p", subtitle, class_="quiet"))
    body = element("body", top, element("main", *parts), class_="qa-fast")
    return f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n'


def fragment(*parts: Part) -> str:
    """Return content for a notebook's `_repr_html_`: a block with its style, for light and dark notebooks."""
    return f'<div class="qa-fast qa-fast-piece"><style>{NOTEBOOK + SHARED}</style>{joined(parts)}</div>'


def check_page(
    path: Path, option: str = "--html", *, reads: Iterable[str | Path] = (), overwrite: bool = False
) -> None:
    """Refuse a path that holds anything but a page of ours; see `store.check_output`."""

    def made(page: Path) -> bool:
        try:
            return _GENERATOR.encode() in store.read_range(page, 0, _HEAD_BYTES)
        except OSError:
            return False

    store.check_output(path, option, reads=reads, overwrite=overwrite, made=made)


def save_page(path: Path, document: str, option: str = "--html", overwrite: bool = False) -> None:
    """Write a page so that it appears whole or not at all.

    Args:
        path: The file. Its folder must exist.
        document: From `page`.
        option: The option that named the path, for the error.
        overwrite: Replace a file that is no page of ours.

    Raises:
        UserError: The file cannot be written, or may not be replaced.
    """
    try:
        check_page(path, option, overwrite=overwrite)
        with store.whole_file(path, make_folder=False, replace=store.exists(path)) as temporary:
            temporary.write_text(document, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{option} must be a file in a folder that can be written to; received {visible(str(path))} "
            f"({error.strerror}): choose another path, or create the folder"
        ) from None
