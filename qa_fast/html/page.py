"""Whole pages and pieces for notebooks: one file, no script, nothing from elsewhere.

A page's content policy allows nothing but the one style sheet that it holds, which is named by its hash: were a text
ever to become markup, neither a script nor a style nor a picture of it would take effect. A piece for a notebook holds
the same sheet, every rule of which begins with `.qa-fast`, and has ground and ink of its own, so that it can be read
whichever colours the notebook has.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.html.markup import Html, Part, element, joined, shown
from qa_fast.html.style import NOTEBOOK, PAGE, SHARED


def page(title: str, *parts: Part, subtitle: Part = None) -> str:
    """A whole document.

    Args:
        title: The window's title and the first heading.
        parts: Its content; plain texts are escaped.
        subtitle: A line below the title.
    """
    style = PAGE + SHARED
    seal = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{seal}'; base-uri 'none'; form-action 'none'"
    head = joined(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", name="generator", content="qa-fast"),
            element("title", title),
            Html(f"<style>{style}</style>"),
        ]
    )
    top = element("header", element("h1", title, dir="auto"), subtitle and element("p", subtitle, class_="quiet"))
    body = element("body", top, element("main", *parts), class_="qa-fast")
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n{body}\n</html>\n'


def fragment(*parts: Part) -> str:
    """The same content for a notebook's `_repr_html_`: a block with its style, for light and dark notebooks."""
    return f'<div class="qa-fast qa-fast-piece"><style>{NOTEBOOK + SHARED}</style>{joined(parts)}</div>'


def save_page(path: Path, document: str, option: str = "--html") -> None:
    """Write a page so that it appears whole or not at all.

    Args:
        path: A file that may exist, in a folder that must.
        document: From `page`.
        option: What the path was given with, for the error.

    Raises:
        UserError: It cannot be written there.
    """
    try:
        with store.whole_file(path, make_folder=False) as temporary:
            temporary.write_text(document, encoding="utf-8")
    except OSError as error:
        name = shown(str(path))
        raise UserError(
            f"{option} must be a file in a folder that can be written to; received {name} ({error.strerror}): "
            "choose another, or make the folder"
        ) from None
