"""Questions about documents, made ready for a model: checked, each distinct text encoded once, long documents cut.

All that needs no model is done here, so that a server can do it in other threads while the model computes. What cannot
be answered is told for each pair, and does not take the others with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from qa_fast.answer.boundaries import answer_bounds
from qa_fast.buffers import offsets_of
from qa_fast.encode import EncodedTexts, TextEncoder
from qa_fast.errors import UserError, shown
from qa_fast.features.windows import cut_features
from qa_fast.infer.decode import DEFAULT_N_BEST
from qa_fast.infer.spans import SpanJob
from qa_fast.schema import FeatureConfig, Int32s

DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128
# Of any option: far beyond what a model takes, and far below what 32 bits hold.
HIGHEST = 1_000_000
_NUMBERS = ("top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len")


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
            UserError: A number is none, too small or too large, or max_seq_len is more than the model can take.
        """
        given: dict[str, Any] = {name: _whole(name, getattr(self, name)) for name in _NUMBERS}
        for name in ("top_k", "max_answer_len", "max_question_len"):
            value = given[name]
            if value is not None and not 1 <= value <= HIGHEST:
                raise UserError(
                    f"{name} must be from 1 to {HIGHEST:,}; received {name}={shown(value)}: give a number between"
                )
        max_seq_len, stride, max_question_len = (
            given[name] for name in ("max_seq_len", "doc_stride", "max_question_len")
        )
        length = min(DEFAULT_MAX_SEQ_LEN, max_positions) if max_seq_len is None else max_seq_len
        if not special_tokens + 2 <= length <= max_positions:
            raise UserError(
                f"max_seq_len must be from {special_tokens + 2} to {max_positions} for this model; received "
                f"max_seq_len={shown(length)}: give one between"
            )
        if stride is None:
            # A full question must leave room for windows that move on.
            room = length - special_tokens - max_question_len
            stride = max(0, min(DEFAULT_DOC_STRIDE, length // 2, room // 2))
        elif not 0 <= stride < length:
            raise UserError(
                f"doc_stride (the overlap of windows) must be from 0 to less than max_seq_len={length}; received "
                f"doc_stride={shown(stride)}: give one between"
            )
        return replace(self, **(given | {"doc_stride": stride, "max_seq_len": length}))


def _whole(name: str, value: Any) -> int | None:
    """An option's number, numpy's as Python's; None where the option has a meaning without."""
    if value is None and name in ("top_k", "doc_stride", "max_seq_len"):
        return None
    if not isinstance(value, bool | np.bool_) and isinstance(value, int | np.integer):
        return int(value)
    raise UserError(f"{name} must be a whole number; received {name}={shown(value)}: give one, such as 1")


@dataclass(frozen=True)
class Prepared:
    """Pairs of a question and a context, up to the model.

    Attributes:
        options: For all of them, with every number set.
        refusals: For each pair why it cannot be answered, or None.
        rows: The pairs that have windows, E of P; any other that is not refused has an empty document.
        contexts: Their documents [E], as given.
        job: Their windows; None where E is 0.
    """

    options: AnswerOptions
    refusals: list[str | None]
    rows: list[int]
    contexts: list[str]
    job: SpanJob | None

    def __len__(self) -> int:
        return len(self.refusals)

    @property
    def windows(self) -> int:
        """Windows of all pairs."""
        return self.job.windows if self.job else 0

    @property
    def tokens(self) -> int:
        """Tokens of all windows, special ones included and padding not."""
        return self.job.tokens if self.job else 0


def prepare(
    pairs: Sequence[tuple[Any, Any]],
    options: AnswerOptions,
    encoder: TextEncoder,
    max_positions: int,
    max_windows: int | None = None,
) -> Prepared:
    """Check, encode and cut pairs of a question and a context; threads may do so at a time.

    Args:
        pairs: P pairs.
        options: For all of them.
        encoder: The model's tokenizer.
        max_positions: Longest input of the model in tokens.
        max_windows: Refuse a document that makes more windows; None refuses none.

    Raises:
        UserError: The options do not fit the model.
    """
    special_tokens = encoder.template.special_tokens
    options = options.resolve(max_positions, special_tokens)
    refusals = [_problem(*pair) for pair in pairs]
    sound = [row for row, refusal in enumerate(refusals) if refusal is None]
    questions, question_index = _distinct(pairs[row][0].lstrip() for row in sound)
    contexts, context_index = _distinct(pairs[row][1] for row in sound)
    stripped = [context.lstrip() for context in contexts]
    encoded_questions = _truncated(encoder.encode(pa.array(questions, pa.string())), options.max_question_len)
    encoded = encoder.encode(pa.array(stripped, pa.string()))

    question_tokens = np.diff(encoded_questions.offsets)[question_index].tolist()
    context_tokens = np.diff(encoded.offsets)[context_index].tolist()
    kept = []
    for at, row in enumerate(sound):
        refusals[row] = _refusal(question_tokens[at], context_tokens[at], options, special_tokens, max_windows)
        if context_tokens[at] and refusals[row] is None:
            kept.append(at)
    if not kept:
        return Prepared(options, refusals, [], [], None)

    assert options.max_seq_len is not None
    assert options.doc_stride is not None
    config = FeatureConfig(options.max_seq_len, options.doc_stride)
    of_question, of_context = question_index[kept], context_index[kept]
    features = cut_features(encoded_questions, encoded, of_question, of_context, encoder, config)
    starts, ends = _bounds(stripped, encoded, options.align_to_words)
    job = SpanJob(
        chunks=[features],
        document_first_token=encoded.offsets[:-1][of_context],
        token_char_start=starts,
        token_char_end=ends,
        cls_position=features.start_positions,  # features without labels are labelled at CLS
        n_best=max(DEFAULT_N_BEST, options.top_k or 0),
        max_answer_length=options.max_answer_len,
    )
    texts = [contexts[index] for index in of_context.tolist()]
    return Prepared(options, refusals, [sound[at] for at in kept], texts, job)


def _refusal(
    question_tokens: int, context_tokens: int, options: AnswerOptions, special_tokens: int, max_windows: int | None
) -> str | None:
    """Why windows of these options cannot hold such a pair, or would be too many; or None."""
    assert options.max_seq_len is not None
    assert options.doc_stride is not None
    room = options.max_seq_len - special_tokens - question_tokens
    if context_tokens <= room:
        return None
    step = room - options.doc_stride
    if step <= 0:
        return (
            f"max_seq_len must exceed the question, its special tokens and doc_stride together; received "
            f"max_seq_len={options.max_seq_len}, a question of {question_tokens} tokens, "
            f"{special_tokens} special ones, doc_stride={options.doc_stride}: raise "
            "max_seq_len, or lower doc_stride or max_question_len"
        )
    windows = 1 - (room - context_tokens) // step  # rounded up
    if max_windows is not None and windows > max_windows:
        return (
            f"a document must make at most {max_windows} windows; received one of {context_tokens} tokens, "
            f"which makes {windows} with max_seq_len={options.max_seq_len}, doc_stride={options.doc_stride}: send "
            "a part of it, raise max_seq_len or lower doc_stride"
        )
    return None


def _problem(question: Any, context: Any) -> str | None:
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str):
            return f"the {name} must be a text; received {type(text).__name__} {shown(text)}: give a text"
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
