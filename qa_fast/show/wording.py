"""The words that the terminal and the page have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qa_fast.html.markup import shown
from qa_fast.schema import FeatureConfig
from qa_fast.shards import TRAIN
from qa_fast.show.records import Positions, Shown, SplitStatistics, Token, Window, placed

# Why the two labels of a window differ (kernels.labels.CAUSES).
CAUSES = {
    "context_stripped": "the document begins with white space, which the reference takes off before it tokenizes but "
    "does not count when it looks the answer up, so its label stands too far right",
    "last_token": "the answer begins at the window's last token, where the reference walks on through the padding and "
    "labels its last position",
    "answer_trimmed": "the answer was given with white space at an end, which no token holds, so the reference takes "
    "the token beside it too",
    "no_token": "the answer's first or last character is in no token, since the tokenizer drops it, and the reference "
    "takes the token beside it",
    "split_character": "several tokens hold the answer's first or last character; the reference takes the inner one",
    "unsorted_offsets": "in this document the tokenizer's offsets go back, behind a special token written in the text, "
    "say, and the reference stops looking there",
    "other": "for a reason that is not known",
}


def quoted(text: str, longest: int = 120) -> str:
    """A text in a line: what is not seen made visible, long ones cut."""
    line = shown(" ".join(text.split("\n")))
    return f"“{line}”" if len(line) <= longest else f"“{line[:longest]}…”"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: float, whole: float) -> str:
    """A part of a whole, as a count with its share."""
    return f"{part:,} ({100 * part / whole:.3g} %)" if whole else f"{part:,}"


def example_facts(example: Shown, config: FeatureConfig) -> list[tuple[str, str]]:
    """Name and value of what there is to say of an example."""
    facts = []
    if example.rejected is not None:
        facts.append(("rejected", shown(example.rejected)))
    distinct = list(dict.fromkeys(example.answers))
    for number, (start, text) in enumerate(distinct[:6]):
        words = "null" if text is None else quoted(text)
        if start is not None and start >= 0:
            words += f", characters {start} to {start + len(text or '')}"
        facts.append(("answer" if number == 0 else "also", words))
    if len(distinct) > 6:
        facts.append(("also", f"{len(distinct) - 6} more"))
    if not distinct and example.rejected is None:
        facts.append(("answer", "none: labelled at CLS" if example.context is not None else "none in these windows"))
    if example.windows:
        tokens = f"question {example.question_tokens:,}"
        if example.document_tokens is not None:
            tokens += f", document {example.document_tokens:,}"
        facts.append(("tokens", tokens))
        if len(example.windows) == 1:
            words = f"one of {counted(len(example.windows[0].tokens), 'token')}"
        else:
            words = (
                f"{len(example.windows):,}, of at most {config.max_length} tokens, overlapping by {config.doc_stride}"
            )
        facts.append(("windows", words))
    return facts


def answer_spans(example: Shown) -> list[tuple[int, int]]:
    """The distinct stretches of the context that are answers, in order: where it says what the answer says."""
    assert example.context is not None
    spans = set(placed(example.context, example.answers))
    return sorted(spans | {example.span} if example.span else spans)


def position_words(at: Positions, window: Window) -> str:
    """A label in words: positions in the feature, and what they are where they are no tokens of the document."""
    if at == (window.cls_position, window.cls_position):
        return f"CLS ({at.start})"
    words = f"{at.start} to {at.end}"
    return f"{words}, in the padding" if at.start >= len(window.tokens) else words


def reference_words(window: Window) -> str:
    """How the other way of labelling has it."""
    if window.exact is None or window.reference is None:
        return "not known"
    return "same" if window.exact == window.reference else position_words(window.reference, window)


WINDOW_HEADER = ("window", "tokens", "characters", "length", "label", "reads", "reference")


def window_row(window: Window) -> tuple[str, ...]:
    """A window as a row below `WINDOW_HEADER`."""
    reads = "" if window.label_text is None else quoted(window.label_text, 48)
    label = position_words(window.label, window)
    return (
        str(window.index + 1),
        "" if window.token_start is None else f"{window.token_start:,} to {window.token_end:,}",
        "" if window.char_start is None else f"{window.char_start:,} to {window.char_end:,}",
        f"{len(window.tokens):,}",
        label if window.kept else f"{label}, left out",
        reads,
        reference_words(window),
    )


def window_notes(example: Shown) -> list[str]:
    """What is odd about the windows of an example, in sentences."""
    notes = []
    of_span = None if example.span is None or example.context is None else example.context[slice(*example.span)]
    for window in example.windows:
        number = window.index + 1
        if window.cause is not None:
            assert window.exact is not None
            assert window.reference is not None
            notes.append(
                f"Window {number}: exact labels say {position_words(window.exact, window)}, the reference "
                f"{position_words(window.reference, window)}: {CAUSES[window.cause]} ({window.cause})."
            )
        if of_span is not None and window.label_text not in (None, of_span):
            notes.append(
                f"Window {number}: its label reads {quoted(window.label_text or '', 60)}, the answer is "
                f"{quoted(of_span, 60)}: tokens do not end where it does."
            )
    kept = [window for window in example.windows if window.kept]
    if of_span is not None and not any(window.holds_answer for window in example.windows):
        notes.append("No window holds the whole answer, so the example is only ever labelled without one.")
    if example.windows and not kept:
        notes.append("All windows are left out: nothing of this example is trained on.")
    return list(dict.fromkeys(notes))


def label_of(token: Token, window: Window) -> str:
    """What is labelled at a token: start, end, and where the reference differs its own."""
    words = [name for name, at in zip(("start", "end"), window.label, strict=True) if at == token.position]
    other = window.reference if window.label == window.exact else window.exact
    if other is not None and other != window.label:
        kind = "reference" if other == window.reference else "exact"
        words += [f"{kind} {name}" for name, at in zip(("start", "end"), other, strict=True) if at == token.position]
    return ", ".join(words)


def split_counts(split: SplitStatistics) -> dict[str, Any]:
    """A split's counts, by name."""
    counts: dict[str, Any] = {
        "examples": split.good,
        "rejected": sum(split.rejected.values()),
        "repaired": split.repaired,
        "unanswerable": share(split.unanswerable, split.good),
        "distinct questions": split.distinct["questions"],
        "distinct contexts": split.distinct["contexts"],
        "pairs that come again": split.good - split.distinct["pairs"],
    }
    for kind, count in split.shared.items():
        if count:
            counts[f"{kind} in an earlier split"] = count
    if split.windows is not None:
        counts["windows"] = split.windows
        counts["windows without their answer"] = share(split.windows_without_answer, split.windows)
        counts["answers that no window holds"] = split.cut_answers
        counts["tokens"] = split.tokens
        counts["labels unlike the reference's"] = sum(split.differences.values())
    return counts


def indexed_counts(about: dict[str, Any]) -> dict[str, Any]:
    """A split's counts as an index of shards has them."""
    return {
        "examples": about["examples"],
        "rejected": about["rejected"],
        "repaired": about["repaired"],
        "windows": about["features"],
        "windows labelled without answer": share(about["impossible"], about["features"]),
        "tokens": about["tokens"],
        "labels unlike the reference's": sum(about["differences"].values()),
    }


def train_first(splits: Iterable[str]) -> list[str]:
    """Names of splits, train first: what others have in common with it is then counted as theirs."""
    return sorted(splits, key=lambda split: split != TRAIN)


def row_names(counts: Iterable[dict[str, Any]]) -> list[str]:
    """The names of counts of several splits, in order."""
    return list(dict.fromkeys(name for each in counts for name in each))
