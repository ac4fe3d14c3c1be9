"""The page of reference: every public name of qa_fast, from the docstrings.

    python tools/reference.py [FOLDER]

Writes FOLDER/qa_fast.html (docs/reference by default), which needs nothing else, with pdoc.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import qa_fast


def build(folder: Path) -> Path:
    """Write the page; returns its path."""
    for name in qa_fast.__all__:  # pdoc looks at what is there, and names are imported when they are asked for
        setattr(qa_fast, name, getattr(qa_fast, name))
    pdoc.render.configure(
        docformat="google", show_source=False, footer_text=f"qa-fast {qa_fast.__version__}", search=False
    )
    # A module's own submodules are how it is made, not what it offers.
    page = pdoc.doc.Module(qa_fast)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "qa_fast.html"
    path.write_text(pdoc.render.html_module(page, all_modules={"qa_fast": page}), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(build(Path(*sys.argv[1:2] or ["docs/reference"])))
