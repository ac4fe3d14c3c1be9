"""Kernels over UTF-8 bytes: white space at the ends of a text, and answers checked against their context.

A text is `bytes[offsets[i]:offsets[i + 1]]`; a *character* is a Unicode code point, as in Python's `str`. White space
is as in `str.isspace` (a test compares every code point). Loops over bytes count in unsigned numbers: a signed index
might count from the end, and Numba's handling of that keeps LLVM from reading many bytes at once.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_IN, I32_OUT, I64_IN, I64_OUT, U8_IN, U8_OUT, VOID

ANSWER_OK = 0
ANSWER_OUTSIDE = 1
ANSWER_MISMATCH = 2
ANSWER_EMPTY = 3


@njit(inline="always")
def is_space(code: np.int64) -> bool:
    """Return whether the code point is white space, as `str.isspace` does."""
    if code < 0x80:
        return 0x09 <= code <= 0x0D or 0x1C <= code <= 0x20
    return (
        code == 0x85
        or code == 0xA0
        or code == 0x1680
        or 0x2000 <= code <= 0x200A
        or code == 0x2028
        or code == 0x2029
        or code == 0x202F
        or code == 0x205F
        or code == 0x3000
    )


@njit(inline="always")
def char_width(lead: int) -> int:
    """Return the bytes of the character that starts with this byte; 1 for a stray continuation byte."""
    if lead < 0xC0:
        return 1
    if lead < 0xE0:
        return 2
    if lead < 0xF0:
        return 3
    return 4


@njit(inline="always")
def code_point(text: np.ndarray, at: int, width: int) -> np.int64:
    """Return the code point of the `width` bytes at `at`, which must be valid UTF-8."""
    lead = np.int64(text[at])
    if width == 1:
        return lead
    if width == 2:
        return (lead & 0x1F) << 6 | (np.int64(text[at + 1]) & 0x3F)
    code = (lead & 0x0F) << 12 | (np.int64(text[at + 1]) & 0x3F) << 6 | (np.int64(text[at + 2]) & 0x3F)
    if width == 3:
        return code
    return (
        (lead & 0x07) << 18
        | (np.int64(text[at + 1]) & 0x3F) << 12
        | (np.int64(text[at + 2]) & 0x3F) << 6
        | (np.int64(text[at + 3]) & 0x3F)
    )


@njit([VOID(U8_IN, I64_IN, I64_OUT, I32_OUT)], cache=True, nogil=True)
def measure_leading_space(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[U + 1]
    out_bytes: np.ndarray,  # int64[U], bytes of white space at each text's start
    out_chars: np.ndarray,  # int32[U], the same in characters
) -> None:
    """Measure the white space that `str.lstrip` takes off. Cost: O(white space)."""
    for row in range(len(offsets) - 1):
        at = offsets[row]
        end = offsets[row + 1]
        chars = 0
        while at < end:
            width = char_width(text[at])
            if not is_space(code_point(text, at, width)):
                break
            at += width
            chars += 1
        out_bytes[row] = at - offsets[row]
        out_chars[row] = chars


@njit([VOID(U8_IN, I64_IN, I32_OUT)], cache=True, nogil=True)
def count_chars(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[U + 1]
    out_chars: np.ndarray,  # int32[U]
) -> None:
    """Count the characters of each text. Cost: one pass over the bytes."""
    for row in range(len(offsets) - 1):
        chars = np.int32(0)
        for at in range(np.uint64(offsets[row]), np.uint64(offsets[row + 1])):
            chars += np.int32((text[at] & np.uint8(0xC0)) != np.uint8(0x80))
        out_chars[row] = chars


@njit(inline="always")
def byte_of_char(text: np.ndarray, begin: int, end: int, chars: int) -> int:
    """Return the byte at which character number `chars` of `text[begin:end]` starts; `end` if there are fewer."""
    at = begin
    left = chars
    while at < end and left > 0:
        at += char_width(text[at])
        left -= 1
    return at


@njit(
    [VOID(U8_IN, I64_IN, I32_IN, I32_IN, U8_IN, I64_IN, I64_IN, U8_OUT, I32_OUT, I32_OUT)],
    cache=True,
    nogil=True,
)
def check_answers(
    contexts: np.ndarray,  # uint8[bytes]
    context_offsets: np.ndarray,  # int64[D + 1]
    context_chars: np.ndarray,  # int32[D]
    context_index: np.ndarray,  # int32[E]
    answers: np.ndarray,  # uint8[bytes], first answer of each example
    answer_offsets: np.ndarray,  # int64[E + 1]; an unanswerable example has an empty row
    answer_char_start: np.ndarray,  # int64[E], as given; -1 for an unanswerable example
    out_status: np.ndarray,  # uint8[E], ANSWER_*
    out_span_start: np.ndarray,  # int32[E], first character after the answer's leading white space
    out_span_end: np.ndarray,  # int32[E], one past the last character before its trailing white space
) -> None:
    """Check that each answer is at its start, and measure its span without surrounding white space.

    The spans are in characters of the context as given. Cost: O(answer) each; if the context is not ASCII, also a pass
    over its bytes up to the answer.
    """
    for row in range(len(context_index)):
        start = answer_char_start[row]
        out_status[row] = ANSWER_OK
        out_span_start[row] = -1
        out_span_end[row] = -1
        if start == -1 and answer_offsets[row] == answer_offsets[row + 1]:
            continue
        document = context_index[row]
        begin = context_offsets[document]
        end = context_offsets[document + 1]
        if start < 0 or start > context_chars[document]:
            out_status[row] = ANSWER_OUTSIDE
            continue
        at = begin + start
        if context_chars[document] != end - begin:
            at = byte_of_char(contexts, begin, end, start)
        first = answer_offsets[row]
        size = answer_offsets[row + 1] - first
        same = at + size <= end
        if same:
            for byte in range(size):
                if contexts[at + byte] != answers[first + byte]:
                    same = False
                    break
        if not same:
            out_status[row] = ANSWER_MISMATCH
            continue
        span_start = start
        is_ascii = context_chars[document] == end - begin
        if (
            is_ascii
            and size > 0
            and not is_space(np.int64(answers[first]))
            and not is_space(np.int64(answers[first + size - 1]))
        ):  # most answers: their characters need not be counted
            out_span_start[row] = start
            out_span_end[row] = start + size
            continue
        chars = np.int64(0)
        last_solid = np.int64(0)  # characters up to and including the last that is not white space
        byte = first
        while byte < first + size:
            width = char_width(answers[byte])
            chars += 1
            if is_space(code_point(answers, byte, width)):
                if last_solid == 0:
                    span_start += 1
            else:
                last_solid = chars
            byte += width
        if last_solid == 0:
            out_status[row] = ANSWER_EMPTY
            continue
        out_span_start[row] = span_start
        out_span_end[row] = start + last_solid
