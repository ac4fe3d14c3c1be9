"""A vocabulary as a hash table, and the look-up that tokenizers' kernels share.

Open addressing by the FNV-1a hash of a token's bytes, with a byte of the hash apart: an array small enough to stay in
the cache answers most look-ups that fail, which most do. A match is compared byte by byte. The hash grows with the
piece, so that all lengths of a piece are hashed in one pass over it; a set of bits, by the hash of every beginning of a
token, says when a piece cannot become a token however long it gets.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_OUT, I64_IN, U8_IN, U8_OUT, U64_OUT, VOID

_U = np.uint64
SEED, PRIME = _U(0xCBF29CE484222325), _U(0x100000001B3)
# 128 KB: a vocabulary of 30,000 tokens has about 100,000 beginnings.
BEGINNING_BITS = 20


@njit
def home(hashed: np.uint64, mask: np.uint64) -> np.uint64:
    """The slot where the search for a hash begins."""
    return (hashed ^ (hashed >> _U(32))) & mask


@njit
def tag(hashed: np.uint64) -> np.uint8:
    """A byte of the hash that is never 0, which marks an empty slot."""
    return np.uint8(hashed >> _U(56)) | np.uint8(1)


@njit
def begins_a_token(hashed: np.uint64, beginnings: np.ndarray) -> bool:
    """Whether some token may begin with a piece of this hash; False is certain."""
    bit = hashed >> _U(64 - BEGINNING_BITS)
    return (beginnings[bit >> _U(6)] >> (bit & _U(63))) & _U(1) != _U(0)


@njit([VOID(U8_IN, I64_IN, U8_OUT, U64_OUT, I32_OUT, U64_OUT)], cache=True, nogil=True)
def fill_vocabulary(
    text: np.ndarray,  # uint8[bytes] of the tokens
    offsets: np.ndarray,  # int64[V + 1]
    out_tag: np.ndarray,  # uint8[capacity], zeroed; capacity a power of two above V
    out_hash: np.ndarray,  # uint64[capacity]
    out_token: np.ndarray,  # int32[capacity], the token's row
    out_beginnings: np.ndarray,  # uint64[2 ** BEGINNING_BITS / 64], zeroed
) -> None:
    """Enter every token into the table. Cost: one pass over the bytes."""
    mask = _U(len(out_hash) - 1)
    for token in range(len(offsets) - 1):
        hashed = SEED
        for at in range(offsets[token], offsets[token + 1]):
            hashed = (hashed ^ _U(text[at])) * PRIME
            bit = hashed >> _U(64 - BEGINNING_BITS)
            out_beginnings[bit >> _U(6)] |= _U(1) << (bit & _U(63))
        slot = home(hashed, mask)
        while out_tag[slot] != 0:
            slot = (slot + _U(1)) & mask
        out_tag[slot] = tag(hashed)
        out_hash[slot] = hashed
        out_token[slot] = token
