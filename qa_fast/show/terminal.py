"""Prints an overview on a terminal: in colour there, plain in a pipe, wrapped to any width.

Texts of the data pass through `visible`, so none can move the cursor or change colours, and into `Text`, which knows no
markup. Answers are also bracketed, since colour may be missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from qa_fast.html.documents import merged
from qa_fast.html.markup import visible
from qa_fast.shards.summary import count_rows
from qa_fast.show.distribution import Distribution
from qa_fast.show.records import Overview, ShownExample, SplitStatistics, Token, Window
from qa_fast.show.wording import (
    WINDOW_HEADER,
    Listing,
    answer_spans,
    example_facts,
    listings,
    token_labels,
    window_notes,
    window_row,
)

if TYPE_CHECKING:
    from rich.console import Console

    from qa_fast.schema import FeatureConfig

# Documents up to this length are printed whole, others around the ends of their answers.
_WHOLE_CHARS, _CHARS_AROUND, _CHARS_AT_EDGES = 3000, 500, 120
_TOKENS_AROUND = 4
# Terminals narrower than this get tables with fewer columns.
_WIDE = 90
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 20
_PART_STYLES = {"special": "dim", "question": "cyan", "context": ""}


def print_overview(overview: Overview, config: FeatureConfig, console: Console, all_tokens: bool = False) -> None:
    """Print an overview.

    Args:
        overview: From `gather`.
        config: Sizes of windows.
        console: Where to print.
        all_tokens: Print every token of every window, and not only those around labels.
    """
    _print(console, overview.title, "bold")
    _print_facts([(name, str(value)) for name, value in overview.facts.items()], console)
    for note in overview.notes:
        _print(console, note, "yellow")
    if overview.counts:
        console.print()
        rows = [
            [f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in count_rows(overview.counts)
        ]  # fmt: skip
        console.print(_table(["", *overview.counts], rows, range(1, 1 + len(overview.counts))))
    for split in overview.statistics:
        _print_statistics(split, console)
    for example in overview.examples:
        _print_example(example, config, console, all_tokens)
    for listing in listings(overview):
        _print_listing(listing, console)


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(Text(visible(line), style=style))


def _print_facts(pairs: Iterable[tuple[str, str]], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, Text(visible(value)))
    console.print(grid)


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = (), styles: Sequence[str] = ()
) -> Table:
    """Return a table without borders; `right` are right-aligned columns, `styles` the styles of the rows."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, name in enumerate(header):
        table.add_column(Text(visible(name)), justify="right" if column in right else "left", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(Text(visible(cell)) for cell in row), style=styles[number] if styles else None)
    return table


def _print_statistics(split: SplitStatistics, console: Console) -> None:
    console.print()
    _print(console, split.split, "bold")
    header = ["", "least", "median", "mean", "95 %", "most", "histogram"]
    rows = []
    for name, spread in split.distributions.items():
        digits = ",.0f" if spread.is_whole else ".2f"
        numbers = (spread.least, spread.median, spread.mean, spread.p95, spread.most)
        rows.append([name, *(format(value, digits) for value in numbers), _sparkline(spread)])
    columns = range(len(header)) if console.width >= _WIDE else (0, 2, 4, 5)
    console.print(_table([header[at] for at in columns], [[row[at] for at in columns] for row in rows], range(1, 6)))
    for name, tally in split.tallies.items():
        parts = [f"{number}: {count:,}" for number, count in list(tally.items())[:8]]
        _print(console, f"{name}  {'  '.join(parts)}{'  …' if len(tally) > 8 else ''}")
    for cause, count in split.differences.items():
        _print(console, f"labels that differ from the reference, {cause}  {count:,}")
    for rule, count in split.rejected.items():
        _print(console, f"rejected  {count:,}  {rule}")


def _sparkline(spread: Distribution) -> str:
    """Return the histogram as a line of block characters."""
    size = -(-len(spread.counts) // _SPARKLINE_WIDTH)
    sums = [sum(spread.counts[at : at + size]) for at in range(0, len(spread.counts), size)]
    top = max(sums)
    return "".join(" " if not total else _BLOCKS[8 * total // (top + 1)] for total in sums)


def _print_example(example: ShownExample, config: FeatureConfig, console: Console, all_tokens: bool) -> None:
    console.print()
    _print(console, f"{example.split} · {example.id}", "dim")
    if example.question:
        _print(console, example.question, "bold")
    if example.context is not None:
        console.print()
        console.print(_document(example.context, answer_spans(example)))
        console.print()
    _print_facts(example_facts(example, config), console)
    for note in (*example.notes, *window_notes(example)):
        _print(console, note, "yellow")
    if example.windows:
        console.print()
        columns = range(len(WINDOW_HEADER)) if console.width >= _WIDE else (0, 1, 4, 6)
        rows = [[cells[at] for at in columns] for cells in map(window_row, example.windows)]
        styles = ["" if window.holds_answer else "dim" for window in example.windows]
        console.print(_table([WINDOW_HEADER[at] for at in columns], rows, styles=styles))
    for window in example.windows:
        if all_tokens or window.holds_answer:
            console.print()
            if len(example.windows) > 1:
                _print(console, f"window {window.index + 1}", "bold")
            _print_tokens(window, console, all_tokens)


def _document(context: str, spans: Sequence[tuple[int, int]]) -> Text:
    """Return the document with its answers bracketed; of a long document the text near the answers."""
    text = Text()
    edges = [0, *itertools.chain.from_iterable(merged(spans)), len(context)]
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        if number % 2 == 1:
            text.append(f"⟦{visible(context[begin:end])}⟧", style="bold black on yellow")
        elif len(context) <= _WHOLE_CHARS or end - begin <= 2 * _CHARS_AROUND:
            text.append(visible(context[begin:end]))
        else:
            first = begin + (_CHARS_AROUND if begin else _CHARS_AT_EDGES)
            last = end - (_CHARS_AROUND if end < len(context) else _CHARS_AT_EDGES)
            text.append(visible(context[begin:first]))
            text.append(f" [… {last - first:,} characters …] ", style="dim")
            text.append(visible(context[last:end]))
    return text


def _print_tokens(window: Window, console: Console, all_tokens: bool) -> None:
    rows: list[Sequence[str]] = []
    styles: list[str] = []
    next_position = 0
    for token in window.tokens:
        if not all_tokens and not _is_near_label(token, window):
            continue
        if token.position > next_position:
            rows.append(["…", "", "", "", ""])
            styles.append("dim")
        is_answer = window.holds_answer and window.label.start <= token.position <= window.label.end
        place = "" if token.char_start is None else f"{token.char_start:,} to {token.char_end:,}"
        rows.append([str(token.position), token.text, str(token.token_id), place, token_labels(token, window)])
        styles.append("bold yellow" if is_answer else _PART_STYLES[token.part])
        next_position = token.position + 1
    if next_position < len(window.tokens):
        rows.append(["…", "", "", "", ""])
        styles.append("dim")
    console.print(_table(("position", "token", "id", "characters", "label"), rows, (0, 2), styles))


def _is_near_label(token: Token, window: Window) -> bool:
    edges = [*window.label, *(window.reference or ()), *(window.exact or ())]
    return token.position == 0 or any(abs(token.position - edge) <= _TOKENS_AROUND for edge in edges)


def _print_listing(listing: Listing, console: Console) -> None:
    console.print()
    _print(console, listing.headline, "bold")
    if len(listing.kinds) > 1:
        console.print(_table(("", ""), [(f"{count:,}", kind) for kind, count in listing.kinds.items()], (0,)))
    if listing.rows:
        console.print(_table(listing.header, listing.rows))
    if listing.more:
        _print(console, f"{listing.more:,} more: raise --limit", "dim")
