"""Unigram of plain units: characters that the normaliser leaves alone, behind a space or at the start of a text.

The best split is the one with the highest sum of scores, found from the left (Viterbi). Among equal sums it is the one
whose last piece is longest, since the first one found is kept. A unit with a character that is no token of its own is
left out, so no unknown token ever competes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import BOOL, F64_OUT, I32_OUT, I32_ROWS_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, record
from qa_fast.kernels.text import char_width, code_point
from qa_fast.kernels.tokens import CHAR_END, CHAR_START, ID
from qa_fast.kernels.vocabulary import PRIME, SEED, VOCABULARY, Vocabulary, begins_a_token, find_token

_U = np.uint64
_SPACE = 32


class SpaceRules(NamedTuple):
    """The settings by which Metaspace treats a unit.

    Attributes:
        allowed: uint8[code points], 1 for the characters that a plain unit may hold; later code points are not allowed.
        replacement: uint8[.], what replaces the space before a word.
        prepends: Whether the replacement is also put before a text that does not start with a space.
        parted: Whether the space itself belongs to no token.
    """

    allowed: np.ndarray
    replacement: np.ndarray
    prepends: bool
    parted: bool


class SplitScratch(NamedTuple):
    """One unit behind its replacement, and the best split of each of its beginnings.

    Attributes:
        text: uint8[longest unit + replacement + 1], like the others.
        chars: int32[.], the character after the replacement that each byte belongs to.
        scores: float64[.], the best sum of scores that ends before each byte.
        starts: int32[.], where the last piece of that split starts; -1 if there is no split.
        rows: int32[.], its token.
    """

    text: np.ndarray
    chars: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    rows: np.ndarray


_RULES = record(SpaceRules, U8_OUT, U8_OUT, BOOL, BOOL)
_SCRATCH = record(SplitScratch, U8_OUT, I32_OUT, F64_OUT, I32_OUT, I32_OUT)


@njit(inline="always")
def _read_plain(text: np.ndarray, begin: int, end: int, rules: SpaceRules, scratch: SplitScratch) -> int:
    """Write the bytes `begin:end` behind the replacement; return their size with it, or -1 if they are not plain."""
    at = begin
    size = np.int64(len(rules.replacement))
    char = np.int32(0)
    while at < end:
        width = char_width(text[at])
        code = code_point(text, at, width)
        if code >= len(rules.allowed) or rules.allowed[code] == 0:
            size = np.int64(-1)
            break
        for i in range(width):
            scratch.text[size] = text[at + i]
            scratch.chars[size] = char
            size += 1
        at += width
        char += 1
    if size >= 0:
        scratch.chars[size] = char
    return size


@njit(inline="always")
def _find_split(
    scratch: SplitScratch, size: int, lead: int, vocabulary: Vocabulary, scores: np.ndarray, prefix: np.ndarray
) -> bool:
    """Find the best split of `scratch.text[:size]`, whose first `lead` bytes count as one character.

    Returns whether each character is a token of its own.
    """
    word, _, sums, starts, rows = scratch
    for i in range(size + 1):
        starts[i] = -1
    sums[0] = 0.0
    plain = True
    start = 0
    while plain and start < size:
        width = lead if start == 0 else char_width(word[start])
        plain = False
        hashed = SEED
        for end in range(start + 1, min(size, start + vocabulary.longest) + 1):
            hashed = (hashed ^ _U(word[end - 1])) * PRIME
            if not begins_a_token(hashed, vocabulary.beginnings):
                break
            row = find_token(vocabulary, hashed, prefix, 0, word, start, end - start)
            if row >= 0:
                score = sums[start] + scores[row]
                if starts[end] < 0 or score > sums[end]:
                    sums[end] = score
                    starts[end] = start
                    rows[end] = row
                plain |= end - start == width
        start += width
    return plain


@njit(
    [I64(U8_IN, I64_IN, I64_IN, _RULES, VOCABULARY, F64_OUT, _SCRATCH, U8_OUT, I64_OUT, I32_ROWS_OUT)],
    cache=True,
    nogil=True,
)
def split_units(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    rules: SpaceRules,
    vocabulary: Vocabulary,
    scores: np.ndarray,  # float64[V]
    scratch: SplitScratch,  # overwritten
    out_done: np.ndarray,  # uint8[U], 0 for units that were left out
    out_offsets: np.ndarray,  # int64[U + 1], first token of each unit
    out_tokens: np.ndarray,  # int32[bytes + U, 3], in characters of the unit
) -> int:
    """Split plain units and return the number of tokens.

    The scratch and the outputs must belong to this call alone. Cost: a look-up for each piece of up to
    `vocabulary.longest` bytes.
    """
    lead = len(rules.replacement)
    tokens = np.int64(0)
    out_offsets[0] = 0
    for i in range(lead):
        scratch.text[i] = rules.replacement[i]
    for unit in range(len(begins)):
        space = np.int64(text[begins[unit]] == _SPACE)
        begin = begins[unit] + space
        size = np.int64(-1)
        if begin < ends[unit] and (space == 1 or rules.prepends):
            size = _read_plain(text, begin, ends[unit], rules, scratch)
        done = size >= 0 and _find_split(scratch, size, lead, vocabulary, scores, rules.replacement)
        out_done[unit] = done
        if done:
            end = size
            while end > 0:
                tokens += 1
                end = scratch.starts[end]
            # The replacement counts to the first character; the space does unless it is separate from the word.
            first = space if rules.parted else np.int64(0)
            at = tokens
            end = size
            while end > 0:
                at -= 1
                start = scratch.starts[end]
                out_tokens[at, ID] = vocabulary.ids[scratch.rows[end]]
                out_tokens[at, CHAR_START] = scratch.chars[start] + space if start > 0 else first
                out_tokens[at, CHAR_END] = max(scratch.chars[end] + space, first + 1)
                end = start
        out_offsets[unit + 1] = tokens
    return tokens
