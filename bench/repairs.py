"""Measures repairs of answers: right data is damaged by rule, and each repair is compared with the place before it.

    python bench/repairs.py SOURCE [SOURCE ...] [--split validation] [--examples 20000]

Each SOURCE is what `qa-fast featurize` reads; its examples with a right first answer are used. For each rule the table
shows how many answers were misplaced, how many of them were repaired, the share of repairs that restore the right place
(precision), the share of misplaced answers that are restored (recall), the repairs that are worse than the label that
they replace (it overlapped the answer, the repaired one does not), and the causes that the repairs were counted under.
A second table gives the precision of each cause over all rules.
"""

from __future__ import annotations

import argparse
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from qa_fast import load
from qa_fast.features.examples import check_examples
from qa_fast.raw import EXAMPLES


class Marked(NamedTuple):
    """A context, the places of the answers of its questions, and what a damaged file says of them: start and text."""

    context: str
    spans: list[tuple[int, int]]
    given: list[tuple[int, str]]


Damage = Callable[[str, list[tuple[int, int]], random.Random], Marked]


def unharmed(context: str, spans: list[tuple[int, int]]) -> Marked:
    return Marked(context, spans, [(begin, context[begin:end]) for begin, end in spans])


def restarted(of: Callable[[str, int], int]) -> Damage:
    """Replace each start by `of(context, start)`."""

    def damage(context: str, spans: list[tuple[int, int]], _: random.Random) -> Marked:
        given = [(of(context, begin), context[begin:end]) for begin, end in spans]
        return Marked(context, spans, given)

    return damage


def reworded(of: Callable[[str], str]) -> Damage:
    """Replace the text of each answer by `of(text)`."""

    def damage(context: str, spans: list[tuple[int, int]], _: random.Random) -> Marked:
        return Marked(context, spans, [(begin, of(context[begin:end])) for begin, end in spans])

    return damage


def rewritten(
    of: Callable[[str], str], starts_of: Callable[[str, int], int] | None = None, answers: bool = False
) -> Damage:
    """Rewrite the contexts, and the `answers` if asked, by `of`; `starts_of(new context, place)` counts starts anew."""

    def damage(context: str, spans: list[tuple[int, int]], _: random.Random) -> Marked:
        new = of(context)
        places = [(len(of(context[:begin])), len(of(context[:end]))) for begin, end in spans]
        starts = [starts_of(new, begin) for begin, _ in places] if starts_of else [begin for begin, _ in spans]
        texts = [new[begin:end] for begin, end in places] if answers else [context[begin:end] for begin, end in spans]
        return Marked(new, places, list(zip(starts, texts, strict=True)))

    return damage


def misspelled(context: str, spans: list[tuple[int, int]], luck: random.Random) -> Marked:
    """Change the text of one answer in the context; its start is right, but its text may be elsewhere."""
    at = luck.randrange(len(spans))
    begin, end = spans[at]
    middle = (begin + end) // 2
    given = unharmed(context, spans).given
    return Marked(context[:middle] + "¤" + context[middle + 1 :], spans, given)


def some_anywhere(context: str, spans: list[tuple[int, int]], luck: random.Random) -> Marked:
    """Give one answer of each context a start by chance."""
    given = unharmed(context, spans).given
    at = luck.randrange(len(spans))
    given[at] = (luck.randrange(len(context)), given[at][1])
    return Marked(context, spans, given)


def utf16(context: str, at: int) -> int:
    return len(context[:at].encode("utf-16-le")) // 2


def utf8(context: str, at: int) -> int:
    return len(context[:at].encode())


def with_emoji(context: str) -> str:
    return context.replace(". ", ". 🔔 ").replace("。", "。🔔")


def form(name: str) -> Callable[[str], str]:
    return lambda text: unicodedata.normalize(name, text)


DAMAGES: dict[str, Damage] = {
    "starts shifted by 1": restarted(lambda _, at: at + 1),
    "starts shifted by -5": restarted(lambda _, at: max(at - 5, 0)),
    "starts shifted by 120": restarted(lambda _, at: at + 120),
    "starts that drift by 1 every 100 characters": restarted(lambda _, at: at + at // 100),
    "starts that drift by 2 a sentence": restarted(lambda context, at: at + 2 * context.count(". ", 0, at)),
    "starts in UTF-16 units, contexts with emoji": rewritten(with_emoji, utf16, answers=True),
    "starts in bytes": restarted(utf8),
    "starts in bytes, contexts with emoji": rewritten(with_emoji, utf8, answers=True),
    "starts in NFC, contexts in NFD": rewritten(form("NFD")),
    "starts in NFD, contexts in NFC": restarted(lambda context, at: len(form("NFD")(context[:at]))),
    "starts from before CR LF became LF": rewritten(
        lambda text: text.replace(". ", ".\n"), lambda text, at: at + text.count("\n", 0, at)
    ),
    "contexts in NFD, right starts": rewritten(form("NFD"), lambda _, at: at),
    "answers in lower case": reworded(str.lower),
    "answers in upper case": reworded(str.upper),
    "answers in lower case, starts shifted by 1": lambda context, spans, luck: Marked(
        context, spans, [(begin + 1, context[begin:end].lower()) for begin, end in spans]
    ),
    "contexts with U+00A0 for every space": rewritten(lambda text: text.replace(" ", "\u00a0"), lambda _, at: at),
    "contexts with two spaces for one, starts not moved": rewritten(lambda text: text.replace(" ", "  ")),
    "every start -1": restarted(lambda _, at: -1),
    "every start 0": restarted(lambda _, at: 0),
    "a misspelling at the place of one answer of a context": misspelled,
    "a start by chance for one answer of a context": some_anywhere,
}  # fmt: skip


def documents(sources: Iterable[str], split: str | None, most: int) -> list[tuple[str, list[tuple[int, int]]]]:
    """Return contexts with the spans of first answers that are right."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for source in sources:
        splits = load(source, splits=[split] if split else None, max_examples=most, say=lambda _: None)
        for name in splits:
            for row in splits[name]:
                texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
                if texts and texts[0].strip() == texts[0] and row["context"].startswith(texts[0], starts[0]):
                    spans.setdefault(form("NFC")(row["context"]), []).append((starts[0], starts[0] + len(texts[0])))
    return list(spans.items())


def measured(marked: list[Marked]) -> dict[str, Any]:
    """Check damaged documents, and count right and wrong repairs."""
    rows, expected = [], []
    for each in marked:
        for span, (start, text) in zip(each.spans, each.given, strict=True):
            answers = {"text": [text], "answer_start": [start]}
            rows.append({"id": str(len(rows)), "question": "?", "context": each.context, "answers": answers})
            expected.append((each.context, span))
    counts: Counter[str] = Counter(answers=len(rows))
    causes: Counter[str] = Counter()
    right_causes: Counter[str] = Counter()
    for begin in range(0, len(rows), 10_000):
        part = rows[begin : begin + 10_000]
        checked = check_examples(pa.Table.from_pylist(part, EXAMPLES), np.zeros(len(part), bool))
        counts["misplaced"] += len(checked.rejects) + len(checked.repairs)
        causes.update(repair.cause for repair in checked.repairs.values())
        found = dict(zip(checked.rows.tolist(), range(len(checked.rows)), strict=True))
        for row in checked.repairs:
            at = found[row]
            span = int(checked.examples.span_start[at]), int(checked.examples.span_end[at])
            _, right = expected[begin + row]
            start, text = part[row]["answers"]["answer_start"][0], part[row]["answers"]["text"][0]
            counts["right"] += span == right
            right_causes[checked.repairs[row].cause] += span == right
            was_near = start < right[1] and start + len(text) > right[0] and start >= 0
            counts["worse"] += was_near and not (span[0] < right[1] and span[1] > right[0])
    return {**counts, "repaired": causes.total(), "causes": dict(causes.most_common()), "right_causes": right_causes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--split", help="by default all")
    parser.add_argument("--examples", type=int, default=20_000, help="of each source")
    asked = parser.parse_args()
    whole = documents(asked.sources, asked.split, asked.examples)
    print("| damage | misplaced | repaired | precision | recall | worse | causes |\n|---|--:|--:|--:|--:|--:|---|")
    repaired, right = Counter[str](), Counter[str]()
    for name, damage in DAMAGES.items():
        luck = random.Random(0)
        counts = measured([damage(context, spans, luck) for context, spans in whole])
        repaired.update(counts["causes"])
        right.update(counts["right_causes"])
        if not counts["misplaced"]:
            continue
        precision = f"{counts.get('right', 0) / counts['repaired']:.2%}" if counts["repaired"] else ""
        causes = ", ".join(f"{cause} {count:,}" for cause, count in counts["causes"].items())
        print(
            f"| {name} | {counts['misplaced']:,} | {counts['repaired']:,} | {precision} | "
            f"{counts.get('right', 0) / counts['misplaced']:.2%} | {counts.get('worse', 0):,} | {causes} |",
            flush=True,
        )
    print("\n| cause | repaired | precision |\n|---|--:|--:|")
    for cause, count in repaired.most_common():
        print(f"| {cause} | {count:,} | {right[cause] / count:.2%} |")


if __name__ == "__main__":
    main()
