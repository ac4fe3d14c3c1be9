"""A vocabulary as a hash table, and the look-up that the tokenizers' kernels share.

The table uses open addressing by the FNV-1a hash of a token's bytes. One byte of each hash is kept in an array of its
own, which is small enough to stay in the cache and answers most look-ups, since most fail. A match is compared byte by
byte. The hash of a piece grows with the piece, so one pass over it hashes all of its lengths. A set of bits, indexed by
the hash of every beginning of a token, shows when neither a piece nor any extension of it can be a token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, U64_OUT, VOID, record

_U = np.uint64
SEED, PRIME = _U(0xCBF29CE484222325), _U(0x100000001B3)
# 128 KB: a vocabulary of 30,000 tokens has about 100,000 beginnings.
BEGINNING_BITS = 20


class Vocabulary(NamedTuple):
    """V tokens and the hash table over them.

    Attributes:
        text: uint8[bytes] of the tokens.
        offsets: int64[V + 1].
        ids: int32[V].
        longest: Bytes of the longest token.
        tags: uint8[capacity], a byte of the hash in each slot; 0 in a free one. Capacity is a power of two.
        hashes: uint64[capacity].
        rows: int32[capacity], the token in each slot.
        beginnings: uint64[2 ** BEGINNING_BITS / 64], which hashes begin a token.
    """

    text: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    longest: int
    tags: np.ndarray
    hashes: np.ndarray
    rows: np.ndarray
    beginnings: np.ndarray


VOCABULARY = record(Vocabulary, U8_OUT, I64_OUT, I32_OUT, I64, U8_OUT, U64_OUT, I32_OUT, U64_OUT)


@njit
def _home(hashed: np.uint64, mask: np.uint64) -> np.uint64:
    """Return the slot where the search for a hash begins."""
    return (hashed ^ (hashed >> _U(32))) & mask


@njit
def _tag(hashed: np.uint64) -> np.uint8:
    """Return a byte of the hash that is never 0."""
    return np.uint8(hashed >> _U(56)) | np.uint8(1)


@njit
def begins_a_token(hashed: np.uint64, beginnings: np.ndarray) -> bool:
    """Return whether some token may begin with a piece of this hash; False is certain."""
    bit = hashed >> _U(64 - BEGINNING_BITS)
    return (beginnings[bit >> _U(6)] >> (bit & _U(63))) & _U(1) != _U(0)


@njit(inline="always")
def _is_token(
    vocabulary: Vocabulary, row: int, prefix: np.ndarray, lead: int, text: np.ndarray, begin: int, size: int
) -> bool:
    place = vocabulary.offsets[row]
    same = vocabulary.offsets[row + 1] - place == lead + size
    if same:
        for i in range(lead):
            same &= vocabulary.text[place + i] == prefix[i]
        for i in range(size):
            same &= vocabulary.text[place + lead + i] == text[begin + i]
    return same


@njit(inline="always")
def find_token(
    vocabulary: Vocabulary,
    hashed: np.uint64,  # of the token
    prefix: np.ndarray,  # uint8[.]
    lead: int,  # how much of the prefix the token begins with
    text: np.ndarray,  # uint8[.], the token's other bytes from `begin` on
    begin: int,
    size: int,
) -> int:
    """Return the row of the token `prefix[:lead] + text[begin:begin + size]`; -1 if there is no such token."""
    mask = _U(len(vocabulary.hashes) - 1)
    slot = _home(hashed, mask)
    found = np.int64(-1)
    while vocabulary.tags[slot] != 0 and found < 0:
        if vocabulary.tags[slot] == _tag(hashed) and vocabulary.hashes[slot] == hashed:
            row = vocabulary.rows[slot]
            if _is_token(vocabulary, row, prefix, lead, text, begin, size):
                found = np.int64(row)
        slot = (slot + _U(1)) & mask
    return found


@njit([VOID(U8_IN, I64_IN, U8_OUT, U64_OUT, I32_OUT, U64_OUT)], cache=True, nogil=True)
def fill_vocabulary(
    text: np.ndarray,  # uint8[bytes] of the tokens
    offsets: np.ndarray,  # int64[V + 1]
    out_tags: np.ndarray,  # uint8[capacity], zeroed; capacity is a power of two above V
    out_hashes: np.ndarray,  # uint64[capacity]
    out_rows: np.ndarray,  # int32[capacity]
    out_beginnings: np.ndarray,  # uint64[2 ** BEGINNING_BITS / 64], zeroed
) -> None:
    """Enter every token into the table. Cost: one pass over the bytes."""
    mask = _U(len(out_hashes) - 1)
    for token in range(len(offsets) - 1):
        hashed = SEED
        for at in range(offsets[token], offsets[token + 1]):
            hashed = (hashed ^ _U(text[at])) * PRIME
            bit = hashed >> _U(64 - BEGINNING_BITS)
            out_beginnings[bit >> _U(6)] |= _U(1) << (bit & _U(63))
        slot = _home(hashed, mask)
        while out_tags[slot] != 0:
            slot = (slot + _U(1)) & mask
        out_tags[slot] = _tag(hashed)
        out_hashes[slot] = hashed
        out_rows[slot] = token
