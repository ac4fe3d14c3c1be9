"""Byte-level byte-pair encoding of plain units: an optional space and letters, digits or marks alone.

Such a unit is one pre-token of GPT-2's pattern. Its bytes are merged pair by pair, the pair that was learnt first
before all others and the leftmost of equals. Everything else is left out.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import BOOL, I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, U64_IN, U64_OUT, VOID

_U = np.uint64
_ODD = _U(0x9E3779B97F4A7C15)
_NEVER = np.int32(2**31 - 1)  # rank of a pair that is not merged


@njit
def _pair(left: np.int32, right: np.int32) -> np.uint64:
    """Both ids in a word that is never 0, which marks an empty slot."""
    return (_U(left) << _U(32) | _U(right)) + _U(1)


@njit
def _home(pair: np.uint64, mask: np.uint64) -> np.uint64:
    mixed = pair * _ODD
    return (mixed >> _U(32)) & mask


@njit([VOID(I32_IN, I32_IN, U64_OUT, I32_OUT)], cache=True, nogil=True)
def fill_pairs(
    left: np.ndarray,  # int32[merges], ids, in the order of their rank
    right: np.ndarray,  # int32[merges]
    out_pair: np.ndarray,  # uint64[capacity], zeroed; capacity a power of two above the merges
    out_rank: np.ndarray,  # int32[capacity]
) -> None:
    """Enter every merge into the table; of a pair that comes twice, the later rank counts."""
    mask = _U(len(out_pair) - 1)
    for rank in range(len(left)):
        pair = _pair(left[rank], right[rank])
        slot = _home(pair, mask)
        while out_pair[slot] != _U(0) and out_pair[slot] != pair:
            slot = (slot + _U(1)) & mask
        out_pair[slot] = pair
        out_rank[slot] = rank


@njit
def _rank(left: np.int32, right: np.int32, pairs: np.ndarray, ranks: np.ndarray) -> np.int32:
    mask = _U(len(pairs) - 1)
    pair = _pair(left, right)
    slot = _home(pair, mask)
    while pairs[slot] != _U(0):
        if pairs[slot] == pair:
            return ranks[slot]
        slot = (slot + _U(1)) & mask
    return _NEVER


@njit(
    [
        I64(
            U8_IN, I64_IN, I64_IN, U8_IN, I32_IN, U64_IN, I32_IN, I32_IN, BOOL,
            I32_OUT, I32_OUT, I32_OUT, U8_OUT, I64_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def merge_pairs(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    kinds: np.ndarray,  # uint8[256], equal for bytes that a unit may hold together; 0 for those of no plain unit
    byte_ids: np.ndarray,  # int32[256], id of each byte's token; -1: none
    pairs: np.ndarray,  # uint64[capacity], from fill_pairs
    ranks: np.ndarray,  # int32[capacity]
    merged: np.ndarray,  # int32[merges], id that each merge makes
    trims: bool,  # whether a leading space is not counted to its token
    scratch_id: np.ndarray,  # int32[longest unit that is done], overwritten, like the next two
    scratch_end: np.ndarray,  # int32[.]
    scratch_rank: np.ndarray,  # int32[.]
    out_done: np.ndarray,  # uint8[U], 0 for units that were left out
    out_offsets: np.ndarray,  # int64[U + 1], first token of each unit
    out_tokens: np.ndarray,  # int32[3 * bytes]: id, first character and one past the last, from the unit's start
) -> int:
    """Merge the bytes of plain units into tokens; the number of tokens. Cost: quadratic in a unit's bytes."""
    tokens = np.int64(0)
    out_offsets[0] = 0
    for unit in range(len(begins)):
        begin = begins[unit]
        size = ends[unit] - begin
        lead = 1 if text[begin] == 32 and size > 1 else 0
        kind = kinds[text[begin + lead]]
        plain = kind > 0 and size <= len(scratch_id)
        at = begin
        while plain and at < ends[unit]:
            plain = (kinds[text[at]] == kind or at - begin < lead) and byte_ids[text[at]] >= 0
            at += 1
        out_done[unit] = plain
        if plain:
            for i in range(size):
                scratch_id[i] = byte_ids[text[begin + i]]
                scratch_end[i] = i + 1
            for i in range(size - 1):
                scratch_rank[i] = _rank(scratch_id[i], scratch_id[i + 1], pairs, ranks)
            parts = size
            while parts > 1:
                best = 0
                for i in range(1, parts - 1):
                    if scratch_rank[i] < scratch_rank[best]:
                        best = i
                if scratch_rank[best] == _NEVER:
                    break
                scratch_id[best] = merged[scratch_rank[best]]
                parts -= 1
                scratch_end[best] = scratch_end[best + 1]
                for i in range(best + 1, parts):
                    scratch_id[i] = scratch_id[i + 1]
                    scratch_end[i] = scratch_end[i + 1]
                    scratch_rank[i] = scratch_rank[i + 1]
                if best > 0:
                    scratch_rank[best - 1] = _rank(scratch_id[best - 1], scratch_id[best], pairs, ranks)
                if best + 1 < parts:
                    scratch_rank[best] = _rank(scratch_id[best], scratch_id[best + 1], pairs, ranks)
            start = np.int32(lead if trims else 0)
            for i in range(parts):
                out_tokens[3 * tokens] = scratch_id[i]
                out_tokens[3 * tokens + 1] = start
                out_tokens[3 * tokens + 2] = scratch_end[i]
                tokens += 1
                start = scratch_end[i]
        out_offsets[unit + 1] = tokens
    return tokens
