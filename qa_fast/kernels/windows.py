"""Kernels that cut documents into windows and lay out the model inputs.

Windows are those of tokenizers' `only_second` truncation: with `room` context tokens in a window and an overlap of
`doc_stride`, window k starts at token `k * (room - doc_stride)`, and the last window is the first to reach the end of
the document. First `plan_windows` writes a row for each feature, then `fill_tokens` copies the ids.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I8_IN, I8_OUT, I32_IN, I32_OUT, I64, I64_IN, VOID


@njit([VOID(I32_IN, I32_IN, I64, I64_IN, I32_OUT, I32_OUT, I32_OUT, I32_OUT)], cache=True, nogil=True)
def plan_windows(
    context_tokens: np.ndarray,  # int32[E], tokens of each example's context
    room: np.ndarray,  # int32[E], context tokens that a window of this example can hold
    doc_stride: int,
    feature_begin: np.ndarray,  # int64[E + 1], first feature of each example
    out_example_index: np.ndarray,  # int32[F]
    out_window_index: np.ndarray,  # int32[F]
    out_token_start: np.ndarray,  # int32[F], first context token of the window, in the document
    out_token_end: np.ndarray,  # int32[F], one past its last
) -> None:
    """Write where each window starts and ends in its document's tokens. Cost: O(F)."""
    for example in range(len(context_tokens)):
        step = room[example] - doc_stride
        start = 0
        for feature in range(feature_begin[example], feature_begin[example + 1]):
            out_example_index[feature] = example
            out_window_index[feature] = feature - feature_begin[example]
            out_token_start[feature] = start
            out_token_end[feature] = min(start + room[example], context_tokens[example])
            start += step


@njit(
    [
        VOID(
            I32_IN, I64_IN, I32_IN, I64_IN, I32_IN, I32_IN, I32_IN, I8_IN,
            I32_IN, I32_IN, I32_IN, I32_IN, I64_IN, I32_OUT, I8_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def fill_tokens(
    question_ids: np.ndarray,  # int32[T of distinct questions]
    question_offsets: np.ndarray,  # int64[distinct questions + 1]
    context_ids: np.ndarray,  # int32[T of distinct contexts]
    context_offsets: np.ndarray,  # int64[D + 1]
    prefix: np.ndarray,  # int32[.], special ids before the question
    middle: np.ndarray,  # int32[.], between question and context
    suffix: np.ndarray,  # int32[.], behind the context
    part_types: np.ndarray,  # int8[5], type ids of prefix, question, middle, context, suffix
    question_index: np.ndarray,  # int32[F]
    context_index: np.ndarray,  # int32[F]
    token_start: np.ndarray,  # int32[F]
    token_end: np.ndarray,  # int32[F]
    value_offsets: np.ndarray,  # int64[F + 1]
    out_input_ids: np.ndarray,  # int32[T]
    out_token_type_ids: np.ndarray,  # int8[T], or empty if the model has none
) -> None:
    """Write special tokens, question and window of every feature. Cost: O(T)."""
    with_types = len(out_token_type_ids) > 0
    for row in range(len(token_start)):
        at = np.uint64(value_offsets[row])
        for i in range(len(prefix)):
            out_input_ids[at + np.uint64(i)] = prefix[i]
        part_end_0 = at + np.uint64(len(prefix))
        begin = np.uint64(question_offsets[question_index[row]])
        size = np.uint64(question_offsets[question_index[row] + 1]) - begin
        for i in range(size):
            out_input_ids[part_end_0 + i] = question_ids[begin + i]
        part_end_1 = part_end_0 + size
        for i in range(len(middle)):
            out_input_ids[part_end_1 + np.uint64(i)] = middle[i]
        part_end_2 = part_end_1 + np.uint64(len(middle))
        begin = np.uint64(context_offsets[context_index[row]] + token_start[row])
        size = np.uint64(token_end[row] - token_start[row])
        for i in range(size):
            out_input_ids[part_end_2 + i] = context_ids[begin + i]
        part_end_3 = part_end_2 + size
        for i in range(len(suffix)):
            out_input_ids[part_end_3 + np.uint64(i)] = suffix[i]
        if with_types:
            for i in range(at, part_end_0):
                out_token_type_ids[i] = part_types[0]
            for i in range(part_end_0, part_end_1):
                out_token_type_ids[i] = part_types[1]
            for i in range(part_end_1, part_end_2):
                out_token_type_ids[i] = part_types[2]
            for i in range(part_end_2, part_end_3):
                out_token_type_ids[i] = part_types[3]
            for i in range(part_end_3, np.uint64(value_offsets[row + 1])):
                out_token_type_ids[i] = part_types[4]
