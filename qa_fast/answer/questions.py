"""Prepares questions for a model: checks them, encodes each distinct text once, and cuts long documents into windows.

This is everything that needs no model, so that a server can do it in other threads while the model computes. A pair
that cannot be answered gets the reason; the other pairs are answered all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qa_fast.answer.boundaries import bounds_of
from qa_fast.answer.options import EVIDENCE_CANDIDATES, AnswerOptions
from qa_fast.buffers import offsets_of
from qa_fast.encode import EncodedTexts, TextEncoder
from qa_fast.errors import shown
from qa_fast.features.windows import cut_features
from qa_fast.infer.decode import DEFAULT_N_BEST
from qa_fast.infer.spans import SpanJob
from qa_fast.schema import FeatureConfig, Int32s, Int64s, Ragged


@dataclass(frozen=True)
class Prepared:
    """P pairs of a question and a context, ready for the model.

    Attributes:
        options: Options for all pairs.
        rejections: For each pair [P] the reason why it cannot be answered, or None.
        rows: The E pairs that have windows. A pair that is neither here nor rejected has an empty context.
        contexts: The contexts of these pairs [E], as given.
        job: Their windows; None if E is 0.
    """

    options: AnswerOptions
    rejections: list[str | None]
    rows: list[int]
    contexts: list[str]
    job: SpanJob | None

    def __len__(self) -> int:
        return len(self.rejections)

    @property
    def windows(self) -> int:
        """Number of windows of all pairs."""
        return self.job.windows if self.job else 0

    @property
    def tokens(self) -> int:
        """Number of tokens in all windows, including special tokens and without padding."""
        return self.job.tokens if self.job else 0


def prepare(
    pairs: Sequence[tuple[Any, Any]],
    options: AnswerOptions,
    encoder: TextEncoder,
    max_windows: int | None = None,
) -> Prepared:
    """Check, encode and cut P pairs of a question and a context. Several threads may call this at once.

    Args:
        pairs: The pairs [P].
        options: Options for all of them, as `AnswerOptions.resolve` returned them.
        encoder: The model's tokenizer.
        max_windows: Largest number of windows that a document may be cut into; None sets no limit.
    """
    special_tokens = encoder.template.special_tokens
    rejections = [text_problem(*pair) for pair in pairs]
    valid = [row for row, rejection in enumerate(rejections) if rejection is None]
    questions, question_index = _distinct(pairs[row][0].lstrip() for row in valid)
    contexts, context_index = _distinct(pairs[row][1] for row in valid)
    stripped = [context.lstrip() for context in contexts]
    assert options.max_question_len is not None
    # In one call, which is what a single short question waits for.
    texts, refused = encoder.encode_accepted(pa.array([*questions, *stripped], pa.string()))
    if refused:
        for row, question, context in zip(valid, question_index.tolist(), context_index.tolist(), strict=True):
            rejections[row] = refused.get(question) or refused.get(len(questions) + context)
    encoded_questions = _truncated(texts.part(0, len(questions)), options.max_question_len)
    encoded = texts.part(len(questions), len(texts))

    question_lengths = np.diff(encoded_questions.offsets)[question_index]
    context_lengths = np.diff(encoded.offsets)[context_index]
    shorter = _shorter_question(options, special_tokens)
    cut = _leaves_no_step(question_lengths, context_lengths, options, special_tokens)
    if shorter and cut.any():
        question_lengths = np.where(cut, shorter, question_lengths)
        encoded_questions = _truncated(encoded_questions.take(question_index), question_lengths)
        question_index = np.arange(len(valid), dtype=np.int32)
    question_tokens, context_tokens = question_lengths.tolist(), context_lengths.tolist()
    kept = []
    for number, row in enumerate(valid):
        rejections[row] = rejections[row] or _length_problem(
            question_tokens[number], context_tokens[number], options, special_tokens, max_windows
        )
        if context_tokens[number] and rejections[row] is None:
            kept.append(number)
    if not kept:
        return Prepared(options, rejections, [], [], None)

    assert options.max_seq_len is not None
    assert options.doc_stride is not None
    assert options.max_answer_len is not None
    config = FeatureConfig(options.max_seq_len, options.doc_stride)
    kept_questions, kept_contexts = question_index[kept], context_index[kept]
    features = cut_features(encoded_questions, encoded, kept_questions, kept_contexts, encoder, config)
    offsets = encoded.offsets
    bounds = Ragged(encoded.char_start, offsets), Ragged(encoded.char_end, offsets)
    starts, ends = bounds_of(stripped, *bounds, align_to_words=bool(options.align_to_words))
    job = SpanJob(
        chunks=[features],
        document_first_token=encoded.offsets[:-1][kept_contexts],
        token_char_start=starts,
        token_char_end=ends,
        documents=stripped,
        token_offsets=encoded.offsets,
        cls_position=features.start_positions,  # features without labels are labelled at CLS
        n_best=max(DEFAULT_N_BEST, options.top_k or 0, 0 if options.overlap_threshold is None else EVIDENCE_CANDIDATES),
        max_answer_length=options.max_answer_len,
    )
    asked = [contexts[index] for index in kept_contexts.tolist()]
    return Prepared(options, rejections, [valid[number] for number in kept], asked, job)


def text_problem(question: Any, context: Any) -> str | None:
    """Return why a pair is not two usable texts, or None."""
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str):
            return f"the {name} must be a text; received {type(text).__name__} {shown(text)}: pass a text"
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"the {name} must be valid Unicode; received a lone surrogate at character {error.start}"
    return None if question.strip() else "the question must not be empty"


def _leaves_no_step(
    questions: Int64s, contexts: Int64s, options: AnswerOptions, special_tokens: int
) -> npt.NDArray[np.bool_]:
    """Return for which pairs of these lengths, int64[P], the windows of the context would not move on, bool[P]."""
    assert options.max_seq_len is not None
    assert options.doc_stride is not None
    room = options.max_seq_len - special_tokens - questions
    return (contexts > room) & (room <= options.doc_stride)


def _shorter_question(options: AnswerOptions, special_tokens: int) -> int:
    """Return to how many tokens a question is cut that leaves no step, or 0 if the overlap leaves too little for it.

    The other half of what the overlap leaves is the step, since a step of few tokens would give very many windows.
    """
    assert options.max_seq_len is not None
    assert options.doc_stride is not None
    half = (options.max_seq_len - special_tokens - options.doc_stride) // 2
    return half if half >= max(1, options.max_seq_len // 8) else 0


def _length_problem(
    question_tokens: int, context_tokens: int, options: AnswerOptions, special_tokens: int, max_windows: int | None
) -> str | None:
    """Return why a pair cannot be cut into windows of these options, or would give too many; or None."""
    assert options.max_seq_len is not None
    assert options.doc_stride is not None
    room = options.max_seq_len - special_tokens - question_tokens
    if context_tokens <= room:
        return None
    step = room - options.doc_stride
    if step <= 0:
        return (
            "max_seq_len must exceed the question, its special tokens and doc_stride together; received "
            f"max_seq_len={options.max_seq_len}, a question of {question_tokens} tokens, {special_tokens} special "
            f"tokens, doc_stride={options.doc_stride}: raise max_seq_len, or lower doc_stride or max_question_len"
        )
    windows = 1 - (room - context_tokens) // step  # rounded up
    if max_windows is not None and windows > max_windows:
        return (
            f"a document must give at most {max_windows} windows; received a document of {context_tokens} tokens, "
            f"which gives {windows} with max_seq_len={options.max_seq_len} and doc_stride={options.doc_stride}: send "
            "a part of it, raise max_seq_len or lower doc_stride"
        )
    return None


def _distinct(texts: Iterable[str]) -> tuple[list[str], Int32s]:
    """Return the U distinct texts in order of appearance, and for each text its row among them, int32[n]."""
    rows: dict[str, int] = {}
    index = [rows.setdefault(text, len(rows)) for text in texts]
    return list(rows), np.array(index, np.int32)


def _truncated(texts: EncodedTexts, longest: int | Int64s) -> EncodedTexts:
    """Return the texts with at most `longest` tokens each; one number for all, or int64[U]."""
    lengths = np.diff(texts.offsets)
    if (lengths <= longest).all():
        return texts
    kept = np.arange(len(texts.ids)) < np.repeat(texts.offsets[:-1] + longest, lengths)
    return EncodedTexts(
        texts.ids[kept], texts.char_start[kept], texts.char_end[kept], offsets_of(np.minimum(lengths, longest))
    )
