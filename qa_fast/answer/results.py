"""Turns the best spans of questions into answers: texts with offsets, scores and no answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qa_fast.answer.calibration import scores_of
from qa_fast.answer.evidence import MARGIN, evidence_of, with_sentence, without_overlaps
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.questions import Prepared
from qa_fast.answer.ranking import Answer
from qa_fast.infer.decode import BestSpans

Result = list[Answer] | str  # the answers to a question, best first, or the reason why it was rejected


def results_of(prepared: Prepared, spans: BestSpans | None) -> list[Result]:
    """Return for each pair its answers, best first and at least one, or the reason why it was rejected.

    Args:
        prepared: The pairs.
        spans: The best spans of the pairs that have windows; None if no pair has any.
    """
    null = with_sentence("", no_answer_of(1.0)) if prepared.options.evidence else no_answer_of(1.0)
    results: list[Result] = [[null] if rejection is None else rejection for rejection in prepared.rejections]
    if spans is not None:
        leads = [len(context) - len(context.lstrip()) for context in prepared.contexts]
        found = answers_of(spans, prepared.contexts, leads, prepared.options)
        for row, answers in zip(prepared.rows, found, strict=True):
            results[row] = answers
    return results


def no_answer_of(score: float) -> Answer:
    """Return no answer with a score, as an answer."""
    return {"score": score, "start": 0, "end": 0, "answer": ""}


def answers_of(
    spans: BestSpans, contexts: Sequence[str], leads: Sequence[int], options: AnswerOptions
) -> Iterator[list[Answer]]:
    """Yield the answers of each example, best first and at least one.

    Args:
        spans: Candidates of E examples.
        contexts: The document of each example [E].
        leads: By how much the characters of its candidates are to be moved [E].
        options: Which answers are wanted.
    """
    scores, null_scores = scores_of(spans, options.null_threshold, options.calibration)
    null_ranks = spans.null_rank(options.null_threshold or 0.0).tolist()
    allowed = bool(options.handle_impossible_answer)
    for row, (context, lead) in enumerate(zip(contexts, leads, strict=True)):
        count, null = int(spans.count[row]), no_answer_of(float(null_scores[row]))
        if options.evidence:
            supporting = int((spans.score[row, :count] >= spans.score[row, 0] - MARGIN).sum())
            count = min(supporting, null_ranks[row]) if allowed else supporting
        columns = (scores[row], spans.char_start[row] + lead, spans.char_end[row] + lead)
        answers: list[Answer] = [
            {"score": score, "start": start, "end": end, "answer": context[start:end]}
            for score, start, end in zip(*(column[:count].tolist() for column in columns), strict=True)
        ]
        if not options.evidence and (allowed or not count):
            answers.insert(null_ranks[row], null)
        if options.evidence:
            answers = [*evidence_of(context, answers, options.overlap_threshold)] or [with_sentence("", null)]
        else:
            answers = without_overlaps(answers, options.overlap_threshold)
        yield answers[: options.most]
