"""One question of a report: the predicted and the gold answers, both in the document, and the other candidates."""

from __future__ import annotations

from collections.abc import Iterator

from qa_fast.html.documents import Mark, document, excerpt
from qa_fast.html.elements import details, facts, paragraph, table
from qa_fast.html.markup import Html, Part, element
from qa_fast.report.analysis import Analysis
from qa_fast.report.mistakes import KINDS, RIGHT, touches_gold

# Documents up to this length are shown whole, others around their marks.
_WHOLE_CHARS, _CHARS_AROUND = 4000, 700
_CANDIDATES = 5


def question_case(analysis: Analysis, row: int, *, beside_other: bool = False, is_open: bool = False) -> Html:
    """Return a question as a fold.

    Args:
        analysis: The analysis of the result.
        row: Row of the question.
        beside_other: Whether the summary shows the other model's answer instead of the gold answer.
        is_open: Whether the fold is open at first.
    """
    result, golds, against = analysis.result, analysis.result.golds, analysis.against
    prediction, answers = _answer(result.predictions[row]), list(dict.fromkeys(golds.answers[row]))
    named: list[tuple[str, Part]] = [
        ("Predicted", prediction),
        ("Gold answers", " · ".join(map(_answer, answers)) or _answer("")),
        ("Score", f"F1 {100 * analysis.overlap[row]:.0f}, confidence {share_text(analysis.confidence[row])}"),
    ]
    if analysis.kind[row] != RIGHT:
        kind = list(KINDS)[analysis.kind[row]]
        named.append(("Mistake", f"{kind}: {KINDS[kind]}"))
    comparison = f"gold: {_answer(next(iter(answers), ''))}"
    if against is not None:
        others = _answer(against.other.predictions[row])
        named.insert(1, ("Other model", f"{others} (F1 {100 * against.overlap[row]:.0f})"))
        if beside_other:
            comparison = f"other: {others}"
    ((_, candidates),) = result.n_best([row])
    ranked = [(_answer(each["text"]), share_text(each["probability"])) for each in candidates[:_CANDIDATES]]
    context = result.contexts[result.context_index[row]]
    text, marks = excerpt(context, _marks(analysis, row, context), _WHOLE_CHARS, _CHARS_AROUND)
    summary: list[Part] = [element("b", golds.questions[row]), f" {prediction} — {comparison}"]
    return details(
        summary,
        facts(named),
        document(text, marks, name=golds.questions[row]),
        details("Candidates", table(["answer", "probability"], ranked, numeric=(1,))),
        paragraph(f"id {result.ids[row]}", kind="quiet"),
        is_open=is_open,
    )


def share_text(value: float) -> str:
    """Write a share as a percentage that is never rounded to 0 or 100."""
    if value >= 0.9995:
        return "> 99.9 %" if value < 1 else "100 %"
    return f"{100 * value:.1f} %" if value >= 0.0005 or value == 0 else "< 0.1 %"


def _answer(text: str) -> str:
    return text or "no answer"


def _marks(analysis: Analysis, row: int, context: str) -> Iterator[Mark]:
    """Yield marks of the gold answers, of the prediction, and of the other model's answer if it occurs once."""
    result, golds = analysis.result, analysis.result.golds
    prediction = result.predictions[row]
    spans = {(start, start + len(text)) for start, text in zip(golds.starts[row], golds.answers[row], strict=True)}
    for begin, end in spans:
        if 0 <= begin < end <= len(context):  # data sets hold spans outside their documents
            yield Mark(begin, end, "gold", "gold answer")
    if prediction:
        is_near = analysis.exact[row] > 0 or touches_gold(analysis.kind[row])
        begin, end = int(result.spans.char_start[row, 0]), int(result.spans.char_end[row, 0])
        yield Mark(begin, end, "predicted" if is_near else "wrong", "predicted")
    if analysis.against is not None:
        others = analysis.against.other.predictions[row]
        if others and others != prediction and context.count(others) == 1:
            begin = context.index(others)
            yield Mark(begin, begin + len(others), "other", "other model")
