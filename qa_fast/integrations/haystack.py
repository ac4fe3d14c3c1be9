"""A reader for Haystack pipelines: extracts answers to a query from documents, in one ranking.

The windows of all documents of a call are predicted together, grouped by length, so that a short document is not
padded to the longest. `answer.ranking` makes the ranking.
"""

# Without `from __future__ import annotations`: older versions of Haystack read the types of sockets from the
# annotations themselves and would see strings.

import re
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.foreign import check_arguments
from qa_fast.answer.options import DEFAULT_OVERLAP, AnswerOptions
from qa_fast.answer.ranking import Answer, Ranked, ranking
from qa_fast.errors import MissingExtraError, UserError, shown

try:
    from haystack import Document, ExtractedAnswer, component, default_from_dict, default_to_dict
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "haystack":
        raise
    raise MissingExtraError("qa_fast.integrations.haystack", "haystack", "haystack") from None

# The names of options in `AnswerOptions` -> their names in Haystack.
_NAMES = {
    "max_seq_len": "max_seq_length",
    "doc_stride": "stride",
    "max_answer_len": "max_answer_length",
    "max_question_len": "max_query_length",
}


@dataclass(frozen=True)
class _Options:
    """The options of both `ExtractiveReader` and its `run`; see the class."""

    top_k: int
    score_threshold: float | None
    max_seq_length: int | None
    stride: int | None
    answers_per_document: int | None
    no_answer: bool | None
    overlap_threshold: float | None
    max_answer_length: int | None
    max_query_length: int | None
    null_threshold: float | None

    def __post_init__(self) -> None:
        for name in ("top_k", "answers_per_document"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Integral):
                raise UserError(f"{name} must be a whole number; received {name}={shown(value)}: choose one, such as 1")
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; received {name}={value}: choose a higher one")
        for name in ("score_threshold", "overlap_threshold"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float | np.floating) and 0 <= value <= 1):
                raise UserError(f"{name} must be from 0 to 1; received {name}={shown(value)}: choose a share, or None")
        if self.no_answer is not None and not isinstance(self.no_answer, bool):
            raise UserError(f"no_answer must be True, False or None; received {shown(self.no_answer)}: choose one")

    def for_answerer(self, own: AnswerOptions) -> tuple[AnswerOptions, bool]:
        """Return options for all candidates of a document and no answer, and whether no answer is wanted.

        No answer is always among the candidates, because their scores are measured against it.

        Args:
            own: The model's own options.

        Raises:
            UserError: A threshold is given, and no answer is not wanted.
        """
        asked = AnswerOptions(
            top_k=None,
            doc_stride=self.stride,
            max_answer_len=self.max_answer_length,
            max_seq_len=self.max_seq_length,
            max_question_len=self.max_query_length,
            handle_impossible_answer=self.no_answer,
            null_threshold=self.null_threshold,
        ).over(own)
        wanted = asked.handle_impossible_answer is not False
        threshold = asked.null_threshold if wanted else 0.0
        # 1.0 keeps as many candidates as are needed to leave out those that overlap afterwards.
        overlap = None if self.overlap_threshold is None else 1.0
        return replace(
            asked, handle_impossible_answer=True, null_threshold=threshold, overlap_threshold=overlap
        ), wanted


@component
class ExtractiveReader:
    """Finds answers to a query in documents.

    It replaces the reader that was removed from Haystack's core: inputs and outputs are the same, and arguments of the
    same name have the same meaning. The old arguments `device`, `token`, `max_batch_size` and `model_kwargs` are
    refused, because the model is loaded and batched as everywhere in qa-fast. So are `calibration_factor` (see `run` on
    scores) and `answers_per_seq` (`answers_per_document` counts answers, not candidates of a window).

    Args:
        model: A model folder, a Hub id or "minilm".
        top_k: Number of answers to return over all documents. No answer is returned in addition.
        score_threshold: Leave out answers, including no answer, that are less probable; None keeps all.
        max_seq_length: Longest window in tokens, including the query and special tokens. For this and the other options
            of answering, None means the model's own, or else the default of `AnswerOptions`.
        stride: Number of tokens that neighbouring windows share.
        answers_per_document: Most answers from one document; None sets no limit. A document has at most 20 candidates.
        no_answer: Add an answer without text, whose score is the probability that no document contains an answer. None
            means the model's own, or else True.
        overlap_threshold: If two answers in a document share more than this fraction of the shorter one's characters,
            the less probable one is left out; None keeps both.
        max_answer_length: Longest answer in tokens.
        max_query_length: Longest query in tokens. A longer query is cut.
        null_threshold: No answer comes first if in every document its score exceeds that of the best span by more than
            this, in logits; see `AnswerOptions`.
        precision: See `infer.open_engine`.
        engine: "auto" (the one expected to be fastest here), "keras", "openvino" or "onnx".
        others: Arguments of the old reader; only None is accepted, and what no answer depends on.

    Raises:
        UserError: An option is out of bounds; the message names it.

    Examples:
        >>> reader = ExtractiveReader("model/", top_k=3)
        >>> pipeline = Pipeline()
        >>> pipeline.add_component("retriever", InMemoryBM25Retriever(store))
        >>> pipeline.add_component("reader", reader)
        >>> pipeline.connect("retriever.documents", "reader.documents")
        >>> query = "When was the harbour dug?"
        >>> pipeline.run({"retriever": {"query": query}, "reader": {"query": query}})["reader"]["answers"]
    """

    def __init__(
        self,
        model: str | Path,
        top_k: int = 20,
        score_threshold: float | None = None,
        max_seq_length: int | None = None,
        stride: int | None = None,
        answers_per_document: int | None = None,
        no_answer: bool | None = None,
        overlap_threshold: float | None = DEFAULT_OVERLAP,
        max_answer_length: int | None = None,
        max_query_length: int | None = None,
        precision: str = "auto",
        engine: str = "auto",
        null_threshold: float | None = None,
        **others: Any,
    ) -> None:
        arguments = locals()
        check_arguments(others, ("model", "precision", "engine", *(field.name for field in fields(_Options))))
        self.options = _Options(**{field.name: arguments[field.name] for field in fields(_Options)})
        self.model = str(model)
        self._loading: dict[str, Any] = {"precision": precision, "engine": engine}
        self._answerer: Answerer | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the reader's arguments as Haystack saves them. The model is saved by its name only."""
        return default_to_dict(self, model=self.model, **asdict(self.options), **self._loading)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ExtractiveReader":
        """Create a reader from saved arguments."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model, once. A pipeline calls this before its first run, and so does `run`.

        Raises:
            UserError: The model or its tokenizer cannot be used.
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
        null_threshold: float | None = None,
    ) -> dict[str, list[ExtractedAnswer]]:
        """Find answers.

        The answers of all documents are in one ranking, see `answer.ranking`: scores add up to 1 over the best spans of
        all documents and no answer. Those of a calibrated model do not, see `answer.calibration`.

        Args:
            query: The question.
            documents: The documents. A document without text is left out, and one that occurs twice counts once.
            top_k: See the class, as for the following arguments; None means the reader's own value.
            score_threshold: See the class.
            max_seq_length: See the class.
            stride: See the class.
            answers_per_document: See the class.
            no_answer: See the class.
            overlap_threshold: See the class.
            max_answer_length: See the class.
            max_query_length: See the class.
            null_threshold: See the class.

        Returns:
            "answers": `ExtractedAnswer`s, best first; empty if no document has text. `document_offset` counts
            characters of the document's content, and `data` is the text there. If the document's meta has an int
            `page_number`, the answer's meta has `answer_page_number`, which also counts the form feeds before the
            answer. No answer has neither data nor document.

        Raises:
            UserError: The model cannot be used, or the query, a document or an option is not valid.
        """
        arguments = locals()
        values = {field.name: arguments[field.name] for field in fields(_Options)}
        # Without no answer, the reader's own threshold has no use.
        reader = replace(self.options, null_threshold=None) if no_answer is False else self.options
        options = replace(reader, **{name: value for name, value in values.items() if value is not None})
        if not (isinstance(query, str) and query.strip()):
            raise UserError(f"query must be a text that is not empty; received {shown(query)}: pass a question")
        if documents is None or isinstance(documents, Document):
            raise UserError(
                f"documents must be a list of Documents of Haystack; received {type(documents).__name__}: pass a list"
            )
        distinct: dict[tuple[str, str], Document] = {}
        for number, document in enumerate(documents, 1):
            if not isinstance(document, Document):
                raise UserError(
                    f"documents must be Documents of Haystack; received {type(document).__name__} as document {number}"
                )
            if document.content is not None:
                distinct.setdefault((document.id, document.content), document)
        if not distinct:
            return {"answers": []}
        found, with_no_answer = self._candidates(query, list(distinct.values()), options)
        assert self._answerer is not None
        limits = options.top_k, options.answers_per_document, options.overlap_threshold
        ranked, nowhere = ranking(found, *limits, calibration=self._answerer.options.calibration)
        kept = list(distinct.values())
        answers = [_extracted(query, kept[one.document], one) for one in ranked]
        if with_no_answer:
            answers.append(ExtractedAnswer(query=query, score=nowhere))
        answers.sort(key=lambda answer: -answer.score)
        least = options.score_threshold or 0.0
        return {"answers": [answer for answer in answers if answer.score >= least]}

    def _candidates(self, query: str, documents: list[Document], options: _Options) -> tuple[list[list[Answer]], bool]:
        """Return the best spans of every document and its no answer, and whether no answer is wanted.

        Raises:
            UserError: A document or an option is not valid.
        """
        self.warm_up()
        assert self._answerer is not None
        try:
            pairs = [(query, document.content) for document in documents]
            asked, with_no_answer = options.for_answerer(self._answerer.options)
            results = self._answerer.answer_pairs(pairs, asked, calibrated=False)
        except UserError as error:
            raise UserError(_renamed(str(error))) from None
        found = []
        for document, answers in zip(documents, results, strict=True):
            if isinstance(answers, str):
                raise UserError(f"{_renamed(answers)} (document {document.id})")
            found.append(answers)
        return found, with_no_answer


def _extracted(query: str, document: Document, ranked: Ranked) -> ExtractedAnswer:
    """Return an answer in a document as an answer of Haystack."""
    answer = ranked.answer
    assert document.content is not None
    page = document.meta.get("page_number")
    meta = {}
    if isinstance(page, int):
        meta["answer_page_number"] = page + document.content.count("\f", 0, answer["start"])
    return ExtractedAnswer(
        query=query,
        score=ranked.score,
        data=answer["answer"],
        document=document,
        document_offset=ExtractedAnswer.Span(answer["start"], answer["end"]),
        meta=meta,
    )


def _renamed(message: str) -> str:
    """Return an answerer's message with Haystack's names of options."""
    return re.sub(rf"\b({'|'.join(_NAMES)})\b", lambda match: _NAMES[match[0]], message)
