"""Unigram of plain units: characters that the normaliser leaves alone, behind a space or at a text's start.

The best split is that of the highest sum of scores, found from the left (Viterbi); of equal sums the one whose last
piece is longest, as adding from the left and keeping the first decides. A unit with a character that is no token of its
own is left out, so that no unknown token ever competes.
"""

from __future__ import annotations

import numpy as np
from numba import types

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import BOOL, I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, U64_IN
from qa_fast.kernels.text import char_width, code_point
from qa_fast.kernels.vocabulary import PRIME, SEED, begins_a_token, home, tag

_U = np.uint64
_F64_IN = types.Array(types.float64, 1, "C", readonly=True)
_F64_OUT = types.Array(types.float64, 1, "C", readonly=False)


@njit(
    [
        I64(
            U8_IN, I64_IN, I64_IN, U8_IN, U8_IN, BOOL, BOOL, I64, U8_IN, I64_IN, I32_IN, _F64_IN, U8_IN, U64_IN, I32_IN,
            U64_IN, U8_OUT, I32_OUT, _F64_OUT, I32_OUT, I32_OUT, U8_OUT, I64_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def split_units(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    allowed: np.ndarray,  # uint8[code points], 1 for the characters that a plain unit may hold; none beyond
    replacement: np.ndarray,  # uint8[.], what stands for the space
    prepends: bool,  # whether it is also put before a text that does not start with a space
    parted: bool,  # whether the space itself is dropped and counts to no token
    longest_token: int,  # bytes
    token_text: np.ndarray,  # uint8[bytes]
    token_offsets: np.ndarray,  # int64[V + 1]
    token_ids: np.ndarray,  # int32[V]
    scores: np.ndarray,  # float64[V]
    slot_tag: np.ndarray,  # uint8[capacity]
    slot_hash: np.ndarray,  # uint64[capacity]
    slot_token: np.ndarray,  # int32[capacity]
    beginnings: np.ndarray,  # uint64[.], see kernels.vocabulary
    scratch_text: np.ndarray,  # uint8[longest unit + replacement], overwritten, like the next four
    scratch_char: np.ndarray,  # int32[. + 1]
    scratch_score: np.ndarray,  # float64[. + 1]
    scratch_start: np.ndarray,  # int32[. + 1]
    scratch_token: np.ndarray,  # int32[. + 1]
    out_done: np.ndarray,  # uint8[U], 0 for units that were left out
    out_offsets: np.ndarray,  # int64[U + 1], first token of each unit
    out_tokens: np.ndarray,  # int32[3 * (bytes + U)]: id, first character and one past the last, in the unit
) -> int:
    """Split plain units; the number of tokens. Cost: a look-up for each piece of up to `longest_token` bytes."""
    mask = _U(len(slot_hash) - 1)
    lead = len(replacement)
    tokens = np.int64(0)
    out_offsets[0] = 0
    for i in range(lead):
        scratch_text[i] = replacement[i]
    for unit in range(len(begins)):
        space = np.int64(text[begins[unit]] == 32)
        begin = begins[unit] + space
        first = space if parted else np.int64(0)
        plain = begin < ends[unit] and (space == 1 or prepends)
        at = begin
        char = np.int32(0)
        while plain and at < ends[unit]:
            width = char_width(text[at])
            code = code_point(text, at, width)
            plain = code < len(allowed) and allowed[code] == 1
            for i in range(width):
                scratch_text[lead + at - begin + i] = text[at + i]
                scratch_char[lead + at - begin + i] = char
            at += width
            char += 1
        size = lead + at - begin
        scratch_char[size] = char
        if plain:
            for i in range(size + 1):
                scratch_start[i] = -1
            scratch_score[0] = 0.0
        start = 0
        while plain and start < size:
            width = lead if start == 0 else char_width(scratch_text[start])
            single = False
            hashed = SEED
            for end in range(start + 1, min(size, start + longest_token) + 1):
                hashed = (hashed ^ _U(scratch_text[end - 1])) * PRIME
                if not begins_a_token(hashed, beginnings):
                    break
                slot = home(hashed, mask)
                while slot_tag[slot] != 0:
                    if slot_tag[slot] == tag(hashed) and slot_hash[slot] == hashed:
                        token = slot_token[slot]
                        place = token_offsets[token]
                        same = token_offsets[token + 1] - place == end - start
                        i = 0
                        while same and i < end - start:
                            same = token_text[place + i] == scratch_text[start + i]
                            i += 1
                        if same:
                            score = scratch_score[start] + scores[token]
                            if scratch_start[end] < 0 or score > scratch_score[end]:
                                scratch_score[end] = score
                                scratch_start[end] = start
                                scratch_token[end] = token
                            single |= end - start == width
                            break
                    slot = (slot + _U(1)) & mask
            plain = single
            start += width
        out_done[unit] = plain
        if plain:
            count = 0
            end = size
            while end > 0:
                count += 1
                end = scratch_start[end]
            tokens += count
            end = size
            at = tokens
            while end > 0:
                at -= 1
                start = scratch_start[end]
                out_tokens[3 * at] = token_ids[scratch_token[end]]
                # What is put before a text counts to its first character.
                out_tokens[3 * at + 1] = scratch_char[start] + space if start > 0 else first
                out_tokens[3 * at + 2] = max(scratch_char[end] + space, first + 1)
                end = start
        out_offsets[unit + 1] = tokens
    return tokens
