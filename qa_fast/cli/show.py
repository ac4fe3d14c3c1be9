"""`qa-fast show`: shows examples with their windows and labels, statistics of a data set, and rejected examples."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qa_fast.cli.featurize import limit_rust_threads
from qa_fast.cli.records import column_pairs
from qa_fast.errors import UserError
from qa_fast.options import Option, option_of
from qa_fast.parallel import processors
from qa_fast.schema import FeatureConfig

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough for every column, for output that is no terminal.
_PIPED_WIDTH = 120
_SHOWN, _DATA, _FEATURES, _PAGE = "What is shown", "Data", "Features", "Page"
_FEATURE_OPTIONS: dict[str, Option] = {
    field.name: option for field in dataclasses.fields(FeatureConfig) if (option := option_of(field))
}


def show(
    source: Annotated[
        str,
        typer.Argument(help="'squad', a local file or folder, a Hub dataset id, or a folder of shards."),
    ],
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Show the example with this id; may be repeated.", rich_help_panel=_SHOWN),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Show only this split; may be repeated.", rich_help_panel=_SHOWN)
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Show the rejected examples with the reasons.", rich_help_panel=_SHOWN)
    ] = False,
    repaired: Annotated[
        bool,
        typer.Option(
            "--repaired",
            help="Show the answers that are not at their answer_start, and their repairs.",
            rich_help_panel=_SHOWN,
        ),
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="Show statistics: lengths, windows, positions of answers, duplicates.",
            rich_help_panel=_SHOWN,
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write a page with plots to this file instead of the terminal.", rich_help_panel=_PAGE
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a file at --html that is no page of qa-fast.", rich_help_panel=_PAGE),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            help="Number of examples of each split (default 3) or rejected or repaired ones (20).",
            rich_help_panel=_SHOWN,
        ),
    ] = None,
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens", help="Show all tokens of all windows, not only those around answers.", rich_help_panel=_SHOWN
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model whose tokenizer is used (default: that of the shards, or 'minilm').",
            rich_help_panel=_FEATURES,
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help=_FEATURE_OPTIONS["max_length"].help, rich_help_panel=_FEATURES)
    ] = None,
    doc_stride: Annotated[
        int | None, typer.Option("--doc-stride", help=_FEATURE_OPTIONS["doc_stride"].help, rich_help_panel=_FEATURES)
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help=_FEATURE_OPTIONS["labels"].help, rich_help_panel=_FEATURES)
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns", help="Column names of the source, as question=NAME; may be repeated.", rich_help_panel=_DATA
        ),
    ] = None,
) -> None:
    """Show examples with their windows, tokens and labels."""
    if limit is not None and limit < 0:
        raise UserError(f"--limit must be at least 0; received {limit}: give 0 to show no examples")
    if rejected and repaired:
        raise UserError("--rejected and --repaired show one list each; received both: give one of them, then the other")
    if html is not None:
        from qa_fast.html.page import check_page

        check_page(html, reads=[source, *([] if model is None else [model])], overwrite=overwrite)
    limit_rust_threads(processors())
    from rich.console import Console

    from qa_fast.show.gather import gather
    from qa_fast.show.source import open_show_source

    stderr = Console(stderr=True, highlight=False)
    opened = open_show_source(
        source, model, max_length, doc_stride, labels, column_pairs(columns), split, _printer(stderr)
    )
    count = limit if limit is not None else 20 if rejected or repaired else 3
    with_statistics = statistics or (html is not None and not ids and not rejected and not repaired)
    with _progress(stderr) as progress:
        overview = gather(opened, tuple(ids or ()), count, with_statistics, rejected, progress, repaired)
    if html is not None:
        from qa_fast.html.page import save_page
        from qa_fast.show.page import overview_page

        save_page(html, overview_page(overview, opened.config), overwrite=overwrite)
        typer.echo(str(html))
        return
    from qa_fast.show.terminal import print_overview

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    print_overview(overview, opened.config, console, tokens)


def _printer(stderr: Console) -> Callable[[str], None]:
    """Return a function that prints a line if standard error is a terminal."""

    def say(line: str) -> None:
        if stderr.is_terminal:
            stderr.print(line, markup=False, soft_wrap=True, style="dim")

    return say


@contextmanager
def _progress(stderr: Console) -> Iterator[Callable[[str, int], None] | None]:
    """Show how many rows were read, if standard error is a terminal."""
    if not stderr.is_terminal:
        yield None
        return
    rows_by_split: dict[str, int] = {}
    with stderr.status("reading") as status:

        def progress(split: str, rows: int) -> None:
            rows_by_split[split] = rows_by_split.get(split, 0) + rows
            status.update(", ".join(f"{name} {count:,}" for name, count in rows_by_split.items()))

        yield progress
