"""Greedy longest-match WordPiece over ASCII words.

The vocabulary is an open-addressing table of token ids by the FNV-1a hash of the token's bytes; a match is compared
byte by byte. The hash grows with the piece, so that all lengths of a piece are tried in one pass over it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from qa_fast.kernels.signature import BOOL, I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, VOID
from qa_fast.kernels.words import U64_IN, U64_OUT

SEED, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@njit([VOID(U8_IN, I64_IN, U64_OUT, I32_OUT)], cache=True, nogil=True)
def fill_vocabulary(
    text: np.ndarray,  # uint8[bytes] of the tokens
    offsets: np.ndarray,  # int64[V + 1]
    out_hash: np.ndarray,  # uint64[capacity], a power of two above V
    out_token: np.ndarray,  # int32[capacity], filled with -1; the token's row
) -> None:
    """Enter every token into the table. Cost: one pass over the bytes."""
    mask = np.uint64(len(out_hash) - 1)
    for token in range(len(offsets) - 1):
        hashed = SEED
        for at in range(offsets[token], offsets[token + 1]):
            hashed = (hashed ^ np.uint64(text[at])) * PRIME
        slot = (hashed ^ (hashed >> np.uint64(32))) & mask
        while out_token[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        out_hash[slot] = hashed
        out_token[slot] = token


@njit(
    [
        I64(
            U8_IN, I64_IN, BOOL, I64, I64, I64, U8_IN, U8_IN, I64_IN, I32_IN, U64_IN, I32_IN,
            I64_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def split_words(
    text: np.ndarray,  # uint8[bytes], ASCII
    offsets: np.ndarray,  # int64[U + 1], one word each
    lowercase: bool,
    longest_word: int,  # characters; a longer word is unknown
    longest_token: int,  # bytes, prefix included
    unknown_id: int,
    prefix: np.ndarray,  # uint8[.], what a continuing piece's token starts with
    token_text: np.ndarray,  # uint8[bytes]
    token_offsets: np.ndarray,  # int64[V + 1]
    token_ids: np.ndarray,  # int32[V]
    slot_hash: np.ndarray,  # uint64[capacity]
    slot_token: np.ndarray,  # int32[capacity]
    out_offsets: np.ndarray,  # int64[U + 1], first token of each word
    out_tokens: np.ndarray,  # int32[3 * bytes]: id, first character and one past the last, from the word's start
) -> int:
    """Split words into the longest tokens from the left, or one unknown token where that fails.

    Returns the number of tokens. Cost: for each piece, a look-up a character up to `longest_token`.
    """
    mask = np.uint64(len(slot_hash) - 1)
    prefix_hash = SEED
    for i in range(len(prefix)):
        prefix_hash = (prefix_hash ^ np.uint64(prefix[i])) * PRIME
    tokens = np.int64(0)
    out_offsets[0] = 0
    for word in range(len(offsets) - 1):
        begin = offsets[word]
        end = offsets[word + 1]
        first = tokens
        start = begin
        known = end - begin <= longest_word
        while known and start < end:
            lead = 0 if start == begin else len(prefix)
            hashed = SEED if start == begin else prefix_hash
            best = np.int64(-1)
            best_end = start
            at = start
            while at < end and at - start + lead < longest_token:
                byte = text[at]
                if lowercase and 65 <= byte <= 90:
                    byte += 32
                hashed = (hashed ^ np.uint64(byte)) * PRIME
                at += 1
                slot = (hashed ^ (hashed >> np.uint64(32))) & mask
                while slot_token[slot] >= 0:
                    token = slot_token[slot]
                    place = token_offsets[token]
                    if slot_hash[slot] == hashed and token_offsets[token + 1] - place == at - start + lead:
                        same = True
                        for i in range(lead):
                            same &= token_text[place + i] == prefix[i]
                        for i in range(at - start):
                            byte = text[start + i]
                            if lowercase and 65 <= byte <= 90:
                                byte += 32
                            same &= token_text[place + lead + i] == byte
                        if same:
                            best = token
                            best_end = at
                            break
                    slot = (slot + np.uint64(1)) & mask
            known = best >= 0
            if known:
                out_tokens[3 * tokens] = token_ids[best]
                out_tokens[3 * tokens + 1] = start - begin
                out_tokens[3 * tokens + 2] = best_end - begin
                tokens += 1
                start = best_end
        if not known:
            tokens = first
            out_tokens[3 * tokens] = unknown_id
            out_tokens[3 * tokens + 1] = 0
            out_tokens[3 * tokens + 2] = end - begin
            tokens += 1
        out_offsets[word + 1] = tokens
    return tokens
