"""A reader for Haystack pipelines: a query and documents to extracted answers in one ranking.

The windows of all documents of a call are predicted together, grouped by length, so that a short document is not padded
to the longest. Scores are one softmax over the best spans of all documents and no answer, see `ExtractiveReader.run`.
The price is that an answer's score depends on what else there was to read; in exchange scores add up to 1, and no
answer stands on their scale.

What lost: ranking by each document's own probabilities (`Answer.score`), for a document without the answer still gives
nearly all of its own to some span. For 200 questions of SQuAD, each with ten paragraphs of its article, a small model
trained on v1.1 put an exact answer first in 14 so, in 62 by the sums of its logits, in 66 as it is done here.
"""

# Without `from __future__ import annotations`: Haystack read the types of sockets off the annotations themselves for
# long, and would see texts.

import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from qa_fast.answer.answerer import Answer, Answerer, AnswerOptions
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.decode import DEFAULT_MAX_ANSWER_LENGTH

try:
    from haystack import Document, ExtractedAnswer, component, default_from_dict, default_to_dict
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "haystack":
        raise
    raise MissingExtraError("qa_fast.integrations.haystack", "haystack", "haystack") from None

# The answerer's names of options, and the reader's.
_NAMES = {
    "max_seq_len": "max_seq_length",
    "doc_stride": "stride",
    "max_answer_len": "max_answer_length",
    "max_question_len": "max_query_length",
}
# Stands in for a probability that is too small for a float64, whose logarithm is taken.
_LEAST = 5e-324


@dataclass(frozen=True)
class _Options:
    """What both `ExtractiveReader` and its `run` take; see the class."""

    top_k: int
    score_threshold: float | None
    max_seq_length: int | None
    stride: int | None
    answers_per_document: int | None
    no_answer: bool
    overlap_threshold: float | None
    max_answer_length: int
    max_query_length: int

    def __post_init__(self) -> None:
        for name in ("top_k", "answers_per_document"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; received {name}={value}: give a higher one")
        for name in ("score_threshold", "overlap_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} must be from 0 to 1; received {name}={value}: give a share, or None")

    def for_answerer(self) -> AnswerOptions:
        """All candidates of a document and no answer, which is what the scores of documents are measured against."""
        return AnswerOptions(
            top_k=None,
            doc_stride=self.stride,
            max_answer_len=self.max_answer_length,
            max_seq_len=self.max_seq_length,
            max_question_len=self.max_query_length,
            handle_impossible_answer=True,
        )


class _Candidate(NamedTuple):
    """A span of a document, and the logarithm of its odds against no answer in that document."""

    document: Document
    answer: Answer
    log_odds: float


@component
class ExtractiveReader:
    """Finds answers to a query in documents.

    It takes the place of the reader that left Haystack's core: the same inputs and outputs, and arguments of the same
    names mean the same. Not here are `device`, `token`, `max_batch_size` and `model_kwargs` (the model is loaded and
    batched as everywhere in qa-fast), `calibration_factor` (see `run` on scores), and `answers_per_seq`
    (`answers_per_document` counts answers, not candidates of a window).

    Args:
        model: A model folder, a Hub id or "minilm".
        top_k: Answers wanted, over all documents; no answer comes on top of them.
        score_threshold: Leave out answers that are less probable, no answer included; None leaves out none.
        max_seq_length: Longest window in tokens, query and special tokens included; None takes 384, or what the model
            can take.
        stride: Overlap of two windows in tokens; None takes 128, or less where windows are short.
        answers_per_document: Answers from one document, at most; None sets no bound. A document never has more than
            20 candidates.
        no_answer: Add an answer without text, whose score is the probability that no document holds one.
        overlap_threshold: Of two answers in a document that have more than this share of the shorter one's characters
            in common, the less probable is left out; None keeps both.
        max_answer_length: Longest answer in tokens.
        max_query_length: A query's tokens beyond so many are cut off.
        precision: See `infer.open_engine`.
        engine: "auto" (measured on this device), "keras", "openvino" or "onnx".

    Raises:
        UserError: A value that cannot be; the message names it.
    """

    def __init__(
        self,
        model: str | Path,
        top_k: int = 20,
        score_threshold: float | None = None,
        max_seq_length: int | None = None,
        stride: int | None = None,
        answers_per_document: int | None = None,
        no_answer: bool = True,
        overlap_threshold: float | None = 0.01,
        max_answer_length: int = DEFAULT_MAX_ANSWER_LENGTH,
        max_query_length: int = AnswerOptions.max_question_len,
        precision: str = "auto",
        engine: str = "auto",
    ) -> None:
        self.model = str(model)
        self.options = _Options(
            top_k,
            score_threshold,
            max_seq_length,
            stride,
            answers_per_document,
            no_answer,
            overlap_threshold,
            max_answer_length,
            max_query_length,
        )
        self._loading: dict[str, Any] = {"precision": precision, "engine": engine}  # what the answerer is loaded with
        self._answerer: Answerer | None = None

    def to_dict(self) -> dict[str, Any]:
        """The reader's arguments as Haystack saves them; the model itself is named only."""
        return default_to_dict(self, model=self.model, **asdict(self.options), **self._loading)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ExtractiveReader":
        """A reader of saved arguments."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model, once; a pipeline calls this before its first run, `run` by itself too.

        Raises:
            UserError: No usable model or tokenizer there.
        """
        if self._answerer is None:
            self._answerer = Answerer.from_pretrained(self.model, **self._loading)

    @component.output_types(answers=list[ExtractedAnswer])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        max_seq_length: int | None = None,
        stride: int | None = None,
        answers_per_document: int | None = None,
        no_answer: bool | None = None,
        overlap_threshold: float | None = None,
        max_answer_length: int | None = None,
        max_query_length: int | None = None,
    ) -> dict[str, list[ExtractedAnswer]]:
        """Find answers.

        How the one ranking is made: the model gives every span of a document a score, and so it does no answer in that
        document. Of spans of different documents, what can be compared is how far each lies above its own document's
        no answer. So a span's odds are exp(its score - its document's no answer), and its probability is its odds over
        the sum of 1 and the odds of the best spans (20 a document) of all documents; no answer's is 1 over that sum.
        With one document these are the probabilities of `Answerer`. An answer that stands in several documents shares
        its probability out among them.

        Args:
            query: The question.
            documents: Where to look. One without text is left out, one that comes twice counts once.
            top_k: Instead of the reader's own, as for all that follow; None takes the reader's.
            score_threshold: See the class.
            max_seq_length: Tokens.
            stride: Tokens.
            answers_per_document: See the class.
            no_answer: See the class.
            overlap_threshold: See the class.
            max_answer_length: Tokens.
            max_query_length: Tokens.

        Returns:
            "answers": `ExtractedAnswer`s, best first; none where there is no document with text. `document_offset` are
            characters of the document's content, `data` is what stands there. Where the document's meta has an int
            `page_number`, the answer's has `answer_page_number`, which counts the form feeds before it. No answer has
            neither data nor document.

        Raises:
            UserError: No usable model; a query, a document or options that cannot be answered with.
        """
        given: dict[str, Any] = {
            "top_k": top_k,
            "score_threshold": score_threshold,
            "max_seq_length": max_seq_length,
            "stride": stride,
            "answers_per_document": answers_per_document,
            "no_answer": no_answer,
            "overlap_threshold": overlap_threshold,
            "max_answer_length": max_answer_length,
            "max_query_length": max_query_length,
        }
        options = replace(self.options, **{name: value for name, value in given.items() if value is not None})
        if not query.strip():
            raise UserError(f"query must not be empty; received {query!r}: ask something")
        distinct: dict[tuple[str, str], Document] = {}
        for document in documents:
            if document.content is not None:
                distinct.setdefault((document.id, document.content), document)
        if not distinct:
            return {"answers": []}
        candidates = self._candidates(query, list(distinct.values()), options)
        highest = max([0.0, *(candidate.log_odds for candidate in candidates)])
        weights = [math.exp(candidate.log_odds - highest) for candidate in candidates]
        total = math.exp(-highest) + math.fsum(weights)
        ranking = sorted(zip(candidates, weights, strict=True), key=lambda pair: -pair[0].log_odds)
        answers = [_extracted(query, kept, weight / total) for kept, weight in _chosen(ranking, options)]
        if options.no_answer:
            answers.append(ExtractedAnswer(query=query, score=math.exp(-highest) / total))
        answers.sort(key=lambda answer: -answer.score)
        least = options.score_threshold or 0.0
        return {"answers": [answer for answer in answers if answer.score >= least]}

    def _candidates(self, query: str, documents: list[Document], options: _Options) -> list[_Candidate]:
        """The best spans of every document.

        Raises:
            UserError: A document or the options cannot be answered with.
        """
        self.warm_up()
        assert self._answerer is not None
        try:
            pairs = [(query, document.content) for document in documents]
            results = self._answerer.answer_pairs(pairs, options.for_answerer())
        except UserError as error:
            raise UserError(_renamed(str(error))) from None
        candidates = []
        for document, found in zip(documents, results, strict=True):
            if isinstance(found, str):
                raise UserError(f"{_renamed(found)} (document {document.id})")
            null = next(answer["score"] for answer in found if not answer["answer"])
            candidates += [
                _Candidate(document, answer, math.log(max(answer["score"], _LEAST)) - math.log(max(null, _LEAST)))
                for answer in found
                if answer["answer"]
            ]
        return candidates


def _chosen(ranking: list[tuple[_Candidate, float]], options: _Options) -> list[tuple[_Candidate, float]]:
    """The first `top_k` of a ranking that neither overlap too much nor are too many of one document."""
    chosen: list[tuple[_Candidate, float]] = []
    for candidate, weight in ranking:
        beside = [other.answer for other, _ in chosen if other.document is candidate.document]
        if options.answers_per_document is not None and len(beside) >= options.answers_per_document:
            continue
        allowed = options.overlap_threshold
        if allowed is not None and any(_overlap(candidate.answer, other) > allowed for other in beside):
            continue
        chosen.append((candidate, weight))
        if len(chosen) == options.top_k:
            break
    return chosen


def _overlap(one: Answer, other: Answer) -> float:
    """Characters that two answers have in common, as a share of the shorter one."""
    common = min(one["end"], other["end"]) - max(one["start"], other["start"])
    return max(0, common) / min(one["end"] - one["start"], other["end"] - other["start"])


def _extracted(query: str, candidate: _Candidate, score: float) -> ExtractedAnswer:
    """A candidate as Haystack has answers."""
    document, answer = candidate.document, candidate.answer
    assert document.content is not None
    page = document.meta.get("page_number")
    meta = {}
    if isinstance(page, int):
        meta["answer_page_number"] = page + document.content.count("\f", 0, answer["start"])
    return ExtractedAnswer(
        query=query,
        score=score,
        data=answer["answer"],
        document=document,
        document_offset=ExtractedAnswer.Span(answer["start"], answer["end"]),
        meta=meta,
    )


def _renamed(message: str) -> str:
    """An answerer's message with the reader's names of options."""
    return re.sub(rf"\b({'|'.join(_NAMES)})\b", lambda found: _NAMES[found[0]], message)
