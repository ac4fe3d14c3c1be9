"""Draws what was gathered as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qa_fast.html.charts import bars, histogram, percent, ranges, short
from qa_fast.html.documents import Chip, chips, document, key
from qa_fast.html.elements import card, details, facts, grid, heading, link, paragraph, table
from qa_fast.html.markup import Html, Part
from qa_fast.html.page import page
from qa_fast.schema import FeatureConfig
from qa_fast.show.records import Distribution, Rejected, Shown, SplitStatistics, Token, View, Window
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

# Tokens are shown of windows with an answer or something odd, and of others until there are so many.
_MOST_TOKENS = 6000
_MEANINGS = {"gold": "answer", "window": "⟨1 window 1⟩", "shared": "in two windows"}


def view_page(view: View, config: FeatureConfig) -> str:
    """The page.

    Args:
        view: From `gather`.
        config: Window sizes.
    """
    parts: list[Html] = [card(facts((name, str(value)) for name, value in view.facts.items()))]
    parts += [paragraph(note, kind="note") for note in view.notes]
    if view.counts:
        parts += [heading("Splits"), card(counts_table(view))]
    for split in view.statistics:
        parts += [heading(split.split), *split_parts(split, config)]
    if view.rejected is not None:
        parts += [heading("Rejected examples"), *_rejected(view)]
    if view.examples:
        parts.append(heading("Examples"))
        if len(view.examples) > 3:
            parts.append(_contents(view.examples))
        budget = _MOST_TOKENS
        for number, example in enumerate(view.examples):
            parts.append(card(*example_parts(example, config, budget), target=f"example-{number + 1}"))
            budget -= sum(len(window.tokens) for window in example.windows)
    return page(view.title, *parts, subtitle="qa-fast show")


def counts_table(view: View) -> Html:
    """The counts of the splits beside each other."""
    splits = list(view.counts)
    rows = [
        [name, *(view.counts[split].get(name, "") for split in splits)] for name in row_names(view.counts.values())
    ]  # fmt: skip
    return table(["", *splits], rows, numeric=range(1, 1 + len(splits)))


def _contents(examples: tuple[Shown, ...]) -> Html:
    rows = [
        (link(example.question or example.id or "without id", f"example-{number + 1}"), example.split)
        for number, example in enumerate(examples)
    ]
    return card(table(("question", "split"), rows))


def split_parts(split: SplitStatistics, config: FeatureConfig | None = None) -> Iterator[Html]:
    """The plots of a split and the numbers below them."""
    plots = [_plot(spread, config) for spread in split.distributions.values()]
    plots += [
        bars(f"{name[0].upper()}{name[1:]}", _tally_names(tally), tally.values(), note="examples by their number")
        for name, tally in split.tallies.items()
        if len(tally) > 1
    ]
    if split.differences:
        note = "features by cause; --labels chooses"
        plots.append(bars("Labels unlike the reference's", split.differences, split.differences.values(), note=note))
    yield grid(*plots)
    rows: list[list[Part]] = []
    for name, spread in split.distributions.items():
        numbers = (spread.least, spread.median, spread.mean, spread.p95, spread.p99, spread.most)
        rows.append([name, spread.count, *map(_number, numbers)])
    header = ("", "count", "least", "median", "mean", "95 %", "99 %", "most")
    yield card(table(header, rows, numeric=range(1, len(header))))


def _tally_names(tally: Iterable[int]) -> list[str]:
    return [f"{number:,}" for number in tally]


def _number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:.2f}"


def _plot(spread: Distribution, config: FeatureConfig | None) -> Html:
    is_share = not isinstance(spread.median, int)
    pointers: dict[str, float] = {"median": spread.median} if spread.count else {}
    if config is not None and spread.name == "windows, tokens":
        pointers["max length"] = config.max_length
    title = f"{spread.name[0].upper()}{spread.name[1:]}"
    name, _, unit = title.partition(", ")
    return histogram(
        f"{name} in {unit}" if unit else title,
        spread.counts,
        spread.edges,
        x_label=spread.unit,
        pointers=pointers,
        x_format=percent if is_share else short,
        overflow=spread.overflow,
    )


def example_parts(example: Shown, config: FeatureConfig, budget: int = _MOST_TOKENS) -> Iterator[Html]:
    """Everything of one example.

    Args:
        example: From `gather`.
        config: Window sizes.
        budget: How many tokens to draw of windows that hold no answer.
    """
    yield paragraph(f"{example.split} · {example.id}", kind="quiet")
    if example.question:
        yield paragraph(example.question, kind="lead")
    if example.context is not None:
        marks = list(_marks(example))
        kinds = {mark[2] for mark in marks}
        if "window" in kinds:
            yield key({kind: word for kind, word in _MEANINGS.items() if kind in kinds | {"shared"}})
        yield document(example.context, marks)
    yield facts(example_facts(example, config))
    for note in example.notes:
        yield paragraph(note, kind="note")
    for note in window_notes(example):
        yield paragraph(note, kind="note")
    if not example.windows:
        return
    if len(example.windows) > 1 and example.document_tokens is not None:
        yield _strip(example)
    yield table(WINDOW_HEADER, (window_row(window) for window in example.windows), numeric=(1, 2, 3))
    for window in example.windows:
        if window.holds_answer or window.cause or budget > 0:
            yield _tokens(window)
        if not window.holds_answer:
            budget -= len(window.tokens)


def _marks(example: Shown) -> Iterator[tuple[int, int, str, str]]:
    """Answers, and windows where there are several."""
    for begin, end in answer_spans(example):
        yield begin, end, "gold", f"answer, characters {begin} to {end}"
    if len(example.windows) > 1:
        for window in example.windows:
            if window.char_start is not None and window.char_end is not None:
                yield window.char_start, window.char_end, "window", str(window.index + 1)


def _strip(example: Shown) -> Html:
    """The windows over the tokens of the document, and where the answer stands."""
    band = None
    for window in example.windows:
        if window.holds_answer and window.token_start is not None and window.label.start < len(window.tokens):
            shift = window.token_start - next(token.position for token in window.tokens if token.part == "context")
            band = (window.label.start + shift, window.label.end + 1 + shift)
    spans = [(window.token_start or 0, window.token_end or 0) for window in example.windows]
    names = [f"window {window.index + 1}" for window in example.windows]
    return ranges(
        "Windows over the document", names, spans, x_label="tokens of the document", band=band, band_label="answer"
    )


def _tokens(window: Window) -> Html:
    holds = "holds the answer" if window.holds_answer else "labelled at CLS"
    summary = f"Tokens of window {window.index + 1}: {len(window.tokens)}, {holds}"
    return details(summary, chips((_chip(token, window) for token in window.tokens), summary))


def _chip(token: Token, window: Window) -> Chip:
    label = label_of(token, window)
    is_answer = window.label.start <= token.position <= window.label.end and window.holds_answer
    kinds = ["gold"] if is_answer else [{"special": "quiet"}.get(token.part, token.part)]
    kinds += [name for name, at in zip(("start", "end"), window.label, strict=True) if at == token.position]
    if "reference" in label or "exact" in label:
        kinds.append("wrong")
    says = f"position {token.position}, id {token.token_id}, {token.part}"
    if token.char_start is not None:
        says += f", characters {token.char_start} to {token.char_end}"
    return Chip(token.text, str(token.token_id), " ".join(kinds), f"{says}; {label}" if label else says)


def _rejected(view: View) -> Iterator[Html]:
    assert view.rejected is not None
    if not view.rejected_total:
        yield paragraph("No example is rejected.")
        return
    rules = table(("rule", "examples"), view.rejected_rules.items())
    yield card(paragraph(counted(view.rejected_total, "example"), " rejected", kind="lead"), rules)
    yield card(rejected_table(view.rejected))
    if view.rejected_total > len(view.rejected):
        yield paragraph(f"{view.rejected_total - len(view.rejected):,} more: raise --limit.", kind="quiet")


def rejected_table(rejected: Iterable[Rejected]) -> Html:
    """Rejected examples with their reasons."""
    return table(("split", "id", "reason"), ((each.split, each.id or "without id", each.reason) for each in rejected))
