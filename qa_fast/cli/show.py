"""`qa-fast show`: shows examples with their windows and labels, statistics of a data set, and rejected examples."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from qa_fast.cli.bar import showing
from qa_fast.cli.featurize import limit_rust_threads
from qa_fast.cli.records import with_records
from qa_fast.errors import UserError
from qa_fast.options import option, option_of
from qa_fast.parallel import processors
from qa_fast.progress import Reporter
from qa_fast.schema import FeatureConfig

# Wide enough for every column, for output that is no terminal.
_PIPED_WIDTH = 120
_shown, _page, _features = (partial(option, group=group) for group in ("What is shown", "Page", "Features"))
_FEATURE_HELP = {field.name: declared.help for field in fields(FeatureConfig) if (declared := option_of(field))}


@dataclass(frozen=True)
class ShowOptions:
    """The options of `qa-fast show`; see `qa_fast.options`."""

    ids: list[str] | None = _shown(None, "Show the example with this id.", flag="--id")  # noqa: RUF009
    split: list[str] | None = _shown(None, "Show only this split.")  # noqa: RUF009
    rejected: bool = _shown(False, "Show the rejected examples with the reasons.")
    repaired: bool = _shown(False, "Show the answers that are not at their answer_start, and their repairs.")
    stats: bool = _shown(False, "Show statistics: lengths, windows, positions of answers, duplicates.")
    html: Path | None = _page(  # noqa: RUF009
        None, "Write a page with plots to this file instead of the terminal."
    )
    overwrite: bool = _page(False, "Replace a file at --html that is no page of qa-fast.")
    limit: int | None = _shown(
        None,
        "Number of examples of each split (default 3) or rejected or repaired ones (20).",
        least=0,
        hint="give 0 to show no examples",
    )
    tokens: bool = _shown(False, "Show all tokens of all windows, not only those around answers.")
    model: str | None = _features(None, "Model whose tokenizer is used (default: that of the shards, or 'minilm').")
    max_length: int | None = _features(None, _FEATURE_HELP["max_length"])
    doc_stride: int | None = _features(None, _FEATURE_HELP["doc_stride"])
    labels: str | None = _features(None, _FEATURE_HELP["labels"])
    columns: dict[str, str] | None = option(  # noqa: RUF009
        None, "Column names of the source, as question=NAME.", group="Data"
    )


@with_records
def show(
    source: Annotated[
        str, typer.Argument(help="'squad', a local file or folder, a Hub dataset id, or a folder of shards.")
    ],
    *,
    options: ShowOptions,
) -> None:
    """Show examples with their windows, tokens and labels."""
    if options.rejected and options.repaired:
        raise UserError("--rejected and --repaired show one list each; received both: give one of them, then the other")
    if options.html is not None:
        from qa_fast.html.page import check_page

        reads = [source, *([] if options.model is None else [options.model])]
        check_page(options.html, reads=reads, overwrite=options.overwrite)
    limit_rust_threads(processors())
    from rich.console import Console

    from qa_fast.show.gather import gather
    from qa_fast.show.source import open_show_source

    ids, is_list = options.ids or (), options.rejected or options.repaired
    count = options.limit if options.limit is not None else 20 if is_list else 3
    with_statistics = options.stats or (options.html is not None and not ids and not is_list)
    with showing("examples") if Console(stderr=True).is_terminal else nullcontext(Reporter()) as report:
        opened = open_show_source(
            source,
            options.model,
            options.max_length,
            options.doc_stride,
            options.labels,
            options.columns,
            options.split,
            report.say,
        )
        overview = gather(opened, ids, count, with_statistics, options.rejected, report.progress, options.repaired)
    if options.html is not None:
        from qa_fast.html.page import save_page
        from qa_fast.show.page import overview_page

        save_page(options.html, overview_page(overview, opened.config), overwrite=options.overwrite)
        typer.echo(str(options.html))
        return
    from qa_fast.show.terminal import print_overview

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    print_overview(overview, opened.config, console, options.tokens)
