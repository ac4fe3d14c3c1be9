"""The form of an answer, and one ranking of the answers to a question in several documents.

The model gives a score to every span of a document and to no answer in that document. Spans of different documents are
compared by how far each is above no answer in its own document: a span's odds are exp(its score - its document's score
of no answer + `null_threshold`). Its probability is its odds divided by the sum of 1 and the odds of the best spans (20
for each document) of all documents. The probability of no answer is 1 divided by that sum. For one document these are
the probabilities of `Answerer`. Scores therefore add up to 1, and no answer is on the same scale. The price is that the
score of an answer depends on the other documents. An answer that occurs in several documents shares its probability
among them.

If BM25 chose passages of many documents, it also says how likely each is relevant: the odds of an answer are multiplied
by exp(score of its passage - score of the best passage). Without this, exact matches fell from 46% to 40% between 1 and
50 passages read (200 questions of SQuAD in 2,067 paragraphs); with it they rose to 52.5%.

A calibrated model's scores are its calibration of these probabilities, and do not add up to 1. The calibration was
fitted with one document for each question.

Two other rankings were measured, and both are worse. A document without the answer still gives almost all of its own
probability to some span, so probabilities within documents (`Answer.score`) cannot be compared. With 200 questions of
SQuAD, ten paragraphs each, a small model trained on v1.1 put an exact answer first in 14 of them by these
probabilities, in 62 by sums of logits, and in 66 by the ranking used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import NamedTuple, TypedDict

from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import DEFAULT_OVERLAP
from qa_fast.answer.passages import Passage
from qa_fast.errors import UserError
from qa_fast.infer.decode import DEFAULT_N_BEST

# The smallest float64 above 0, which replaces a probability of 0 before its logarithm is taken.
_LEAST = 5e-324


class Answer(TypedDict):
    """One answer: its probability, its characters [start, end) in the context as given, and its text."""

    score: float
    start: int
    end: int
    answer: str


class Evidence(Answer):
    """An answer with its sentence.

    Attributes:
        sentence: The sentence or sentences around the answer, as they stand in the document, with at most 200
            characters and whole words on either side; "" for no answer.
        sentence_start: First character of the sentence in the document.
        sentence_end: One past its last character.
    """

    sentence: str
    sentence_start: int
    sentence_end: int


class RankedAnswer(Evidence):
    """An answer in one of several documents.

    Attributes:
        document: Index of its document; None for no answer.
    """

    document: int | None


class Ranked(NamedTuple):
    """An answer in the ranking of all documents.

    Attributes:
        document: Index of its document.
        answer: The answer, with its score within the document.
        score: Its probability among the best spans of all documents and no answer, or the calibration of it.
    """

    document: int
    answer: Answer
    score: float


def ranking(
    answers: Sequence[Sequence[Answer]],
    top_k: int | None,
    answers_per_document: int | None = None,
    overlap_threshold: float | None = DEFAULT_OVERLAP,
    calibration: Calibration | None = None,
    *,
    passages: Sequence[Passage] | None = None,
    margin: float | None = None,
    above_no_answer: bool = False,
) -> tuple[list[Ranked], float]:
    """Rank the answers of D documents, or of D passages that were read as if each were a document.

    Args:
        answers: All candidates of each document [D], best first, and its no answer, with
            scores before calibration.
        top_k: Most answers; None sets no limit.
        answers_per_document: Most answers from one document; None sets no limit.
        overlap_threshold: See `options.DEFAULT_OVERLAP`; None keeps both answers.
        calibration: Turns probabilities into scores; None leaves them as they are.
        passages: The passages [D] that BM25 chose; characters of their answers count over their documents.
        margin: Leave out answers whose log odds are further below those of the best one; None keeps all.
        above_no_answer: Leave out answers that are less probable than no answer in their document.

    Returns:
        The answers, best first and without no answer, and the score of no answer.

    Raises:
        UserError: A number is out of bounds.

    Examples:
        >>> ranked, no_answer = ranking([[{"score": 0.75, "start": 4, "end": 8, "answer": "Osby"},
        ...                               {"score": 0.25, "start": 0, "end": 0, "answer": ""}]], top_k=1)
    """
    for name, value in (("top_k", top_k), ("answers_per_document", answers_per_document)):
        if value is not None and not (isinstance(value, Integral) and value >= 1):
            raise UserError(
                f"{name} must be a whole number of at least 1; received {name}={value!r}: choose such a number"
            )
    if overlap_threshold is not None and not (isinstance(overlap_threshold, Real) and 0 <= overlap_threshold <= 1):
        raise UserError(
            f"overlap_threshold must be from 0 to 1; received overlap_threshold={overlap_threshold}: choose a share, "
            "or None"
        )
    candidates: list[tuple[float, int, Answer]] = []
    best: list[float] = []
    if passages is None:
        passages = [Passage(document, 0, 0) for document in range(len(answers))]
    best_fit = max((passage.fit for passage in passages), default=0.0)
    for (document, _, _, fit), found in zip(passages, answers, strict=True):
        null = math.log(max(next(answer["score"] for answer in found if not answer["answer"]), _LEAST))
        spans = [answer for answer in found if answer["answer"]]
        odds = [math.log(max(answer["score"], _LEAST)) + fit - best_fit - null for answer in spans]
        candidates += [(odd, document, answer) for odd, answer in zip(odds, spans, strict=True)]
        best += odds[:DEFAULT_N_BEST]
    candidates.sort(key=lambda candidate: -candidate[0])
    highest = max(0.0, candidates[0][0]) if candidates else 0.0
    weights = [math.exp(log_odds - highest) for log_odds, _, _ in candidates]
    total = math.exp(-highest) + math.fsum(math.exp(log_odds - highest) for log_odds in best)
    least = -math.inf if margin is None or not candidates else candidates[0][0] - margin
    least = max(least, 0.0) if above_no_answer else least
    no_answer = math.exp(-highest) / total

    def score_of(probability: float) -> float:
        return probability if calibration is None else float(calibration(probability, no_answer))

    chosen: list[Ranked] = []
    of_document: dict[int, list[Answer]] = {}
    for weight, (log_odds, document, answer) in zip(weights, candidates, strict=True):
        if (top_k is not None and len(chosen) == top_k) or log_odds < least:
            break
        others = of_document.setdefault(document, [])
        if answers_per_document is not None and len(others) >= answers_per_document:
            continue
        if overlap_threshold is not None and overlaps(answer, others, overlap_threshold):
            continue
        others.append(answer)
        chosen.append(Ranked(document, answer, score_of(weight / total)))
    return chosen, score_of(no_answer)


def usable(
    answers: Sequence[Answer], top_k: int | None, overlap_threshold: float | None, margin: float | None
) -> list[Answer]:
    """Return those answers in a document that can change its part of a ranking, so that few are held of each.

    Args:
        answers: All candidates of the document, best first, and its no answer.
        top_k: See `ranking`; so are the others.
        overlap_threshold: Likewise.
        margin: Likewise.
    """
    spans = [answer for answer in answers if answer["answer"]]
    kept: list[Answer] = []
    for answer in spans:
        if len(kept) == top_k or (margin is not None and answer["score"] < 0.9 * math.exp(-margin) * spans[0]["score"]):
            break
        if overlap_threshold is None or not overlaps(answer, kept, overlap_threshold):
            kept.append(answer)
    summed = {id(answer) for answer in (*spans[:DEFAULT_N_BEST], *kept)}
    return [answer for answer in answers if not answer["answer"] or id(answer) in summed]


def overlaps(answer: Answer, others: Sequence[Answer], threshold: float) -> bool:
    """Return whether an answer and any of the others share more than this fraction of the shorter one's characters."""
    for other in others:
        common = min(answer["end"], other["end"]) - max(answer["start"], other["start"])
        if common > threshold * min(answer["end"] - answer["start"], other["end"] - other["start"]):
            return True
    return False
