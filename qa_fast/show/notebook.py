"""What notebooks show of examples, splits and answers: pieces of HTML from plain dicts and Arrow tables.

They are meant for `_repr_html_`, so they are quick, take what is there without reading more, and never raise for what
a data set may hold: what is misplaced or missing is said, not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import one_chunk
from qa_fast.html.charts import histogram, percent
from qa_fast.html.documents import document, key
from qa_fast.html.elements import details, facts, grid, heading, paragraph, table
from qa_fast.html.markup import Html, Part
from qa_fast.html.page import fragment
from qa_fast.show.records import placed
from qa_fast.show.statistics import distribution
from qa_fast.show.wording import indexed_counts, quoted, row_names, share, train_first

_FIRST_ROWS = 5
# A long document is shown around its answers: a notebook keeps all that it shows.
_LONGEST, _AROUND = 20_000, 2_000


def example_html(row: Mapping[str, Any], split: str | None = None) -> str:
    """One raw example: its question, and its document with the answers marked.

    Args:
        row: id, question, context and answers, a dict of the lists text and answer_start; what is missing is left out.
        split: Its split, where that is known.
    """
    context = str(row.get("context") or "")
    answers = row.get("answers") or {}
    given = list(zip(answers.get("answer_start") or (), answers.get("text") or (), strict=False))
    spans = sorted(set(placed(context, given)))
    elsewhere = [text for start, text in dict.fromkeys(given) if not list(placed(context, [(start, text)]))]
    parts: list[Part] = [_named(split, row.get("id")), paragraph(str(row.get("question") or ""), kind="lead")]
    parts.append(_around(context, [(a, b, "gold", f"answer, characters {a} to {b}") for a, b in spans]))
    parts.append(
        facts([("answer", f"{quoted(context[a:b])}, characters {a} to {b}") for a, b in spans]) if spans else None
    )
    if not given:
        parts.append(paragraph("No answer: the document does not hold one.", kind="quiet"))
    for text in elsewhere:
        parts.append(paragraph(f"The answer {quoted(str(text))} does not stand where it says.", kind="note bad"))
    return fragment(*parts)


def answer_html(
    answer: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    context: str,
    question: str | None = None,
    gold: Iterable[tuple[int, str]] = (),
) -> str:
    """Answers of a model in their document.

    Args:
        answer: A dict of score, start, end and answer as `Answerer` returns it, or a list of them, best first.
        context: The document as given to it.
        question: What was asked.
        gold: (first character, text) of the right answers, where they are known.
    """
    found = [answer] if isinstance(answer, Mapping) else list(answer)
    right = sorted(set(placed(context, gold)))
    marks = [(a, b, "gold", f"right answer, characters {a} to {b}") for a, b in right]
    rows: list[tuple[str, str, str]] = []
    for number, each in enumerate(found):
        start, end = (min(max(int(each[name]), 0), len(context)) for name in ("start", "end"))
        if start < end and number == 0:
            kind = "wrong" if right and not any(a < end and start < b for a, b in right) else "predicted"
            marks.append((start, end, kind, f"answer, score {each['score']:.1%}"))
        words = str(each["answer"]) if start < end else "no answer"
        rows.append((words, f"{each['score']:.1%}", f"{start:,} to {end:,}" if start < end else ""))
    meanings = {"predicted": "the model's answer", "wrong": "the model's answer", "gold": "right answer"}
    kinds = {mark[2] for mark in marks}
    shown_kinds = {kind: word for kind, word in meanings.items() if kind in kinds}
    return fragment(
        paragraph(question, kind="lead") if question else None,
        key(shown_kinds) if right else None,
        _around(context, marks),
        table(("answer", "score", "characters"), rows, numeric=(1, 2)),
    )


def split_html(name: str, rows: pa.Table, rejected: Sequence[Mapping[str, Any]] | None = None) -> str:
    """A split's summary: counts, three plots and its first examples.

    Args:
        name: Of the split, or of the data set and it.
        rows: Columns id, question, context (dictionary or plain) and answers; E rows.
        rejected: Examples left out, dicts of id and reason; None where that is not known.
    """
    contexts = one_chunk(rows["context"])
    if not pa.types.is_dictionary(contexts.type):
        contexts = contexts.dictionary_encode()
    index = contexts.indices.to_numpy(zero_copy_only=False)
    used = np.unique(index)
    chars = pc.fill_null(pc.utf8_length(contexts.dictionary), 0).to_numpy(zero_copy_only=False)
    answers = one_chunk(rows["answers"])
    texts, starts = answers.field("text"), answers.field("answer_start")
    counts = pc.fill_null(pc.list_value_length(texts), 0).to_numpy(zero_copy_only=False)
    first = np.flatnonzero(
        (counts > 0) & (pc.fill_null(pc.list_value_length(starts), 0).to_numpy(zero_copy_only=False) > 0)
    )
    begins = pc.list_element(starts.take(pa.array(first)), 0).to_numpy(zero_copy_only=False)
    inside = begins / np.maximum(chars[index[first]], 1)
    lengths = {
        "Questions": ("characters", pc.fill_null(pc.utf8_length(rows["question"]), 0).to_numpy()),
        "Contexts": ("characters", chars[used]),
    }
    plots: list[Html] = []
    for title, (unit, values) in lengths.items():
        spread = distribution(title, unit, values)
        plots.append(
            histogram(title, spread.counts, spread.edges, x_label=unit, pointers={"median": spread.median},
                      overflow=spread.overflow)
        )  # fmt: skip
    where = distribution("", "", inside[(inside >= 0) & (inside <= 1)].astype(np.float64))
    plots.append(
        histogram("Where answers begin", where.counts, where.edges, x_label="share of the context", x_format=percent)
    )
    numbers: list[tuple[str, Part]] = [
        ("examples", rows.num_rows),
        ("contexts", len(used)),
        ("unanswerable", share(int((counts == 0).sum()), rows.num_rows)),
    ]
    if rejected is not None:
        numbers.append(("rejected", len(rejected)))
    return fragment(
        heading(name, 3),
        facts(numbers),
        details("Plots", grid(*plots)) if rows.num_rows else None,
        _first_rows(rows.slice(0, _FIRST_ROWS).to_pylist(), rows.num_rows) if rows.num_rows else None,
        _rejected(rejected or ()),
    )


def shards_html(name: str, manifest: Mapping[str, Any]) -> str:
    """A folder of shards, by its index: what it was made from and of, and counts of its splits."""
    config, splits = manifest["config"], manifest["splits"]
    counts = {split: indexed_counts(splits[split]) for split in train_first(splits)}
    rows = [[row, *(each.get(row, "") for each in counts.values())] for row in row_names(counts.values())]
    return fragment(
        heading(name, 3),
        facts(
            [
                ("from", str(manifest["source"].get("origin", manifest["source"].get("name", "")))),
                ("tokenizer", str(manifest["model"]["name"])),
                ("windows", f"at most {config['max_length']} tokens, overlapping by {config['doc_stride']}"),
                ("labels", str(config["labels"])),
            ]
        ),
        table(["", *counts], rows, numeric=range(1, 1 + len(counts))),
    )


def _named(split: str | None, row_id: Any) -> Html | None:
    words = [str(each) for each in (split, row_id) if each is not None]
    return paragraph(" · ".join(words), kind="quiet") if words else None


def _around(context: str, marks: list[tuple[int, int, str, str]]) -> Html:
    """The document, or of a long one what is around its marks, with a word of what is not shown."""
    if len(context) <= _LONGEST:
        return document(context, marks)
    begin = max(min((mark[0] for mark in marks), default=0) - _AROUND, 0)
    end = min(max((mark[1] for mark in marks), default=0) + _AROUND, len(context), begin + _LONGEST)
    kept = [(a - begin, min(b, end) - begin, kind, label) for a, b, kind, label in marks if a < end]
    said = f"Characters {begin:,} to {end:,} of {len(context):,}."
    return Html(f"{document(context[begin:end], kept)}{paragraph(said, kind='quiet')}")


def _first_rows(rows: list[dict[str, Any]], total: int) -> Html:
    cells = [
        (
            _short(row["question"]),
            _short(next(iter((row["answers"] or {}).get("text") or ()), None), "none"),
            str(row["id"]),
        )
        for row in rows
    ]
    caption = f"the first {len(rows)} of {total:,}" if total > len(rows) else None
    return table(("question", "answer", "id"), cells, caption)


def _short(text: str | None, missing: str = "", longest: int = 90) -> str:
    if text is None:
        return missing
    return text if len(text) <= longest else f"{text[:longest]}…"


def _rejected(rejected: Sequence[Mapping[str, Any]]) -> Html | None:
    if not rejected:
        return None
    rows = [(str(each["id"]), str(each["reason"])) for each in rejected[:50]]
    more = paragraph(f"{len(rejected) - 50:,} more.", kind="quiet") if len(rejected) > 50 else None
    return details(f"Rejected: {len(rejected):,}", table(("id", "reason"), rows), more)
