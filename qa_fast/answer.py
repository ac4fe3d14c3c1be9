"""Answers questions about documents, with the removed transformers pipeline's arguments and result keys.

Each distinct text is encoded once, a long document is cut into overlapping windows, and the windows of all questions
are predicted together. Start and end are scored jointly over all windows; `score` is the probability among the best
spans and no answer together (see `decode`), where the old pipeline multiplied two probabilities of one window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import orjson
import pyarrow as pa

from qa_fast.boundaries import answer_bounds
from qa_fast.buffers import offsets_of
from qa_fast.decode import DEFAULT_N_BEST, BestSpans, LogitBatch, SpanDecoder, windows_of
from qa_fast.encode import EncodedTexts, TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.featurize import cut_features
from qa_fast.model.folder import folder_config
from qa_fast.schema import FeatureConfig, Features, Int32s
from qa_fast.sources import resolve_model

Predict = Callable[[Sequence[Features]], Iterable[LogitBatch]]
DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128


class Answer(TypedDict):
    """One answer: its probability, its characters [start, end) in the context as given, and its text."""

    score: float
    start: int
    end: int
    answer: str


@dataclass(frozen=True)
class AnswerOptions:
    """The pipeline's options, with its defaults.

    Attributes:
        top_k: Answers wanted for each question; fewer where there are fewer distinct spans. None is every candidate of
            a document (`decode.DEFAULT_N_BEST` at most) and, where it competes, no answer.
        doc_stride: Overlap of two windows in tokens; None takes 128, or less where windows are short.
        max_answer_len: Longest answer in tokens.
        max_seq_len: Longest window in tokens, question and special tokens included; None takes 384, or what the model
            can take.
        max_question_len: A question's tokens beyond so many are cut off.
        handle_impossible_answer: Let no answer, the empty text at [0, 0), compete.
        align_to_words: Widen answers to whole words; scripts without spaces between words are left alone.
    """

    top_k: int | None = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def resolve(self, max_positions: int, special_tokens: int) -> AnswerOptions:
        """The options with every number set, for a model that takes `max_positions` tokens.

        Raises:
            UserError: A number is too small, or max_seq_len is more than the model can take.
        """
        for name in ("top_k", "max_answer_len", "max_question_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1; received {name}={value}: give a higher one")
        length = min(DEFAULT_MAX_SEQ_LEN, max_positions) if self.max_seq_len is None else self.max_seq_len
        if not special_tokens + 2 <= length <= max_positions:
            raise UserError(
                f"max_seq_len must be from {special_tokens + 2} to {max_positions} for this model; received "
                f"max_seq_len={length}: give one between"
            )
        stride = self.doc_stride
        if stride is None:
            # A full question must leave room for windows that move on.
            room = length - special_tokens - self.max_question_len
            stride = max(0, min(DEFAULT_DOC_STRIDE, length // 2, room // 2))
        elif not 0 <= stride < length:
            raise UserError(
                f"doc_stride (the overlap of windows) must be from 0 to less than max_seq_len={length}; received "
                f"doc_stride={stride}: lower it"
            )
        return replace(self, doc_stride=stride, max_seq_len=length)


class Answerer:
    """Answers questions with a model folder.

    Args:
        predict: Features in chunks to batches of logits, such as `Predictor.predict`.
        encoder: The model's tokenizer.
        max_positions: Longest input of the model in tokens.
        max_windows: Refuse a document that makes more windows; None refuses none.
    """

    def __init__(
        self, predict: Predict, encoder: TextEncoder, max_positions: int = 512, max_windows: int | None = None
    ) -> None:
        self.predict = predict
        self.encoder = encoder
        self.max_positions = max_positions
        self.max_windows = max_windows

    @classmethod
    def from_pretrained(
        cls, path: str | Path, precision: str = "auto", engine: str = "auto", say: Callable[[str], None] | None = None
    ) -> Answerer:
        """Load a model.

        Args:
            path: A model folder, a Hub id or "minilm".
            precision: See `infer.open_engine`, as for the others.
            engine: "auto", "keras", "openvino" or "onnx".
            say: Told in a line what a first time takes long for.

        Raises:
            UserError: No usable model, tokenizer or engine there.
        """
        folder = resolve_model(str(path))
        encoder = load_encoder(folder)
        from qa_fast.infer import open_engine

        return cls(open_engine(folder, engine, precision, say=say).predict, encoder, max_positions_of(folder))

    def __call__(
        self,
        *inputs: Any,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """Answer one question or many.

        Args:
            inputs: Instead of the names `question` and `context`: a question and a context, or a dict (or dicts, or a
                list of them) with those keys.
            question: A question, or a list of them.
            context: Its document, or a list of as many; a single one serves all questions.
            top_k: See `AnswerOptions`, as for the other options.
            doc_stride: Tokens.
            max_answer_len: Tokens.
            max_seq_len: Tokens.
            max_question_len: Tokens.
            handle_impossible_answer: Let no answer compete.
            align_to_words: Widen answers to whole words.

        Returns:
            For one question an `Answer`, or with top_k > 1 a list of them, best first; for a list of questions (be it
            of one) a list of those. An empty context gives the empty answer.

        Raises:
            UserError: Inputs or options that cannot be answered with.
        """
        pairs, single = _pairs(inputs, question, context)
        options = AnswerOptions(
            top_k, doc_stride, max_answer_len, max_seq_len, max_question_len, handle_impossible_answer, align_to_words
        )
        results = []
        for answers in self.answer_pairs(pairs, options):
            if isinstance(answers, str):
                raise UserError(answers)
            results.append(answers[0] if top_k == 1 else answers)
        return results[0] if single else results

    def answer_pairs(self, pairs: Sequence[tuple[Any, Any]], options: AnswerOptions) -> list[list[Answer] | str]:
        """Answer pairs of a question and a context together.

        Args:
            pairs: E pairs.
            options: For all of them.

        Returns:
            For each pair its answers, best first and at least one, or why it cannot be answered.

        Raises:
            UserError: The options do not fit the model.
        """
        options = options.resolve(self.max_positions, self.encoder.template.special_tokens)
        results: list[list[Answer] | str] = [_problem(*pair) or [] for pair in pairs]
        sound = [row for row, result in enumerate(results) if not result]
        questions, question_index = _distinct(pairs[row][0].lstrip() for row in sound)
        contexts, context_index = _distinct(pairs[row][1] for row in sound)
        stripped = [context.lstrip() for context in contexts]
        encoded_questions = _truncated(self.encoder.encode(pa.array(questions, pa.string())), options.max_question_len)
        encoded = self.encoder.encode(pa.array(stripped, pa.string()))

        question_tokens = np.diff(encoded_questions.offsets)[question_index]
        context_tokens = np.diff(encoded.offsets)[context_index]
        kept = []
        for at, row in enumerate(sound):
            results[row] = self._refusal(int(question_tokens[at]), int(context_tokens[at]), options) or [_null(1.0)]
            if context_tokens[at] and not isinstance(results[row], str):
                kept.append(at)
        if not kept:
            return results

        rows = np.array(kept)
        assert options.max_seq_len is not None
        assert options.doc_stride is not None
        features = cut_features(
            encoded_questions,
            encoded,
            question_index[rows],
            context_index[rows],
            self.encoder,
            FeatureConfig(options.max_seq_len, options.doc_stride),
        )
        # Features without labels are labelled at CLS.
        windows = windows_of([features], encoded.offsets[:-1][context_index[rows]], features.start_positions)
        starts, ends = _bounds(stripped, encoded, options.align_to_words)
        n_best = max(DEFAULT_N_BEST, options.top_k or 0)
        decoder = SpanDecoder(windows, starts, ends, len(rows), n_best, options.max_answer_len)
        spans = decoder.add_all(self.predict([features])).result()
        texts = [contexts[index] for index in context_index[rows].tolist()]
        for at, answers in zip(kept, _ranked(spans, texts, options), strict=True):
            results[sound[at]] = answers
        return results

    def _refusal(self, question_tokens: int, context_tokens: int, options: AnswerOptions) -> str | None:
        """Why windows of these options cannot hold such a pair, or would be too many; or None."""
        assert options.max_seq_len is not None
        assert options.doc_stride is not None
        room = options.max_seq_len - self.encoder.template.special_tokens - question_tokens
        if context_tokens <= room:
            return None
        step = room - options.doc_stride
        if step <= 0:
            return (
                f"max_seq_len must exceed the question, its special tokens and doc_stride together; received "
                f"max_seq_len={options.max_seq_len}, a question of {question_tokens} tokens, "
                f"{self.encoder.template.special_tokens} special ones, doc_stride={options.doc_stride}: raise "
                "max_seq_len, or lower doc_stride or max_question_len"
            )
        windows = 1 - (room - context_tokens) // step  # rounded up
        if self.max_windows is not None and windows > self.max_windows:
            return (
                f"a document must make at most {self.max_windows} windows; received one of {context_tokens} tokens, "
                f"which makes {windows} with max_seq_len={options.max_seq_len}, doc_stride={options.doc_stride}: send "
                "a part of it, raise max_seq_len or lower doc_stride"
            )
        return None


def max_positions_of(folder: Path) -> int:
    """Longest input in tokens of a model folder, by its config.json and tokenizer_config.json."""
    config = folder_config(folder)
    path = folder / "tokenizer_config.json"
    said = orjson.loads(path.read_bytes()).get("model_max_length") if path.is_file() else None
    return min(config.max_length, int(said)) if isinstance(said, int | float) else config.max_length


def _pairs(inputs: tuple[Any, ...], question: Any, context: Any) -> tuple[list[tuple[Any, Any]], bool]:
    """The pairs of a call, and whether it asked a single question."""
    if inputs and (question is not None or context is not None):
        raise UserError("inputs must come by position or by name; received both: leave one out")
    if len(inputs) == 2 and isinstance(inputs[0], str):
        question, context = inputs
    elif inputs:
        single = len(inputs) == 1 and isinstance(inputs[0], dict)
        given = list(inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], list | tuple) else list(inputs)
        for item in given:
            if not isinstance(item, dict) or not {"question", "context"} <= item.keys():
                shown = f"a dict with {', '.join(map(str, item))}" if isinstance(item, dict) else type(item).__name__
                raise UserError(f"each input must be a dict with question and context; received {shown}")
        return [(item["question"], item["context"]) for item in given], single
    if question is None or context is None:
        raise UserError(
            f"a question and a context must be given; received no {'question' if question is None else 'context'}"
        )
    if isinstance(question, str) and isinstance(context, str):
        return [(question, context)], True
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise UserError(
            f"questions and contexts must be of one number; received {len(questions)} and {len(contexts)}: "
            "give one context for each question, or a single one for all"
        )
    return list(zip(questions, contexts, strict=True)), False


def _problem(question: Any, context: Any) -> str | None:
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str):
            return f"the {name} must be a text; received {type(text).__name__}"
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"the {name} must be valid Unicode; received a lone surrogate at character {error.start}"
    return None if question.strip() else "the question must not be empty"


def _distinct(texts: Iterable[str]) -> tuple[list[str], Int32s]:
    """The distinct texts [U], in order, and int32[n]: each one's row among them."""
    rows: dict[str, int] = {}
    index = [rows.setdefault(text, len(rows)) for text in texts]
    return list(rows), np.array(index, np.int32)


def _truncated(texts: EncodedTexts, longest: int) -> EncodedTexts:
    """The texts without their tokens beyond the first `longest`."""
    lengths = np.diff(texts.offsets)
    if not len(lengths) or lengths.max() <= longest:
        return texts
    kept = np.arange(len(texts.ids)) - np.repeat(texts.offsets[:-1], lengths) < longest
    return EncodedTexts(
        texts.ids[kept], texts.char_start[kept], texts.char_end[kept], offsets_of(np.minimum(lengths, longest))
    )


def _bounds(texts: list[str], encoded: EncodedTexts, align_to_words: bool) -> tuple[Int32s, Int32s]:
    """`answer_bounds` of every text, int32[T] each."""
    starts, ends = np.empty_like(encoded.char_start), np.empty_like(encoded.char_end)
    for row, text in enumerate(texts):
        of = slice(encoded.offsets[row], encoded.offsets[row + 1])
        starts[of], ends[of] = answer_bounds(text, encoded.char_start[of], encoded.char_end[of], align_to_words)
    return starts, ends


def _null(score: float) -> Answer:
    return {"score": score, "start": 0, "end": 0, "answer": ""}


def _ranked(spans: BestSpans, contexts: list[str], options: AnswerOptions) -> Iterator[list[Answer]]:
    """The answers of each example, best first."""
    shares, null_shares = spans.probabilities()
    null_scores = spans.null_score
    for row, context in enumerate(contexts):
        lead = len(context) - len(context.lstrip())
        count = int(spans.count[row])
        columns = (shares, spans.char_start + lead, spans.char_end + lead)
        answers: list[Answer] = [
            {"score": share, "start": start, "end": end, "answer": context[start:end]}
            for share, start, end in zip(*(column[row, :count].tolist() for column in columns), strict=True)
        ]
        if options.handle_impossible_answer or not count:
            ahead = int((spans.score[row, :count] >= null_scores[row]).sum())
            answers.insert(ahead, _null(float(null_shares[row])))
        yield answers[: options.top_k]
