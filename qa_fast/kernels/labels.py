"""Kernels that turn answer spans in characters into label positions in tokens.

`exact` labels are the first and the last token of the document that the answer's characters overlap, in every window
that holds both. `reference` labels are those of the widely copied tutorial, including its errors: it walks over the
padded feature, so an answer that starts at the window's last context token is labelled at the last index of the
padding. `compare_labels` counts the differences by their cause.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, VOID

_U = np.uint64


class Cause(IntEnum):
    """The causes of a difference between the two labels; the first that applies, in this order, is counted."""

    CONTEXT_STRIPPED = 0
    LAST_TOKEN = 1
    ANSWER_TRIMMED = 2
    NO_TOKEN = 3
    SPLIT_CHARACTER = 4
    UNSORTED_OFFSETS = 5
    OTHER = 6


CAUSES = tuple(cause.name.lower() for cause in Cause)


@njit([VOID(I32_IN, I32_IN, I64_IN, U8_OUT)], cache=True, nogil=True)
def find_sorted(
    char_start: np.ndarray,  # int32[T], of context tokens
    char_end: np.ndarray,  # int32[T]
    token_offsets: np.ndarray,  # int64[D + 1]
    out_sorted: np.ndarray,  # uint8[D], 1 if neither starts nor ends ever decrease
) -> None:
    """Find the documents whose offsets are sorted: nearly all, but some normalisers reorder characters. Cost: O(T)."""
    for document in range(len(token_offsets) - 1):
        back = np.uint8(0)
        for token in range(_U(token_offsets[document]) + _U(1), _U(token_offsets[document + 1])):
            back |= np.uint8(char_start[token] < char_start[token - _U(1)])
            back |= np.uint8(char_end[token] < char_end[token - _U(1)])
        out_sorted[document] = np.uint8(1) - back


@njit(inline="always")
def first_above(values: np.ndarray, begin: np.int64, end: np.int64, bound: np.int64) -> np.int64:
    """Return the index of the first of the sorted `values[begin:end]` above the bound; `end` if there is none."""
    low = begin
    size = end - begin
    while size > 0:
        half = size >> 1
        above = values[_U(low + half)] > bound
        low = low if above else low + half + 1
        size = half if above else size - half - 1
    return low


@njit([VOID(I32_IN, I32_IN, I64_IN, I32_IN, U8_IN, I32_IN, I32_IN, I32_IN, I32_OUT, I32_OUT)], cache=True, nogil=True)
def find_answer_tokens(
    char_start: np.ndarray,  # int32[T], of context tokens, in the stripped context
    char_end: np.ndarray,  # int32[T]
    token_offsets: np.ndarray,  # int64[D + 1]
    leading_chars: np.ndarray,  # int32[D], characters stripped from the context's start
    is_sorted: np.ndarray,  # uint8[D], from find_sorted
    context_index: np.ndarray,  # int32[E]
    span_start: np.ndarray,  # int32[E], answer without white space at its ends, in the context as given; -1: none
    span_end: np.ndarray,  # int32[E]
    out_first: np.ndarray,  # int32[E], first token of the document that the answer overlaps; -1: none
    out_last: np.ndarray,  # int32[E], last such token (inclusive); -1: none
) -> None:
    """Find the tokens of each answer. Cost: a bisection each, or a scan of the document if its offsets are unsorted."""
    for row in range(len(context_index)):
        out_first[row] = -1
        out_last[row] = -1
        if span_start[row] < 0:
            continue
        document = context_index[row]
        begin = token_offsets[document]
        a = span_start[row] - leading_chars[document]
        b = span_end[row] - leading_chars[document]
        end = token_offsets[document + 1]
        token = first_above(char_end, begin, end, a) if is_sorted[document] else begin
        while token < end and not (is_sorted[document] and char_start[token] >= b):
            if char_end[token] > a and char_start[token] < b and char_start[token] < char_end[token]:
                if out_first[row] < 0:
                    out_first[row] = token - begin
                out_last[row] = token - begin
            token += 1


@njit([VOID(I32_IN, I32_IN, I32_IN, I32_IN, I32_IN, I32_IN, I32_IN, I32_OUT, I32_OUT)], cache=True, nogil=True)
def label_exact(
    first_token: np.ndarray,  # int32[E], from find_answer_tokens
    last_token: np.ndarray,  # int32[E]
    example_index: np.ndarray,  # int32[F]
    token_start: np.ndarray,  # int32[F], window in document tokens
    token_end: np.ndarray,  # int32[F]
    context_start: np.ndarray,  # int32[F], position of the window's first token in the feature
    cls_position: np.ndarray,  # int32[F]
    out_start_positions: np.ndarray,  # int32[F]
    out_end_positions: np.ndarray,  # int32[F]
) -> None:
    """Label each feature with its answer's tokens if the window holds all of them, else with CLS. Cost: O(F)."""
    for row in range(len(example_index)):
        first = first_token[example_index[row]]
        last = last_token[example_index[row]]
        if first >= token_start[row] and last < token_end[row] and first >= 0:
            out_start_positions[row] = first - token_start[row] + context_start[row]
            out_end_positions[row] = last - token_start[row] + context_start[row]
        else:
            out_start_positions[row] = cls_position[row]
            out_end_positions[row] = cls_position[row]


@njit(inline="always")
def head_start(char_start: np.ndarray, ids: np.ndarray, space_led: np.ndarray, token: int, at_head: bool) -> int:
    """Return the first character of a window's token, as the reference sees it.

    Byte-level post-processors that trim offsets and add a prefix space leave one space in front of the first token of
    every window, not only of the text. `space_led` marks the ids that begin with a space; it is empty for tokenizers
    without such a post-processor.
    """
    start = char_start[token]
    if at_head and len(space_led) > 0 and start > 0 and space_led[ids[token]] > 0:
        return start - 1
    return start


@njit(inline="always")
def head_end(
    char_start: np.ndarray, char_end: np.ndarray, ids: np.ndarray, space_led: np.ndarray, token: int, at_head: bool
) -> int:
    """Return one past the last character of a window's token, as the reference sees it.

    Once its offsets are trimmed, a token of spaces alone ends where it starts, so the space in front moves both; see
    `head_start`.
    """
    end = char_end[token]
    if end == char_start[token]:
        return head_start(char_start, ids, space_led, token, at_head)
    return end


@njit(
    [
        VOID(
            I32_IN, I32_IN, I32_IN, I64_IN, U8_IN, U8_IN, I32_IN, I32_IN, I64_IN, I32_IN,
            I32_IN, I32_IN, I32_IN, I32_IN, I64, I32_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def label_reference(
    ids: np.ndarray,  # int32[T] of context tokens
    char_start: np.ndarray,  # int32[T], in the stripped context
    char_end: np.ndarray,  # int32[T]
    token_offsets: np.ndarray,  # int64[D + 1]
    is_sorted: np.ndarray,  # uint8[D], from find_sorted
    space_led: np.ndarray,  # uint8[vocabulary] or empty, see head_start
    context_index: np.ndarray,  # int32[E]
    example_index: np.ndarray,  # int32[F]
    answer_char_start: np.ndarray,  # int64[E], as given, not shifted by the characters stripped; -1: none
    answer_chars: np.ndarray,  # int32[E]
    token_start: np.ndarray,  # int32[F], window in document tokens
    token_end: np.ndarray,  # int32[F]
    context_start: np.ndarray,  # int32[F]
    cls_position: np.ndarray,  # int32[F]
    max_length: int,
    out_start_positions: np.ndarray,  # int32[F]
    out_end_positions: np.ndarray,  # int32[F]
) -> None:
    """Label every feature as the tutorial does. Cost: two bisections each, or a scan if offsets are unsorted."""
    for row in range(len(example_index)):
        out_start_positions[row] = cls_position[row]
        out_end_positions[row] = cls_position[row]
        example = example_index[row]
        a = answer_char_start[example]
        if a < 0 or token_end[row] <= token_start[row]:
            continue
        b = a + answer_chars[example]
        document = context_index[example]
        base = token_offsets[document]
        first = base + token_start[row]
        last = base + token_end[row] - 1
        at_head = token_start[row] > 0
        end_of_first = head_end(char_start, char_end, ids, space_led, first, at_head)
        end_of_last = char_end[last] if last > first else end_of_first
        if head_start(char_start, ids, space_led, first, at_head) > a or end_of_last < b:
            continue
        # With sorted offsets a bisection finds where the walk ends. The first token has passed the test above.
        token = first_above(char_start, first + 1, last + 1, a) if is_sorted[document] else first
        while token <= last and head_start(char_start, ids, space_led, token, at_head and token == first) <= a:
            token += 1
        if token <= last:
            out_start_positions[row] = token - 1 - first + context_start[row]
        else:
            # Special and padding tokens have offsets (0, 0), which pass the test too.
            out_start_positions[row] = max_length - 1
        token = first_above(char_end, first + 1, last + 1, b - 1) - 1 if is_sorted[document] else last
        while token > first and char_end[token] >= b:
            token -= 1
        if token == first and end_of_first >= b:
            token -= 1
        out_end_positions[row] = token + 1 - first + context_start[row]


@njit(inline="always")
def covering_tokens(char_start: np.ndarray, char_end: np.ndarray, begin: int, end: int, char: int) -> int:
    """Return how many tokens of `begin:end` cover the character."""
    count = 0
    for token in range(begin, end):
        count += char_start[token] <= char < char_end[token]
    return count


@njit(
    [
        VOID(
            I32_IN, I32_IN, I64_IN, U8_IN, I32_IN, I32_IN, I32_IN, I32_IN, I32_IN, I32_IN,
            I32_IN, I32_IN, I32_IN, I32_IN, I32_IN, I64_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def compare_labels(
    char_start: np.ndarray,  # int32[T]
    char_end: np.ndarray,  # int32[T]
    token_offsets: np.ndarray,  # int64[D + 1]
    is_sorted: np.ndarray,  # uint8[D], from find_sorted
    leading_chars: np.ndarray,  # int32[D]
    context_index: np.ndarray,  # int32[E]
    example_index: np.ndarray,  # int32[F]
    span_start: np.ndarray,  # int32[E]
    span_end: np.ndarray,  # int32[E]
    answer_chars: np.ndarray,  # int32[E], as given
    context_end: np.ndarray,  # int32[F]
    exact_start: np.ndarray,  # int32[F]
    exact_end: np.ndarray,  # int32[F]
    reference_start: np.ndarray,  # int32[F]
    reference_end: np.ndarray,  # int32[F]
    out_counts: np.ndarray,  # int64[len(Cause)]
) -> None:
    """Add the features whose two labels differ to the counts of their causes. Cost: O(F), a scan each difference."""
    for row in range(len(example_index)):
        if exact_start[row] == reference_start[row] and exact_end[row] == reference_end[row]:
            continue
        example = example_index[row]
        document = context_index[example]
        begin = token_offsets[document]
        end = token_offsets[document + 1]
        if leading_chars[document] > 0:
            cause = Cause.CONTEXT_STRIPPED
        elif reference_start[row] >= context_end[row]:
            cause = Cause.LAST_TOKEN
        elif span_end[example] - span_start[example] != answer_chars[example]:
            cause = Cause.ANSWER_TRIMMED
        else:
            covering_first = covering_tokens(char_start, char_end, begin, end, span_start[example])
            covering_last = covering_tokens(char_start, char_end, begin, end, span_end[example] - 1)
            if min(covering_first, covering_last) == 0:
                cause = Cause.NO_TOKEN
            elif max(covering_first, covering_last) > 1:
                cause = Cause.SPLIT_CHARACTER
            elif not is_sorted[document]:
                cause = Cause.UNSORTED_OFFSETS
            else:
                cause = Cause.OTHER
        out_counts[cause.value] += 1
