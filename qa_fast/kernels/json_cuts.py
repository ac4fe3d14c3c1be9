"""Places where a long JSON document of questions can be cut into smaller documents, found in one pass over its bytes.

The elements are the members of the list under the root's key "data", or of the root if it is a list. A cut is made
behind a comma between two elements or, inside an element, between two members of its list "paragraphs". A few brackets
before and behind turn the pieces into documents again.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I64, I64_OUT, U8_IN, U8_OUT

# Elements of `state`, which is kept between two calls.
STATE = 16
(
    DEPTH, IN_STRING, ESCAPED, LENGTH, MATCHES, KEY, BASE, INSIDE, PARAGRAPHS, ELEMENT, PARAGRAPH, SEEN, POSITION,
    NEXT_CUT, BROKEN, ENDED,
) = range(STATE)  # fmt: skip
# Values of KEY: the last string was one of these keys.
_DATA, _PARAGRAPHS = 1, 2

_QUOTE, _BACKSLASH, _COMMA = np.uint8(0x22), np.uint8(0x5C), np.uint8(0x2C)
_OPEN_LIST, _CLOSE_LIST, _OPEN_OBJECT, _CLOSE_OBJECT = np.uint8(0x5B), np.uint8(0x5D), np.uint8(0x7B), np.uint8(0x7D)
_DATA_TEXT = np.frombuffer(b"data", np.uint8)
_PARAGRAPHS_TEXT = np.frombuffer(b"paragraphs", np.uint8)


@njit([I64(U8_IN, I64, I64_OUT, I64_OUT, I64_OUT, I64_OUT, U8_OUT)], cache=True, nogil=True)
def find_cuts(
    text: np.ndarray,  # uint8[bytes], the document from where the last call ended
    target: int,  # bytes from one cut to the next, at least
    state: np.ndarray,  # int64[STATE], zeros before the first call; owned by the caller between calls
    out_position: np.ndarray,  # int64[m], bytes of the document up to each cut, the comma included
    out_element: np.ndarray,  # int64[m], elements that begin before it: the number of the one behind it
    out_paragraph: np.ndarray,  # int64[m], members of "paragraphs" before it in its element; -1 between two elements
    out_nested: np.ndarray,  # uint8[m], 1 if an element with "paragraphs" came before it
) -> int:
    """Find the cuts and return their number, which is at most bytes / target + 1. Cost: one pass."""
    depth, in_string, escaped = state[DEPTH], state[IN_STRING], state[ESCAPED]
    base, inside, paragraphs = state[BASE], state[INSIDE], state[PARAGRAPHS]
    found = 0
    for i in range(len(text)):
        byte = text[i]
        if in_string:
            if escaped:
                escaped = 0
                state[MATCHES] = 0
            elif byte == _BACKSLASH:
                escaped = 1
            elif byte == _QUOTE:
                in_string = 0
                if state[MATCHES] & _DATA and state[LENGTH] == len(_DATA_TEXT):
                    state[KEY] = _DATA
                elif state[MATCHES] & _PARAGRAPHS and state[LENGTH] == len(_PARAGRAPHS_TEXT):
                    state[KEY] = _PARAGRAPHS
                else:
                    state[KEY] = 0
            elif state[MATCHES]:
                at = state[LENGTH]
                if at >= len(_DATA_TEXT) or byte != _DATA_TEXT[at]:
                    state[MATCHES] &= ~_DATA
                if at >= len(_PARAGRAPHS_TEXT) or byte != _PARAGRAPHS_TEXT[at]:
                    state[MATCHES] &= ~_PARAGRAPHS
                state[LENGTH] = at + 1
            continue
        if byte == _QUOTE:
            in_string = 1
            state[LENGTH] = 0
            state[MATCHES] = _DATA | _PARAGRAPHS
        elif byte in (_OPEN_LIST, _OPEN_OBJECT):
            if byte == _OPEN_LIST:
                if depth == 0 and not state[ENDED]:
                    base, inside = 1, 1
                elif depth == 1 and base == 0 and state[KEY] == _DATA:
                    base, inside = 2, 1
                elif inside and depth == base + 1 and state[KEY] == _PARAGRAPHS:
                    paragraphs = 1
                    state[PARAGRAPH] = 0
                    state[SEEN] = 1
            state[KEY] = 0
            depth += 1
        elif byte in (_CLOSE_LIST, _CLOSE_OBJECT):
            depth -= 1
            if depth < 0:
                state[BROKEN] = 1
                depth = 0
            if paragraphs and depth == base + 1:
                paragraphs = 0
            if inside and depth < base:
                inside = 0
                state[ENDED] = 1
            state[KEY] = 0
        elif byte == _COMMA:
            state[KEY] = 0
            between = inside and depth == base
            if between:
                state[ELEMENT] += 1
            elif paragraphs and depth == base + 2:
                state[PARAGRAPH] += 1
            else:
                continue
            position = state[POSITION] + i + 1
            if position >= state[NEXT_CUT] + target:
                out_position[found] = position
                out_element[found] = state[ELEMENT]
                out_paragraph[found] = -1 if between else state[PARAGRAPH]
                out_nested[found] = state[SEEN]
                state[NEXT_CUT] = position
                found += 1
    state[DEPTH], state[IN_STRING], state[ESCAPED] = depth, in_string, escaped
    state[BASE], state[INSIDE], state[PARAGRAPHS] = base, inside, paragraphs
    state[POSITION] += len(text)
    return found
