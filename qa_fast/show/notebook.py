"""Makes the HTML that notebooks show for examples, splits, shards and answers, from plain dicts and Arrow tables.

The functions serve `_repr_html_`, so they are quick, use only what is in memory, and do not raise for anything that a
data set may hold: they report a misplaced or missing value in the piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.buffers import list_lengths, one_chunk
from qa_fast.html.charts import histogram, percent
from qa_fast.html.documents import Mark, document, excerpt
from qa_fast.html.elements import details, facts, grid, heading, paragraph, table
from qa_fast.html.markup import Html, Part
from qa_fast.html.page import fragment
from qa_fast.shards.summary import with_share
from qa_fast.show.distribution import distribution
from qa_fast.show.records import placed
from qa_fast.show.wording import quoted

_FIRST_ROWS = 5
# Longer documents are shown around their marks, because a notebook file keeps all that it shows.
_WHOLE_CHARS, _CHARS_AROUND = 20_000, 2_000
_CELL_CHARS = 90


def example_html(row: Mapping[str, Any], split: str | None = None) -> str:
    """Return one raw example: its question, and its document with the answers marked.

    Args:
        row: id, question, context and answers, which is a dict of the lists text and answer_start. Missing values are
            left out.
        split: Name of its split, if known.
    """
    context = str(row.get("context") or "")
    answers = row.get("answers") or {}
    pairs = list(zip(answers.get("answer_start") or (), answers.get("text") or (), strict=False))
    spans = sorted(set(placed(context, pairs)))
    misplaced = [text for start, text in dict.fromkeys(pairs) if not list(placed(context, [(start, text)]))]
    name = " · ".join(str(part) for part in (split, row.get("id")) if part is not None)
    marks = [Mark(begin, end, "gold", f"answer, characters {begin} to {end}") for begin, end in spans]
    places = [("answer", f"{quoted(context[begin:end])}, characters {begin} to {end}") for begin, end in spans]
    return fragment(
        paragraph(name, kind="quiet") if name else None,
        paragraph(str(row.get("question") or ""), kind="lead"),
        _document(context, marks),
        facts(places) if places else None,
        None if pairs else paragraph("No answer: the document does not hold one.", kind="quiet"),
        [
            paragraph(f"The answer {quoted(str(text))} is not at its answer_start.", kind="note bad")
            for text in misplaced
        ],
    )


def answer_html(
    answer: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    context: str,
    question: str,
) -> str:
    """Return answers of a model in their document.

    Args:
        answer: A dict of score, start, end and answer as `Answerer` returns it, or a list of them, best first.
        context: The document as given to the model.
        question: The question.
    """
    candidates = [answer] if isinstance(answer, Mapping) else list(answer)
    marks: list[Mark] = []
    rows: list[tuple[str, str, str]] = []
    for candidate in candidates:
        start, end = (min(max(int(candidate[name]), 0), len(context)) for name in ("start", "end"))
        score = f"{candidate['score']:.1%}"
        if start < end and (not rows or "sentence" in candidate):  # passages of evidence do not overlap
            marks.append(Mark(start, end, "predicted", f"answer, score {score}"))
        is_answer = start < end
        rows.append(
            (str(candidate["answer"]), score, f"{start:,} to {end:,}") if is_answer else ("no answer", score, "")
        )
    return fragment(
        paragraph(question, kind="lead"),
        _document(context, marks),
        table(("answer", "score", "characters"), rows, numeric=(1, 2)),
    )


def split_html(name: str, rows: pa.Table) -> str:
    """Return a summary of a split: counts, three plots and its first examples.

    Args:
        name: Name of the split.
        rows: Columns id, question, context (dictionary or plain) and answers; E rows.
    """
    contexts = one_chunk(rows["context"])
    if not pa.types.is_dictionary(contexts.type):
        contexts = contexts.dictionary_encode()
    context_index = contexts.indices.to_numpy(zero_copy_only=False)
    used = np.unique(context_index)
    chars = pc.fill_null(pc.utf8_length(contexts.dictionary), 0).to_numpy(zero_copy_only=False)
    answers = one_chunk(rows["answers"])
    starts = answers.field("answer_start")
    answer_counts, start_counts = list_lengths(answers.field("text")), list_lengths(starts)
    answered = np.flatnonzero((answer_counts > 0) & (start_counts > 0))
    first_starts = pc.list_element(starts.take(pa.array(answered)), 0).to_numpy(zero_copy_only=False)
    places = first_starts / np.maximum(chars[context_index[answered]], 1)
    plots: list[Html] = []
    question_chars = pc.fill_null(pc.utf8_length(rows["question"]), 0).to_numpy()
    for title, values in (("Questions", question_chars), ("Contexts", chars[used])):
        spread = distribution(title, "characters", values)
        plots.append(
            histogram(title, spread.counts, spread.edges, x_label=spread.unit, pointers={"median": spread.median},
                      overflow=spread.overflow)
        )  # fmt: skip
    spread = distribution("", "", places[(places >= 0) & (places <= 1)].astype(np.float64))
    plots.append(
        histogram("Start of the answer", spread.counts, spread.edges, x_label="share of the context", x_format=percent)
    )
    counts: list[tuple[str, Part]] = [
        ("examples", rows.num_rows),
        ("contexts", len(used)),
        ("unanswerable", with_share(int((answer_counts == 0).sum()), rows.num_rows)),
    ]
    return fragment(
        heading(name, 3),
        facts(counts),
        details("Plots", grid(*plots)) if rows.num_rows else None,
        _first_rows(rows.slice(0, _FIRST_ROWS).to_pylist(), rows.num_rows) if rows.num_rows else None,
    )


def _document(context: str, marks: list[Mark]) -> Html:
    return document(*excerpt(context, marks, _WHOLE_CHARS, _CHARS_AROUND))


def _first_rows(rows: list[dict[str, Any]], total: int) -> Html:
    cells = [
        (
            _shortened(row["question"] or ""),
            _shortened(next(iter((row["answers"] or {}).get("text") or ()), None) or "none"),
            str(row["id"]),
        )
        for row in rows
    ]
    caption = f"the first {len(rows)} of {total:,}" if total > len(rows) else None
    return table(("question", "answer", "id"), cells, caption)


def _shortened(text: str) -> str:
    return text if len(text) <= _CELL_CHARS else f"{text[:_CELL_CHARS]}…"
