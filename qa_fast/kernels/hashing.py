"""A set of byte strings that keeps 127 bits of hash of each, in 16 bytes.

Two of n different strings collide with a probability of about n^2 / 2^128, so no text is kept to compare. The caller
owns the table: `slots` uint64[2 * capacity], zeroed; capacity is a power of two and more than the entries.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I64_IN, U8_IN, U8_OUT, U64_IN, U64_OUT, VOID

# The first two primes of XXH64.
_PRIME_A = np.uint64(0x9E3779B185EBCA87)
_PRIME_B = np.uint64(0xC2B2AE3D27D4EB4F)


@njit(inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    """Spread every input bit over the word (multiply and shift, three rounds)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(inline="always")
def _insert(slots: np.ndarray, high: np.uint64, low: np.uint64) -> bool:
    """Put a hash into the table; return whether it was there before."""
    mask = np.uint64(len(slots) // 2 - 1)
    at = low & mask
    while True:
        if slots[2 * at] == 0 and slots[2 * at + 1] == 0:
            slots[2 * at] = high
            slots[2 * at + 1] = low
            return False
        if slots[2 * at] == high and slots[2 * at + 1] == low:
            return True
        at = (at + np.uint64(1)) & mask


@njit([VOID(U8_IN, I64_IN, U64_OUT)], cache=True, nogil=True)
def hash_texts(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[n + 1]
    out_hashes: np.ndarray,  # uint64[2 * n], high and low word of each string
) -> None:
    """Hash each string; a high word is odd, so no hash is zero. Cost: one pass over the bytes."""
    for row in range(len(offsets) - 1):
        end = np.uint64(offsets[row + 1])
        at = np.uint64(offsets[row])
        high = end - at
        low = high
        while at < end:
            word = np.uint64(0)
            if at + np.uint64(8) <= end:  # eight bytes at a time, which LLVM reads by one load
                for i in range(8):
                    word |= np.uint64(text[at + np.uint64(i)]) << np.uint64(8 * i)
            else:
                for i in range(end - at):
                    word |= np.uint64(text[at + i]) << (np.uint64(8) * i)
            high = (high ^ word) * _PRIME_A
            high ^= high >> np.uint64(29)
            low = (low + word) * _PRIME_B
            low ^= low >> np.uint64(32)
            at += np.uint64(8)
        out_hashes[2 * row] = _mixed(high) | np.uint64(1)
        out_hashes[2 * row + 1] = _mixed(low)


@njit([VOID(U64_IN, U64_OUT, U8_OUT)], cache=True, nogil=True)
def mark_repeats(
    hashes: np.ndarray,  # uint64[2 * n]
    slots: np.ndarray,  # uint64[2 * capacity], the set; new hashes are added
    out_repeated: np.ndarray,  # uint8[n], 1 if the hash was in the set already
) -> None:
    """Add each hash to the set and mark those that were in it. Cost: O(n)."""
    for row in range(len(hashes) // 2):
        out_repeated[row] = _insert(slots, hashes[2 * row], hashes[2 * row + 1])


@njit([VOID(U64_IN, U64_OUT)], cache=True, nogil=True)
def copy_set(
    slots: np.ndarray,  # uint64[2 * capacity]
    out_slots: np.ndarray,  # uint64[2 * larger capacity], zeroed
) -> None:
    """Insert every entry of one table into a larger one. Cost: O(capacity)."""
    for at in range(len(slots) // 2):
        if slots[2 * at] != 0 or slots[2 * at + 1] != 0:
            _insert(out_slots, slots[2 * at], slots[2 * at + 1])
