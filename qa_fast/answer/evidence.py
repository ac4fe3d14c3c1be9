"""All the passages of a document that support an answer, each with its sentence.

A candidate supports an answer if it is at least `SHARE` times as probable as the best one and, where the options allow
"no answer", no less probable than that, so that `null_threshold` decides, too. On 400 questions of SQuAD, whose answers
are in one place, a small model trained with unanswerable questions gave 4.3 passages by the second rule alone, of which
28 % touched the answer, and 1.7 by both, of which 56 % did. A model that was trained without such questions has only
the first rule, because its score of no answer means nothing: 1.7 passages and 60 % (bench/evidence.py).

The span from the start of one passage to the end of another is often more probable than both, since starts and ends are
scored apart. Such a bridge is left out if its ends support an answer, too, which raised the exact F1 of the passages of
both models, from 39.8 to 40.7 and from 34.8 to 36.1.

Candidates that overlap with a better one are left out (`overlap_threshold`), and those that touch are joined: they
share characters, or nothing but blanks within a line is between them. A joined passage has the score of its best part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from qa_fast.answer.boundaries import sentence_around
from qa_fast.answer.options import DEFAULT_OVERLAP
from qa_fast.answer.ranking import Answer, Evidence, overlaps

SHARE = 0.1
# The same in logits, so that a calibration of scores changes no evidence.
MARGIN = -math.log(SHARE)
# Two passages with at least so many words between them are no single one.
BRIDGE_WORDS = 4
_BLANKS = re.compile(r"[^\S\r\n]*")


def without_overlaps(answers: Iterable[Answer], overlap_threshold: float | None) -> list[Answer]:
    """Return the answers in a document, best first, without those that overlap with a better one.

    Args:
        answers: The answers, best first.
        overlap_threshold: See `options.DEFAULT_OVERLAP`; None keeps all.
    """
    if overlap_threshold is None or overlap_threshold >= 1:
        return list(answers)
    kept: list[Answer] = []
    for answer in answers:
        if not overlaps(answer, kept, overlap_threshold):
            kept.append(answer)
    return kept


def evidence_of(
    text: str, answers: Sequence[Answer], overlap_threshold: float | None = DEFAULT_OVERLAP
) -> list[Evidence]:
    """Make passages with their sentences of the candidates in a document that support an answer.

    Args:
        text: The document.
        answers: The candidates, best first.
        overlap_threshold: See `options.DEFAULT_OVERLAP`; None joins all that overlap.

    Returns:
        The passages, best first; no two of them share a character.

    Examples:
        >>> evidence_of("Paid for by Ane Skou.", [{"score": 0.4, "start": 12, "end": 15, "answer": "Ane"},
        ...                                       {"score": 0.3, "start": 16, "end": 20, "answer": "Skou"}])
        [{'score': 0.4, 'start': 12, 'end': 20, 'answer': 'Ane Skou', 'sentence': 'Paid for by Ane Skou.', ...}]
    """
    joined: list[Answer] = []
    apart = without_overlaps(_without_bridges(text, answers), overlap_threshold)
    for answer in sorted(apart, key=lambda answer: answer["start"]):
        last = joined[-1] if joined else None
        if last is None or not _BLANKS.fullmatch(text, last["end"], max(last["end"], answer["start"])):
            joined.append(answer)
            continue
        start, end = last["start"], max(last["end"], answer["end"])
        score = max(last["score"], answer["score"])
        joined[-1] = {"score": score, "start": start, "end": end, "answer": text[start:end]}
    return [with_sentence(text, answer) for answer in sorted(joined, key=lambda answer: -answer["score"])]


def _without_bridges(text: str, answers: Sequence[Answer]) -> list[Answer]:
    """Leave out candidates that begin with one of the others and end with another, and have a clause between them."""
    first_end: dict[int, int] = {}
    last_start: dict[int, int] = {}
    for answer in answers:
        start, end = answer["start"], answer["end"]
        first_end[start] = min(end, first_end.get(start, end))
        last_start[end] = max(start, last_start.get(end, start))
    return [
        answer
        for answer in answers
        if len(text[first_end[answer["start"]] : last_start[answer["end"]]].split()) < BRIDGE_WORDS
    ]


def with_sentence(text: str, answer: Answer) -> Evidence:
    """Return an answer with the sentence or sentences around it; those of no answer are empty.

    Args:
        text: The document.
        answer: An answer in it, or no answer.
    """
    if not answer["answer"]:
        return {**answer, "sentence": "", "sentence_start": 0, "sentence_end": 0}
    excerpt = sentence_around(text, answer["start"], answer["end"])
    sentence = text[excerpt.start : excerpt.end]
    return {**answer, "sentence": sentence, "sentence_start": excerpt.start, "sentence_end": excerpt.end}
