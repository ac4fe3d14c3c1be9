"""Draws what was gathered on a terminal: in colour there, plain when piped, wrapped to however narrow it is.

Texts of the data go through `shown`, so that none can move the cursor or change colours, and into `Text`, which knows
no markup. Answers are also bracketed, since colour may be missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from qa_fast.html.markup import shown
from qa_fast.show.records import Distribution, Shown, SplitStatistics, Token, View, Window
from qa_fast.show.wording import (
    WINDOW_HEADER,
    answer_spans,
    counted,
    example_facts,
    label_of,
    row_names,
    window_notes,
    window_row,
)

if TYPE_CHECKING:
    from rich.console import Console

    from qa_fast.schema import FeatureConfig

# Of a long document, what is shown around each end of its answer, and tokens around its label.
_AROUND_CHARS, _WHOLE_CHARS, _AROUND_TOKENS = 500, 3000, 4
_BLOCKS = "▁▂▃▄▅▆▇█"
_PARTS = {"special": "dim", "question": "cyan", "context": ""}


def draw(view: View, config: FeatureConfig, console: Console, all_tokens: bool = False) -> None:
    """Print it.

    Args:
        view: From `gather`.
        config: Window sizes.
        console: Where to.
        all_tokens: Every token of every window, not those around labels alone.
    """
    console.print(Text(shown(view.title), style="bold"))
    _facts(((name, str(value)) for name, value in view.facts.items()), console)
    for note in view.notes:
        console.print(Text(shown(note), style="yellow"))
    if view.counts:
        console.print()
        _counts(view, console)
    for split in view.statistics:
        _statistics(split, console)
    for example in view.examples:
        _example(example, config, console, all_tokens)
    if view.rejected is not None:
        _rejected(view, console)


def _facts(pairs: Iterable[tuple[str, str]], console: Console) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, Text(shown(value)))
    console.print(grid)


def _table(header: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    to_right = set(right)
    for at, name in enumerate(header):
        table.add_column(shown(name), justify="right" if at in to_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
    return table


def _counts(view: View, console: Console) -> None:
    splits = list(view.counts)
    rows = []
    for name in row_names(view.counts.values()):
        values = [view.counts[split].get(name, "") for split in splits]
        rows.append([name, *(f"{value:,}" if isinstance(value, int) else str(value) for value in values)])
    console.print(_table(["", *splits], rows, range(1, 1 + len(splits))))


def _statistics(split: SplitStatistics, console: Console) -> None:
    console.print()
    console.print(Text(shown(split.split), style="bold"))
    rows = []
    for name, spread in split.distributions.items():
        digits = ".2f" if isinstance(spread.median, float) else ",.0f"
        numbers = (spread.least, spread.median, spread.mean, spread.p95, spread.most)
        rows.append([name, *(format(value, digits) for value in numbers), _sparkline(spread)])
    header: Sequence[str] = ("", "least", "median", "mean", "95 %", "most", "spread")
    if console.width < 90:  # what is left out is on the page
        rows = [[row[0], row[2], row[4], row[5]] for row in rows]
        header = ("", "median", "95 %", "most")
    console.print(_table(header, rows, range(1, min(len(header), 6))))
    for name, tally in split.tallies.items():
        parts = [f"{number}: {count:,}" for number, count in list(tally.items())[:8]]
        console.print(Text(f"{name}  {'  '.join(parts)}{'  …' if len(tally) > 8 else ''}"))
    for cause, count in split.differences.items():
        console.print(Text(f"labels unlike the reference's, {cause}  {count:,}"))
    for rule, count in split.rejected.items():
        console.print(Text(f"rejected  {count:,}  {shown(rule)}"))


def _sparkline(spread: Distribution, width: int = 20) -> str:
    """The histogram in a line of characters."""
    size = -(-len(spread.counts) // width)
    sums = [sum(spread.counts[at : at + size]) for at in range(0, len(spread.counts), size)]
    top = max(sums)
    return "".join(" " if not each else _BLOCKS[min(7, 8 * each // (top + 1))] for each in sums)


def _example(example: Shown, config: FeatureConfig, console: Console, all_tokens: bool) -> None:
    console.print()
    head = Text(shown(f"{example.split} · {example.id}"), style="dim")
    console.print(head)
    if example.question:
        console.print(Text(shown(example.question), style="bold"))
    if example.context is not None:
        console.print()
        console.print(_document(example))
        console.print()
    _facts(example_facts(example, config), console)
    for note in (*example.notes, *window_notes(example)):
        console.print(Text(shown(note), style="yellow"))
    if example.windows:
        console.print()
        _windows(example, console)
    for window in example.windows:
        if all_tokens or window.holds_answer:
            _tokens(window, len(example.windows) > 1, console, all_tokens)


def _document(example: Shown) -> Text:
    """The document with its answers bracketed; of a long one what is near them."""
    assert example.context is not None
    context, drawn = example.context, Text()
    spans = _merged(example)
    edges = [0, *(edge for span in spans for edge in span), len(context)]
    for at, (begin, end) in enumerate(itertools.pairwise(edges)):
        is_answer = at % 2 == 1
        if is_answer:
            drawn.append(f"⟦{shown(context[begin:end])}⟧", style="bold black on yellow")
        elif len(context) <= _WHOLE_CHARS or end - begin <= 2 * _AROUND_CHARS:
            drawn.append(shown(context[begin:end]))
        else:
            first = begin + (_AROUND_CHARS if at else 120)
            last = end - (_AROUND_CHARS if end < len(context) else 120)
            drawn.append(shown(context[begin:first]))
            drawn.append(f" [… {last - first:,} characters …] ", style="dim")
            drawn.append(shown(context[last:end]))
    return drawn


def _merged(example: Shown) -> list[tuple[int, int]]:
    """The stretches that answers cover, in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for begin, end in answer_spans(example):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _windows(example: Shown, console: Console) -> None:
    columns = range(len(WINDOW_HEADER)) if console.width >= 90 else (0, 1, 4, 6)
    cells: list[list[Text]] = []
    for window in example.windows:
        values, style = window_row(window), "" if window.holds_answer else "dim"
        cells.append([Text(shown(values[column]), style=style) for column in columns])
    console.print(_table([WINDOW_HEADER[column] for column in columns], cells))


def _tokens(window: Window, is_one_of_many: bool, console: Console, all_tokens: bool) -> None:
    console.print()
    if is_one_of_many:
        console.print(Text(f"window {window.index + 1}", style="bold"))
    rows, last = [], -1
    for token in window.tokens:
        if not all_tokens and not _is_near(token, window):
            continue
        if token.position > last + 1:
            rows.append([Text("…", style="dim"), *[Text("")] * 4])
        rows.append(_token_row(token, window))
        last = token.position
    if last < len(window.tokens) - 1:
        rows.append([Text("…", style="dim"), *[Text("")] * 4])
    console.print(_table(("position", "token", "id", "characters", "label"), rows, (0, 2)))


def _is_near(token: Token, window: Window) -> bool:
    edges = [*window.label, *(window.reference or ()), *(window.exact or ())]
    return token.position == 0 or any(abs(token.position - edge) <= _AROUND_TOKENS for edge in edges)


def _token_row(token: Token, window: Window) -> list[Text]:
    is_answer = window.holds_answer and window.label.start <= token.position <= window.label.end
    style = "bold yellow" if is_answer else _PARTS[token.part]
    place = "" if token.char_start is None else f"{token.char_start:,} to {token.char_end:,}"
    cells = (str(token.position), token.text, str(token.token_id), place, label_of(token, window))
    return [Text(shown(cell), style=style) for cell in cells]


def _rejected(view: View, console: Console) -> None:
    assert view.rejected is not None
    console.print()
    if not view.rejected_total:
        console.print(Text("No example is rejected."))
        return
    console.print(Text(f"{counted(view.rejected_total, 'example')} rejected", style="bold"))
    if len(view.rejected_rules) > 1:
        console.print(_table(("", ""), [(f"{count:,}", rule) for rule, count in view.rejected_rules.items()], (0,)))
    rows = [(each.split, each.id or "without id", each.reason) for each in view.rejected]
    console.print(_table(("split", "id", "reason"), rows))
    if view.rejected_total > len(view.rejected):
        console.print(Text(f"{view.rejected_total - len(view.rejected):,} more: raise --limit", style="dim"))
