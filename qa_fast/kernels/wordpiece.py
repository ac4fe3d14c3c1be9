"""Greedy longest-match WordPiece over ASCII words.

The vocabulary is an open-addressing table of tokens by the FNV-1a hash of their bytes, with a byte of the hash apart:
an array small enough to stay in the cache answers most look-ups that fail, which most do. A match is compared byte by
byte. The hash grows with the piece, so that all lengths of a piece are hashed in one pass over it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from qa_fast.kernels.signature import BOOL, I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, U64_IN, U64_OUT, VOID

_U = np.uint64
SEED, PRIME = _U(0xCBF29CE484222325), _U(0x100000001B3)


@njit
def _home(hashed: np.uint64, mask: np.uint64) -> np.uint64:
    return (hashed ^ (hashed >> _U(32))) & mask


@njit
def _tag(hashed: np.uint64) -> np.uint8:
    """A byte of the hash that is never 0, which marks an empty slot."""
    return np.uint8(hashed >> _U(56)) | np.uint8(1)


@njit([VOID(U8_IN, I64_IN, U8_OUT, U64_OUT, I32_OUT)], cache=True, nogil=True)
def fill_vocabulary(
    text: np.ndarray,  # uint8[bytes] of the tokens
    offsets: np.ndarray,  # int64[V + 1]
    out_tag: np.ndarray,  # uint8[capacity], zeroed; capacity a power of two above V
    out_hash: np.ndarray,  # uint64[capacity]
    out_token: np.ndarray,  # int32[capacity], the token's row
) -> None:
    """Enter every token into the table. Cost: one pass over the bytes."""
    mask = _U(len(out_hash) - 1)
    for token in range(len(offsets) - 1):
        hashed = SEED
        for at in range(offsets[token], offsets[token + 1]):
            hashed = (hashed ^ _U(text[at])) * PRIME
        slot = _home(hashed, mask)
        while out_tag[slot] != 0:
            slot = (slot + _U(1)) & mask
        out_tag[slot] = _tag(hashed)
        out_hash[slot] = hashed
        out_token[slot] = token


@njit([VOID(U8_IN, I64_IN, U8_IN, U8_OUT)], cache=True, nogil=True)
def find_words_of(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[U + 1]
    allowed: np.ndarray,  # uint8[256]
    out_only: np.ndarray,  # uint8[U], 1 for words made of allowed bytes alone
) -> None:
    """Find the words that are made of certain bytes alone. Cost: one pass over the bytes."""
    for word in range(len(offsets) - 1):
        only = np.uint8(1)
        for at in range(offsets[word], offsets[word + 1]):
            only &= allowed[text[at]]
        out_only[word] = only


@njit(
    [
        I64(
            U8_IN, I64_IN, I64_IN, BOOL, I64, I64, I64, U8_IN, U8_IN, I64_IN, I32_IN, U8_IN, U64_IN, I32_IN,
            U8_OUT, U64_OUT, I64_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def split_words(
    text: np.ndarray,  # uint8[bytes], ASCII
    begins: np.ndarray,  # int64[U], first byte of each word
    ends: np.ndarray,  # int64[U], one past its last
    lowercase: bool,
    longest_word: int,  # characters; a longer word is unknown
    longest_token: int,  # bytes, prefix included
    unknown_id: int,
    prefix: np.ndarray,  # uint8[.], what a continuing piece's token starts with
    token_text: np.ndarray,  # uint8[bytes]
    token_offsets: np.ndarray,  # int64[V + 1]
    token_ids: np.ndarray,  # int32[V]
    slot_tag: np.ndarray,  # uint8[capacity]
    slot_hash: np.ndarray,  # uint64[capacity]
    slot_token: np.ndarray,  # int32[capacity]
    scratch_word: np.ndarray,  # uint8[longest_word], overwritten
    scratch_hash: np.ndarray,  # uint64[longest_token + 1], overwritten
    out_offsets: np.ndarray,  # int64[U + 1], first token of each word
    out_tokens: np.ndarray,  # int32[3 * bytes]: id, first character and one past the last, from the word's start
) -> int:
    """Split words into the longest tokens from the left, or one unknown token where that fails.

    Returns the number of tokens. Cost: a look-up for each length of a piece that is longer than its token.
    """
    mask = _U(len(slot_hash) - 1)
    prefix_hash = SEED
    for i in range(len(prefix)):
        prefix_hash = (prefix_hash ^ _U(prefix[i])) * PRIME
    tokens = np.int64(0)
    out_offsets[0] = 0
    for word in range(len(begins)):
        size = ends[word] - begins[word]
        first = tokens
        known = size <= longest_word
        if known:
            for i in range(size):
                byte = text[begins[word] + i]
                scratch_word[i] = byte + np.uint8(32) * np.uint8(lowercase and 65 <= byte <= 90)
        start = np.int64(0)
        while known and start < size:
            lead = 0 if start == 0 else len(prefix)
            hashed = SEED if start == 0 else prefix_hash
            most = min(size - start, longest_token - lead)
            for i in range(most):
                hashed = (hashed ^ _U(scratch_word[start + i])) * PRIME
                scratch_hash[i + 1] = hashed
            known = False
            while most > 0 and not known:
                hashed = scratch_hash[most]
                slot = _home(hashed, mask)
                while slot_tag[slot] != 0 and not known:
                    if slot_tag[slot] == _tag(hashed) and slot_hash[slot] == hashed:
                        token = slot_token[slot]
                        place = token_offsets[token]
                        if token_offsets[token + 1] - place == lead + most:
                            known = True
                            for i in range(lead):
                                known &= token_text[place + i] == prefix[i]
                            for i in range(most):
                                known &= token_text[place + lead + i] == scratch_word[start + i]
                            if known:
                                out_tokens[3 * tokens] = token_ids[token]
                                out_tokens[3 * tokens + 1] = start
                                out_tokens[3 * tokens + 2] = start + most
                                tokens += 1
                                start += most
                    slot = (slot + _U(1)) & mask
                most -= 1
        if not known:
            tokens = first
            out_tokens[3 * tokens] = unknown_id
            out_tokens[3 * tokens + 1] = 0
            out_tokens[3 * tokens + 2] = size
            tokens += 1
        out_offsets[word + 1] = tokens
    return tokens
