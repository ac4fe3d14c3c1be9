"""Draws an overview as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qa_fast.html.charts import bars, histogram, percent, short
from qa_fast.html.documents import Chip, Mark, chips, document, key
from qa_fast.html.elements import card, details, facts, grid, heading, link, paragraph, table
from qa_fast.html.markup import Html, Part
from qa_fast.html.page import page
from qa_fast.schema import FeatureConfig
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

# Tokens are drawn for windows with an answer or different labels, and for other windows up to this number of tokens.
_MOST_TOKENS = 6000
# Longer documents are higher than their frame on a phone.
_WHOLE_CHARS = 700
_MEANINGS = {"gold": "answer", "window": "⟨1 window 1⟩", "shared": "in two windows"}


def overview_page(overview: Overview, config: FeatureConfig) -> str:
    """Return the page.

    Args:
        overview: From `gather`.
        config: Sizes of windows.
    """
    parts: list[Html] = [card(facts((name, str(value)) for name, value in overview.facts.items()))]
    parts += [paragraph(note, kind="note") for note in overview.notes]
    if overview.counts:
        columns = ["", *overview.counts]
        counts = table(columns, count_rows(overview.counts), numeric=range(1, len(columns)))
        parts += [heading("Splits"), card(counts)]
    for split in overview.statistics:
        parts += [heading(split.split), *_statistics(split, config)]
    for listing in listings(overview):
        parts += [heading(listing.title), *_listed(listing)]
    if overview.examples:
        parts.append(heading("Examples"))
        if len(overview.examples) > 3:
            parts.append(_contents(overview.examples))
        budget = _MOST_TOKENS
        for number, example in enumerate(overview.examples):
            target = f"example-{number + 1}"
            parts.append(card(*_example(example, config, budget, target), target=target))
            budget -= sum(len(window.tokens) for window in example.windows)
    return page(overview.title, *parts, subtitle="qa-fast show")


def _contents(examples: Iterable[ShownExample]) -> Html:
    rows = [
        (link(example.question or example.id or "without id", f"example-{number}"), example.split)
        for number, example in enumerate(examples, 1)
    ]
    return card(table(("question", "split"), rows))


def _statistics(split: SplitStatistics, config: FeatureConfig) -> Iterator[Html]:
    """Yield the plots of a split and a table of its distributions."""
    plots = [_plot(spread, config) for spread in split.distributions.values()]
    plots += [
        bars(_capital(name), map(str, tally), tally.values(), note="number of examples")
        for name, tally in split.tallies.items()
        if len(tally) > 1
    ]
    if split.differences:
        note = "features by cause; --labels chooses the kind of labels"
        plots.append(
            bars("Labels that differ from the reference", split.differences, split.differences.values(), note=note)
        )
    yield grid(*plots)
    rows: list[list[Part]] = []
    for name, spread in split.distributions.items():
        numbers = (spread.least, spread.median, spread.mean, spread.p95, spread.p99, spread.most)
        rows.append([name, spread.count, *map(_number, numbers)])
    header = ("", "count", "least", "median", "mean", "95 %", "99 %", "most")
    yield card(table(header, rows, numeric=range(1, len(header))))


def _capital(name: str) -> str:
    return f"{name[0].upper()}{name[1:]}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.2f}"


def _plot(spread: Distribution, config: FeatureConfig) -> Html:
    pointers: dict[str, float] = {"median": spread.median} if spread.count else {}
    if spread.name == "windows, tokens":
        pointers["max length"] = config.max_length
    return histogram(
        _capital(spread.name.replace(", ", " in ")),
        spread.counts,
        spread.edges,
        x_label=spread.unit,
        pointers=pointers,
        x_format=short if spread.is_whole else percent,
        overflow=spread.overflow,
    )


def _example(example: ShownExample, config: FeatureConfig, budget: int, target: str) -> Iterator[Html]:
    """Yield the parts of an example; up to `budget` tokens are drawn of windows that hold no answer."""
    yield paragraph(f"{example.split} · {example.id}", kind="quiet")
    if example.question:
        yield paragraph(example.question, kind="lead")
    if example.context is not None:
        marks = list(_marks(example))
        kinds = {mark.kind for mark in marks}
        if "window" in kinds:
            yield key({kind: meaning for kind, meaning in _MEANINGS.items() if kind in kinds | {"shared"}})
        answer = f"{target}-answer"
        yield document(example.context, marks, target=answer)
        if len(example.context) > _WHOLE_CHARS and "gold" in kinds:
            yield paragraph(link("Go to the answer in the document", answer), kind="quiet")
    yield facts(example_facts(example, config))
    for note in (*example.notes, *window_notes(example)):
        yield paragraph(note, kind="note")
    if example.windows:
        yield table(WINDOW_HEADER, map(window_row, example.windows), numeric=(1, 2, 3, 4))
    for window in example.windows:
        if window.holds_answer or window.cause or budget > 0:
            yield _tokens(window)
        if not window.holds_answer:
            budget -= len(window.tokens)


def _marks(example: ShownExample) -> Iterator[Mark]:
    """Yield marks of the answers, and of the windows if there are several."""
    for begin, end in answer_spans(example):
        yield Mark(begin, end, "gold", f"answer, characters {begin} to {end}")
    if len(example.windows) > 1:
        for window in example.windows:
            if window.char_start is not None and window.char_end is not None:
                yield Mark(window.char_start, window.char_end, "window", str(window.index + 1))


def _tokens(window: Window) -> Html:
    state = "with the answer" if window.holds_answer else "labelled at CLS"
    summary = f"Tokens of window {window.index + 1}: {len(window.tokens)}, {state}"
    return details(summary, chips((_chip(token, window) for token in window.tokens), summary))


def _chip(token: Token, window: Window) -> Chip:
    label = token_labels(token, window)
    is_answer = window.label.start <= token.position <= window.label.end and window.holds_answer
    kinds = ["gold" if is_answer else "quiet" if token.part == "special" else token.part]
    kinds += [name for name, at in zip(("start", "end"), window.label, strict=True) if at == token.position]
    if "reference" in label or "exact" in label:
        kinds.append("wrong")
    tooltip = f"position {token.position}, id {token.token_id}, {token.part}"
    if token.char_start is not None:
        tooltip += f", characters {token.char_start} to {token.char_end}"
    return Chip(token.text, str(token.token_id), " ".join(kinds), f"{tooltip}; {label}" if label else tooltip)


def _listed(listing: Listing) -> Iterator[Html]:
    kinds = table(("", "count"), listing.kinds.items()) if listing.kinds else None
    yield card(paragraph(listing.headline, kind="lead"), kinds)
    if listing.rows:
        yield card(table(listing.header, listing.rows))
    if listing.more:
        yield paragraph(f"{listing.more:,} more: raise --limit.", kind="quiet")
