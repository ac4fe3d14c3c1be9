"""Texts that the terminal, the page and notebooks have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from qa_fast.html.markup import visible
from qa_fast.schema import FeatureConfig
from qa_fast.shards.summary import with_share
from qa_fast.show.records import Overview, Positions, ShownExample, SplitStatistics, Token, Window, placed

# Why the two labels of a window differ (kernels.labels.CAUSES).
CAUSES = {
    "context_stripped": "the document begins with white space, which the reference removes before it tokenizes but "
    "counts when it looks for the answer, so its label is too far right",
    "last_token": "the answer begins at the last token of the window, where the reference continues into the padding "
    "and labels the last position",
    "answer_trimmed": "the answer was given with white space at an end, which is in no token, so the reference also "
    "labels the token beside it",
    "no_token": "the first or last character of the answer is in no token, because the tokenizer drops it, and the "
    "reference labels the token beside it",
    "split_character": "several tokens hold the first or last character of the answer, and the reference labels the "
    "inner one",
    "unsorted_offsets": "the offsets of the tokenizer are not sorted in this document, for example after a special "
    "token in the text, and the reference stops its search there",
    "further_answer": "a further answer of the question is in the window, and the reference labels the first one alone",
    "other": "the cause is not known",
}

_MOST_ANSWERS = 6


def quoted(text: str, longest: int = 120) -> str:
    """Return a text in quotation marks on one line, shortened, with invisible characters replaced."""
    line = visible(" ".join(text.split("\n")))
    return f"“{line}”" if len(line) <= longest else f"“{line[:longest]}…”"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def example_facts(example: ShownExample, config: FeatureConfig) -> list[tuple[str, str]]:
    """Return names and values of the facts of an example."""
    facts = []
    if example.rejected is not None:
        facts.append(("rejected", visible(example.rejected)))
    distinct = list(dict.fromkeys(example.answers))
    for number, (start, text) in enumerate(distinct[:_MOST_ANSWERS]):
        words = "null" if text is None else quoted(text)
        if start is not None and start >= 0:
            words += f", characters {start} to {start + len(text or '')}"
        facts.append(("answer" if number == 0 else "also", words))
    if len(distinct) > _MOST_ANSWERS:
        facts.append(("also", f"{len(distinct) - _MOST_ANSWERS} more"))
    if not distinct and example.rejected is None:
        facts.append(("answer", "none, labelled at CLS" if example.context is not None else "none in these windows"))
    if example.windows:
        tokens = f"question {example.question_tokens:,}"
        if example.document_tokens is not None:
            tokens += f", document {example.document_tokens:,}"
        facts.append(("tokens", tokens))
        if len(example.windows) == 1:
            words = f"1 of {counted(len(example.windows[0].tokens), 'token')}"
        else:
            words = f"{len(example.windows):,}, up to {config.max_length} tokens each, overlap {config.doc_stride}"
        facts.append(("windows", words))
    return facts


def answer_spans(example: ShownExample) -> list[tuple[int, int]]:
    """Return the distinct spans of the context that are answers, in order."""
    assert example.context is not None
    spans = set(placed(example.context, example.answers))
    return sorted(spans | {example.span} if example.span else spans)


def label_words(label: Positions, window: Window) -> str:
    """Return the positions of a label, and whether they are CLS or padding."""
    if label == (window.cls_position, window.cls_position):
        return f"CLS ({label.start})"
    words = f"{label.start} to {label.end}"
    return f"{words}, in the padding" if label.start >= len(window.tokens) else words


WINDOW_HEADER = ("window", "tokens", "characters", "length", "label", "labelled text", "reference")


def window_row(window: Window) -> tuple[str, ...]:
    """Return the cells of a window below `WINDOW_HEADER`."""
    label = label_words(window.label, window)
    reference = "unknown"
    if window.exact is not None and window.reference is not None:
        reference = "same" if window.exact == window.reference else label_words(window.reference, window)
    return (
        str(window.index + 1),
        "" if window.token_start is None else f"{window.token_start:,} to {window.token_end:,}",
        "" if window.char_start is None else f"{window.char_start:,} to {window.char_end:,}",
        f"{len(window.tokens):,}",
        label if window.kept else f"{label}, left out",
        "" if window.label_text is None else quoted(window.label_text, 48),
        reference,
    )


def window_notes(example: ShownExample) -> list[str]:
    """Return remarks about unusual windows of an example, in sentences."""
    notes = []
    answer = None if example.span is None or example.context is None else example.context[slice(*example.span)]
    for window in example.windows:
        number = window.index + 1
        if window.cause is not None:
            assert window.exact is not None
            assert window.reference is not None
            notes.append(
                f"Window {number}: the exact label is {label_words(window.exact, window)}, the reference label is "
                f"{label_words(window.reference, window)}, because {CAUSES[window.cause]} ({window.cause})."
            )
        if answer is not None and window.label_text not in (None, answer):
            notes.append(
                f"Window {number}: the labelled text is {quoted(window.label_text or '', 60)}, the answer is "
                f"{quoted(answer, 60)}, because tokens do not end where the answer does."
            )
    if answer is not None and not any(window.holds_answer for window in example.windows):
        notes.append("No window holds the whole answer, so all windows of the example are labelled without one.")
    if example.windows and not any(window.kept for window in example.windows):
        notes.append("All windows are left out, so training uses nothing of this example.")
    return list(dict.fromkeys(notes))


def token_labels(token: Token, window: Window) -> str:
    """Return what is labelled at a token: start, end, and those of the other kind of label where it differs."""
    words = [name for name, at in zip(("start", "end"), window.label, strict=True) if at == token.position]
    other = window.reference if window.label == window.exact else window.exact
    if other is not None and other != window.label:
        kind = "reference" if other == window.reference else "exact"
        words += [f"{kind} {name}" for name, at in zip(("start", "end"), other, strict=True) if at == token.position]
    return ", ".join(words)


def split_counts(split: SplitStatistics) -> dict[str, Any]:
    """Return the counts of a split by name, from its statistics."""
    counts: dict[str, Any] = {
        "examples": split.good,
        "rejected": sum(split.rejected.values()),
        "repaired": split.repaired,
        **({"kept for scoring only": split.unplaced} if split.unplaced else {}),
        "unanswerable": with_share(split.unanswerable, split.good),
        "distinct questions": split.distinct["questions"],
        "distinct contexts": split.distinct["contexts"],
        "repeated pairs": split.good - split.distinct["pairs"],
    }
    for kind, count in split.shared.items():
        if count:
            counts[f"{kind} in an earlier split"] = count
    if split.windows is not None:
        counts["windows"] = split.windows
        counts["windows without their answer"] = with_share(split.windows_without_answer, split.windows)
        counts["answers in no window"] = split.cut_answers
        counts["tokens"] = split.tokens
        counts["unknown tokens"] = with_share(split.unknown_tokens, split.text_tokens)
        counts["labels that differ from the reference"] = sum(split.differences.values())
    return counts


class Listing(NamedTuple):
    """The rejected or the repaired examples.

    Attributes:
        title: A heading.
        headline: Their number, in words.
        kinds: The rules that they break or the causes of their repairs, each with the number of examples.
        header: Names of the columns of `rows`.
        rows: The first examples.
        more: Number of the others.
    """

    title: str
    headline: str
    kinds: dict[str, int]
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    more: int


def listings(overview: Overview) -> Iterator[Listing]:
    """Yield the lists of examples that were requested."""
    if overview.rejected is not None:
        total, columns = overview.rejected_count, ("split", "id", "reason")
        rows = [(each.split, each.id or "without id", each.reason) for each in overview.rejected]
        headline = f"{counted(total, 'example')} rejected" if total else "No example is rejected."
        yield Listing("Rejected examples", headline, overview.rejected_rules, columns, rows, total - len(rows))
    if overview.repaired is not None:
        total = sum(overview.repaired_causes.values())
        changes = [(each.split, each.id, each.cause, each.reason) for each in overview.repaired]
        headline = f"{counted(total, 'answer')} not at their answer_start" if total else "No answer is repaired."
        kinds, header = overview.repaired_causes, ("split", "id", "cause", "repair")
        yield Listing("Repaired answers", headline, kinds, header, changes, total - len(changes))
