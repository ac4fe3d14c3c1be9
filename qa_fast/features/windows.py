"""Turns checked examples into model inputs: encodes distinct texts once, cuts windows, finds labels, lays out ids.

These are four stages that can be timed separately: `encode_examples` (Rust and Numba), `plan`, `label` and `lay_out`
(Numba over flat arrays). Peak memory is the encoded texts and one output; no Python object is made for each feature.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from qa_fast.buffers import offsets_of, one_chunk, strings_from, text_buffers
from qa_fast.encode import EncodedTexts, PairTemplate, TextEncoder
from qa_fast.features.examples import Examples, leading_space
from qa_fast.kernels import labels as label_kernels
from qa_fast.kernels import windows as window_kernels
from qa_fast.raw import Reject
from qa_fast.schema import FeatureConfig, Features, Int32s, Int64s, Ragged

# Tokens laid out at a time: about 20 MB of output, so that memory does not grow with the documents.
BATCH_TOKENS = 1 << 22


@dataclass(frozen=True)
class EncodedExamples:
    """E examples with their distinct texts encoded.

    Attributes:
        examples: The examples.
        questions: Encoded questions, without leading white space.
        question_index: int32[E], row in `questions`.
        contexts: Encoded distinct contexts [D], without leading white space; character offsets count from there.
        leading_chars: int32[D], characters of leading white space in each context.
        refused: The reason for each example one of whose texts cannot be encoded; that text has no tokens.
    """

    examples: Examples
    questions: EncodedTexts
    question_index: Int32s
    contexts: EncodedTexts
    leading_chars: Int32s
    refused: dict[int, str] = field(default_factory=dict)

    def count_tokens(self, unknown_id: int | None) -> tuple[int, int]:
        """Return the number of tokens of the questions and contexts, and how many of them have the unknown id."""
        both = (self.questions.ids, self.contexts.ids)
        unknown = 0 if unknown_id is None else sum(int(np.count_nonzero(ids == unknown_id)) for ids in both)
        return sum(map(len, both)), unknown


@dataclass(frozen=True)
class Windows:
    """F windows over documents, and the lengths of their features.

    Attributes:
        example_index: int32[F].
        window_index: int32[F].
        token_start: int32[F], first context token in its document.
        token_end: int32[F], one past the last.
        context_start: int32[F], position of the first context token in the feature.
        lengths: int32[F], tokens of the feature.
        cls_position: int32[F].
    """

    example_index: Int32s
    window_index: Int32s
    token_start: Int32s
    token_end: Int32s
    context_start: Int32s
    lengths: Int32s
    cls_position: Int32s

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Int64s | slice) -> Windows:
        """Return the given rows, in that order."""
        return Windows(**{name: column[rows] for name, column in vars(self).items()})


@dataclass(frozen=True)
class Labels:
    """Answer positions of F features.

    Attributes:
        start_positions: int32[F], of the answer's first token, or of CLS.
        end_positions: int32[F], of its last token (inclusive), or of CLS.
        differences: Number of features that `exact` and `reference` label differently, by cause.
        further: See `Features.further`.
        several: Number of examples whose further answers give labels, too.
        misplaced: Number of further answers that give none, because they are not at their start.
    """

    start_positions: Int32s
    end_positions: Int32s
    differences: dict[str, int]
    further: Ragged | None = None
    several: int = 0
    misplaced: int = 0


def encode_examples(examples: Examples, encoder: TextEncoder) -> EncodedExamples:
    """Encode every question, and every distinct context once.

    Args:
        examples: E examples.
        encoder: The model's tokenizer.
    """
    questions, _ = _stripped(one_chunk(examples.questions))
    contexts, leading_chars = _stripped(examples.contexts)
    encoded_questions, refused = encoder.encode_accepted(questions, with_chars=False)
    encoded_contexts, refused_contexts = encoder.encode_accepted(contexts)
    for context, reason in refused_contexts.items():
        refused |= dict.fromkeys(np.flatnonzero(examples.context_index == context).tolist(), reason)
    index = np.arange(len(questions), dtype=np.int32)
    return EncodedExamples(examples, encoded_questions, index, encoded_contexts, leading_chars, refused)


def _stripped(texts: pa.Array) -> tuple[pa.Array, Int32s]:
    """Return the texts [U] without leading white space, and the number of characters that each lost, int32[U]."""
    lead_bytes, lead_chars = leading_space(texts)
    rows = np.flatnonzero(lead_bytes)
    if not len(rows):
        return texts, lead_chars
    flat = text_buffers(texts)
    # The bytes between two cuts are copied in one piece.
    begins = np.append(flat.offsets[0], flat.offsets[rows] + lead_bytes[rows])
    ends = np.append(flat.offsets[rows], flat.offsets[-1])
    values = np.concatenate([flat.values[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)])
    return strings_from(Ragged(values, offsets_of(np.diff(flat.offsets) - lead_bytes))), lead_chars


def without_windows(
    encoded: EncodedExamples, template: PairTemplate, config: FeatureConfig
) -> list[tuple[int, Reject]]:
    """Return the examples that no windows can be cut for, with their rows.

    They have a text that cannot be encoded, or their question leaves too little room for a window. A question and a
    context that fit into one feature need no overlap. Otherwise a window must hold more context than the overlap, or
    the next one could not move on.
    """
    question_tokens = np.diff(encoded.questions.offsets)[encoded.question_index]
    context_tokens = np.diff(encoded.contexts.offsets)[encoded.examples.context_index]
    room = config.max_length - template.special_tokens - question_tokens
    reasons = dict(encoded.refused)
    for row in np.flatnonzero((context_tokens > room) & (room <= config.doc_stride)).tolist():
        if room[row] <= 0:
            rule, remedy = "max_length must exceed the question and its special tokens", "raise --max-length"
        else:
            rule = "doc_stride (the overlap) must be smaller than the room that the question leaves for context"
            remedy = "lower --doc-stride or raise --max-length"
        reasons[row] = (
            f"{rule}; received max_length={config.max_length}, doc_stride={config.doc_stride}, "
            f"a question of {question_tokens[row]} tokens with {template.special_tokens} special ones: {remedy}"
        )
    return [(row, Reject(encoded.examples.ids[row].as_py(), reason)) for row, reason in reasons.items()]


def plan(encoded: EncodedExamples, template: PairTemplate, config: FeatureConfig) -> Windows:
    """Cut every example's document into windows; rows that `without_windows` returns must have been removed."""
    context_index = encoded.examples.context_index
    return _planned(encoded.questions, encoded.contexts, encoded.question_index, context_index, template, config)


def _planned(
    questions: EncodedTexts,
    contexts: EncodedTexts,
    question_index: Int32s,
    context_index: Int32s,
    template: PairTemplate,
    config: FeatureConfig,
) -> Windows:
    """Cut windows for E pairs of a question and a context, in their order."""
    question_tokens = np.diff(questions.offsets)[question_index].astype(np.int32)
    context_tokens = np.diff(contexts.offsets)[context_index].astype(np.int32)
    room = config.max_length - template.special_tokens - question_tokens
    over = np.maximum(context_tokens - room, 0).astype(np.int64)
    step = np.maximum(room - config.doc_stride, 1)
    feature_begin = offsets_of(1 + -(-over // step))
    rows = int(feature_begin[-1])
    example_index, window_index, token_start, token_end = (np.empty(rows, np.int32) for _ in range(4))
    window_kernels.plan_windows(
        context_tokens, room, config.doc_stride, feature_begin, example_index, window_index, token_start, token_end
    )
    context_start = (len(template.prefix) + len(template.middle) + question_tokens)[example_index]
    lengths = context_start + token_end - token_start + len(template.suffix)
    return Windows(
        example_index,
        window_index,
        token_start,
        token_end,
        context_start.astype(np.int32),
        lengths.astype(np.int32),
        template.cls_positions(lengths),
    )


def label(encoded: EncodedExamples, windows: Windows, config: FeatureConfig, space_led: np.ndarray) -> Labels:
    """Label each feature in both modes, and count the differences by cause.

    Both are always computed: they cost little, and the counts tell a user what the choice of labels changes.
    """
    examples, contexts = encoded.examples, encoded.contexts
    rows = len(windows)
    first, last = np.empty(len(examples), np.int32), np.empty(len(examples), np.int32)
    exact_start, exact_end, reference_start, reference_end = (np.empty(rows, np.int32) for _ in range(4))

    is_sorted = np.empty(len(contexts), np.uint8)
    label_kernels.find_sorted(contexts.char_start, contexts.char_end, contexts.offsets, is_sorted)
    label_kernels.find_answer_tokens(
        contexts.char_start, contexts.char_end, contexts.offsets, encoded.leading_chars, is_sorted,
        examples.context_index, examples.span_start, examples.span_end, first, last,
    )  # fmt: skip
    label_kernels.label_exact(
        first, last, windows.example_index, windows.token_start, windows.token_end, windows.context_start,
        windows.cls_position, exact_start, exact_end,
    )  # fmt: skip
    label_kernels.label_reference(
        contexts.ids, contexts.char_start, contexts.char_end, contexts.offsets, is_sorted, space_led,
        examples.context_index, windows.example_index, examples.answer_char_start, examples.answer_chars,
        windows.token_start, windows.token_end, windows.context_start, windows.cls_position, config.max_length,
        reference_start, reference_end,
    )  # fmt: skip
    counts = np.zeros(len(label_kernels.CAUSES), np.int64)
    context_end = windows.context_start + windows.token_end - windows.token_start
    label_kernels.compare_labels(
        contexts.char_start, contexts.char_end, contexts.offsets, is_sorted, encoded.leading_chars,
        examples.context_index, windows.example_index, examples.span_start, examples.span_end, examples.answer_chars,
        context_end, exact_start, exact_end, reference_start, reference_end, counts,
    )  # fmt: skip
    differences = dict(zip(label_kernels.CAUSES, counts.tolist(), strict=True))
    if config.labels == "reference":
        return Labels(reference_start, reference_end, differences)
    return Labels(exact_start, exact_end, differences)


def lay_out(
    questions: EncodedTexts,
    question_index: Int32s,
    contexts: EncodedTexts,
    context_index: Int32s,
    windows: Windows,
    labels: Labels,
    encoder: TextEncoder,
) -> Features:
    """Write the ids and type ids of features, and return them with the labels and the places of the windows.

    Args:
        questions: Encoded distinct questions.
        question_index: int32[E].
        contexts: Encoded distinct contexts.
        context_index: int32[E].
        windows: F windows over the E pairs.
        labels: Their labels.
        encoder: The model's tokenizer.
    """
    template, offsets = encoder.template, offsets_of(windows.lengths)
    input_ids = np.empty(offsets[-1], np.int32)
    type_ids = np.empty(offsets[-1] if encoder.has_token_types else 0, np.int8)
    question_rows, context_rows = question_index[windows.example_index], context_index[windows.example_index]

    window_kernels.fill_tokens(
        questions.ids, questions.offsets, contexts.ids, contexts.offsets, template.prefix, template.middle,
        template.suffix, template.part_types, question_rows, context_rows, windows.token_start, windows.token_end,
        offsets, input_ids, type_ids,
    )  # fmt: skip
    return Features(
        input_ids=Ragged(input_ids, offsets),
        token_type_ids=Ragged(type_ids, offsets) if encoder.has_token_types else None,
        start_positions=labels.start_positions,
        end_positions=labels.end_positions,
        example_index=windows.example_index,
        window_index=windows.window_index,
        context_start=windows.context_start,
        context_end=(windows.context_start + windows.token_end - windows.token_start).astype(np.int32),
        document_token_start=windows.token_start,
    )


@dataclass(frozen=True)
class Featurized:
    """Windows and labels of E examples; the features themselves are laid out batch by batch.

    Attributes:
        encoded: The examples that have features, with their encoded texts.
        windows: F windows.
        labels: Labels of the F windows.
        rejects: Examples that no window can be cut for.
    """

    encoded: EncodedExamples
    windows: Windows
    labels: Labels
    rejects: list[Reject]

    def batches(self, encoder: TextEncoder, batch_tokens: int = BATCH_TOKENS) -> Iterator[Features]:
        """Lay out features in order, about `batch_tokens` tokens at a time, so that long documents fit in memory."""
        total = np.cumsum(self.windows.lengths, dtype=np.int64)
        marks = np.arange(batch_tokens, total[-1] if len(total) else 0, batch_tokens)
        cuts = np.unique([0, *(np.searchsorted(total, marks) + 1), len(total)]).tolist()
        for begin, end in itertools.pairwise(cuts):
            windows = self.windows.take(slice(begin, end))
            labels = Labels(self.labels.start_positions[begin:end], self.labels.end_positions[begin:end], {})
            yield lay_out(
                self.encoded.questions, self.encoded.question_index, self.encoded.contexts,
                self.encoded.examples.context_index, windows, labels, encoder,
            )  # fmt: skip


def featurize_examples(
    examples: Examples,
    encoder: TextEncoder,
    config: FeatureConfig,
    drop: bool = False,
    further: Callable[[EncodedExamples, Windows, Labels], Labels] | None = None,
    stage: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> Featurized:
    """Encode, plan and label one table of examples.

    Args:
        examples: Checked examples.
        encoder: The model's tokenizer.
        config: Window sizes and label mode.
        drop: Leave out windows of answerable questions that do not hold an answer that is labelled.
        further: Adds the labels of further answers, such as `several.label_all`; None labels the first ones alone.
        stage: Context manager that is entered with the name of each stage, to time it.
    """
    with stage("encode"):
        encoded = encode_examples(examples, encoder)
    rejected = without_windows(encoded, encoder.template, config)
    if rejected:
        good = np.ones(len(examples), bool)
        good[[row for row, _ in rejected]] = False
        rows = np.flatnonzero(good)
        encoded = replace(encoded, examples=examples.take(rows), question_index=encoded.question_index[rows])
    with stage("windows"):
        windows = plan(encoded, encoder.template, config)
    with stage("labels"):
        labels = label(encoded, windows, config, encoder.space_led)
        if further is not None:
            labels = further(encoded, windows, labels)
    if drop:
        answerable = encoded.examples.answer_char_start[windows.example_index] >= 0
        kept = np.flatnonzero(~answerable | (labels.start_positions != windows.cls_position))
        windows = windows.take(kept)
        more = labels.further
        if more is not None:  # the windows left out have no labels, so that the values stay
            more = Ragged(more.values, offsets_of(more.lengths[kept]))
        labels = replace(
            labels,
            start_positions=labels.start_positions[kept],
            end_positions=labels.end_positions[kept],
            further=more,
        )
    return Featurized(encoded, windows, labels, [reject for _, reject in rejected])


def cut_features(
    questions: EncodedTexts,
    contexts: EncodedTexts,
    question_index: Int32s,
    context_index: Int32s,
    encoder: TextEncoder,
    config: FeatureConfig,
) -> Features:
    """Return features without answers, for inference: every label is at CLS.

    Args:
        questions: Encoded distinct questions.
        contexts: Encoded distinct contexts.
        question_index: int32[E].
        context_index: int32[E].
        encoder: The model's tokenizer.
        config: Window sizes. If a context does not fit, its question must leave room for more context than doc_stride.
    """
    windows = _planned(questions, contexts, question_index, context_index, encoder.template, config)
    unlabelled = Labels(windows.cls_position, windows.cls_position, {})
    return lay_out(questions, question_index, contexts, context_index, windows, unlabelled, encoder)
