"""One question as a reader judges it: the answers given and wanted, both in the document, and what else was likely."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qa_fast.html.documents import document
from qa_fast.html.elements import details, facts, paragraph, table
from qa_fast.html.markup import Html, Part, element
from qa_fast.report.analysis import Against, Analysis
from qa_fast.report.mistakes import CROSSING, KINDS, LONG, candidates_of

# Characters of a document that is shown whole, and around each span where it is not.
_WHOLE, _AROUND = 4000, 700
_CANDIDATES = 5
_NO_ANSWER = "no answer"
_GAP = "\n…\n"

Span = tuple[int, int]


def case(analysis: Analysis, row: int, *, against: Against | None = None, is_open: bool = False) -> Html:
    """A question that folds open.

    Args:
        analysis: That it is one of.
        row: Which.
        against: The other model, where the line that folds open is to set both beside each other.
        is_open: Whether it is open at first.
    """
    result, golds = analysis.result, analysis.result.golds
    prediction, answers = result.predictions[row], list(dict.fromkeys(golds.answers[row]))
    told: list[tuple[str, Part]] = [
        ("Predicted", _answer(prediction)),
        ("Right", " · ".join(answers) or _NO_ANSWER),
        ("Score", f"F1 {100 * analysis.overlap[row]:.0f}, confidence {share(analysis.confidence[row])}"),
    ]
    if not analysis.exact[row]:
        told.append(("What is wrong", _kind(analysis, row)))
    if analysis.against is not None:
        theirs = analysis.against
        said = _answer(theirs.other.predictions[row])
        told.insert(1, ("Other model", f"{said} (F1 {100 * theirs.overlap[row]:.0f})"))
    ranked = [(_answer(found.text), share(found.probability)) for found in candidates_of(result, row, _CANDIDATES)]
    text, marks = excerpt(result.contexts[result.context_index[row]], _marks(analysis, row))
    beside = f"right: {answers[0] if answers else _NO_ANSWER}"
    if against is not None:
        beside = f"other: {_answer(against.other.predictions[row])}"
    summary: list[Part] = [element("b", golds.questions[row]), f" {_answer(prediction)} — {beside}"]
    return details(
        summary,
        facts(told),
        document(text, marks, name=golds.questions[row]),
        details("Candidates", table(["answer", "probability"], ranked, numeric=(1,))),
        paragraph(f"id {result.ids[row]}", kind="quiet"),
        is_open=is_open,
    )


def share(value: float) -> str:
    """A share as people read it, never rounded to all or nothing."""
    if value >= 0.9995:
        return "> 99.9 %" if value < 1 else "100 %"
    return f"{100 * value:.1f} %" if value >= 0.0005 or value == 0 else "< 0.1 %"


def excerpt(text: str, marks: Sequence[tuple[int, int, str, str]]) -> tuple[str, list[tuple[int, int, str, str]]]:
    """A long text cut down to what stands around its marks.

    Args:
        text: Whole.
        marks: (char_start, char_end, kind, label).

    Returns:
        The text with gaps shown as "…", and the marks where they stand in it.
    """
    if len(text) <= _WHOLE:
        return text, list(marks)
    kept: list[list[int]] = []
    around = sorted((max(0, begin - _AROUND), min(len(text), end + _AROUND)) for begin, end, *_ in marks)
    for begin, end in around or [(0, 2 * _AROUND)]:
        if kept and begin <= kept[-1][1]:
            kept[-1][1] = max(kept[-1][1], end)
        else:
            kept.append([begin, end])
    pieces, moved = "", []
    for begin, end in kept:
        pieces += _GAP if begin else ""
        shift = len(pieces) - begin
        moved += [(a + shift, b + shift, *named) for a, b, *named in marks if begin <= a and b <= end]
        pieces += text[begin:end]
    return pieces + (_GAP if kept[-1][1] < len(text) else ""), moved  # type: ignore[return-value]


def _answer(text: str) -> str:
    return text or _NO_ANSWER


def _kind(analysis: Analysis, row: int) -> str:
    name = list(KINDS)[analysis.kind[row]]
    return f"{name}: {KINDS[name]}"


def _marks(analysis: Analysis, row: int) -> list[tuple[int, int, str, str]]:
    result, golds = analysis.result, analysis.result.golds
    context = result.contexts[result.context_index[row]]
    spans = {(start, start + len(text)) for start, text in zip(golds.starts[row], golds.answers[row], strict=True)}
    marks = [(begin, end, "gold", "right") for begin, end in sorted(_inside(spans, context))]
    if result.predictions[row]:
        touching = analysis.exact[row] > 0 or LONG <= analysis.kind[row] <= CROSSING
        begin, end = int(result.spans.char_start[row, 0]), int(result.spans.char_end[row, 0])
        marks.append((begin, end, "predicted" if touching else "wrong", "predicted"))
    if analysis.against is not None:
        theirs = analysis.against.other.predictions[row]
        # A text by id does not say where it stands; where it stands once there is no doubt.
        if theirs and theirs != result.predictions[row] and context.count(theirs) == 1:
            begin = context.index(theirs)
            marks.append((begin, begin + len(theirs), "other", "other model"))
    return marks


def _inside(spans: Iterable[Span], context: str) -> list[Span]:
    """Data sets hold spans that point beyond their documents; they are told as texts, not marked."""
    return [(begin, end) for begin, end in spans if 0 <= begin < end <= len(context)]
