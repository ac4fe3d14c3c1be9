"""`qa-fast show`: what examples become, what a data set is like, what is rejected and why."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qa_fast.cli.featurize import limit_rust_threads
from qa_fast.cli.records import column_pairs
from qa_fast.errors import UserError
from qa_fast.parallel import processors

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough for every column where no terminal says how wide it is.
_PIPED_WIDTH = 120


def show(
    source: Annotated[
        str,
        typer.Argument(help="'squad', a local file or folder, a Hub dataset id, or a folder of shards."),
    ],
    ids: Annotated[list[str] | None, typer.Option("--id", help="Show this example; may be repeated.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show the examples that are left out, and why.")] = False,
    statistics: Annotated[
        bool, typer.Option("--stats", help="Lengths, windows, where answers stand, what comes twice.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page that holds all this, with plots, into this file.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="So many examples of each split (3), or rejects (20).")
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Every token, not those around answers alone.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Whose tokenizer; the shards', or 'minilm', by itself.")
    ] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Longest feature, in tokens (384).")] = None,
    doc_stride: Annotated[
        int | None, typer.Option("--doc-stride", help="OVERLAP of neighbouring windows, in tokens (128).")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="'exact' or 'reference': which of the two training sees.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", help="Other column names, as question=NAME; may be repeated.")
    ] = None,
) -> None:
    """Look at examples, their windows, tokens and labels, before training on them."""
    if limit is not None and limit < 0:
        raise UserError(f"--limit must not be negative; received {limit}: give 0 for none")
    limit_rust_threads(processors())
    from rich.console import Console

    notes = Console(stderr=True, highlight=False)
    say = _quietly(notes)
    from qa_fast.show.material import open_material
    from qa_fast.show.view import gather

    material = open_material(source, model, max_length, doc_stride, labels, column_pairs(columns), split, say)
    count = limit if limit is not None else 20 if rejected else 3
    with_statistics = statistics or (html is not None and not ids and not rejected)
    with _reading(notes) as progress:
        view = gather(material, tuple(ids or ()), count, with_statistics, rejected, progress)
    if html is not None:
        from qa_fast.html.page import save_page
        from qa_fast.show.page import view_page

        save_page(html, view_page(view, material.config))
        typer.echo(str(html))
        return
    from qa_fast.show.terminal import draw

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # texts may be more than the terminal can show
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    draw(view, material.config, console, tokens)


def _quietly(notes: Console) -> Callable[[str], None]:
    """Steps are told to a person who waits for them, not to a file."""

    def say(line: str) -> None:
        if notes.is_terminal:
            notes.print(line, markup=False, soft_wrap=True, style="dim")

    return say


@contextmanager
def _reading(notes: Console) -> Iterator[Callable[[str, int], None] | None]:
    """A line that says how far reading is, on a terminal."""
    if not notes.is_terminal:
        yield None
        return
    read: dict[str, int] = {}
    with notes.status("reading") as status:

        def progress(split: str, rows: int) -> None:
            read[split] = read.get(split, 0) + rows
            status.update(", ".join(f"{name} {count:,}" for name, count in read.items()))

        yield progress
