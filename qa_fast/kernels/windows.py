"""Kernels that cut documents into windows and lay out the model inputs.

Windows are those of tokenizers' `only_second` truncation: with `room` context tokens in a window and an overlap of
`doc_stride`, window k starts at token `k * (room - doc_stride)`, and the last window is the first to reach the end of
the document. First `plan_windows` writes a row for each feature, then `fill_tokens` copies the ids.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I8_IN, I8_OUT, I32_IN, I32_OUT, I64, I64_IN, VOID

_U = np.uint64


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


@njit
def _copy(ids: np.ndarray, begin: np.uint64, end: np.uint64, out: np.ndarray, at: np.uint64) -> np.uint64:
    """Copy `ids[begin:end]` to `out[at:]`; return where the copy ends."""
    for i in range(end - begin):
        out[at + i] = ids[begin + i]
    return at + (end - begin)


@njit
def _fill(out: np.ndarray, begin: np.uint64, end: np.uint64, value: int) -> None:
    for i in range(begin, end):
        out[i] = value


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
    zero = _U(0)
    with_types = len(out_token_type_ids) > 0
    for row in range(len(token_start)):
        question = question_index[row]
        question_begin, question_end = _U(question_offsets[question]), _U(question_offsets[question + 1])
        document = context_offsets[context_index[row]]
        window_begin, window_end = _U(document + token_start[row]), _U(document + token_end[row])
        begin = _U(value_offsets[row])
        end_0 = _copy(prefix, zero, _U(len(prefix)), out_input_ids, begin)
        end_1 = _copy(question_ids, question_begin, question_end, out_input_ids, end_0)
        end_2 = _copy(middle, zero, _U(len(middle)), out_input_ids, end_1)
        end_3 = _copy(context_ids, window_begin, window_end, out_input_ids, end_2)
        end_4 = _copy(suffix, zero, _U(len(suffix)), out_input_ids, end_3)
        if with_types:
            _fill(out_token_type_ids, begin, end_0, part_types[0])
            _fill(out_token_type_ids, end_0, end_1, part_types[1])
            _fill(out_token_type_ids, end_1, end_2, part_types[2])
            _fill(out_token_type_ids, end_2, end_3, part_types[3])
            _fill(out_token_type_ids, end_3, end_4, part_types[4])
