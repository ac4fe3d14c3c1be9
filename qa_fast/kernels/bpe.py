"""Byte-level byte-pair encoding of plain units: an optional space, then letters, digits or marks alone.

Such a unit is one pre-token of GPT-2's pattern. Its bytes are merged pair by pair: the pair with the lowest rank first,
and of equal pairs the leftmost. All other units are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import (
    BOOL,
    I32_IN,
    I32_OUT,
    I32_ROWS_OUT,
    I64,
    I64_IN,
    I64_OUT,
    U8_IN,
    U8_OUT,
    U64_OUT,
    VOID,
    record,
)
from qa_fast.kernels.tokens import CHAR_END, CHAR_START, ID

_U = np.uint64
_ODD = _U(0x9E3779B97F4A7C15)
_NEVER = np.int32(2**31 - 1)  # rank of a pair that is not merged
_SPACE = 32


class MergeTables(NamedTuple):
    """The merges of a tokenizer.

    Attributes:
        kinds: uint8[256], equal for bytes that a plain unit may hold together; 0 for bytes of no plain unit.
        byte_ids: int32[256], the id of each byte's token; -1 if there is none.
        pairs: uint64[capacity], filled by `fill_pairs`, as the next one.
        ranks: int32[capacity].
        merged: int32[merges], the id that each merge makes.
        trims: Whether a leading space does not count to its token.
    """

    kinds: np.ndarray
    byte_ids: np.ndarray
    pairs: np.ndarray
    ranks: np.ndarray
    merged: np.ndarray
    trims: bool


class MergeScratch(NamedTuple):
    """The pieces of one unit.

    Attributes:
        ids: int32[longest unit that is done], like the others.
        ends: int32[.], one past the last byte of each piece.
        ranks: int32[.], the rank of each piece and the next one.
    """

    ids: np.ndarray
    ends: np.ndarray
    ranks: np.ndarray


_TABLES = record(MergeTables, U8_OUT, I32_OUT, U64_OUT, I32_OUT, I32_OUT, BOOL)
_SCRATCH = record(MergeScratch, I32_OUT, I32_OUT, I32_OUT)


@njit
def _pair(left: np.int32, right: np.int32) -> np.uint64:
    """Return both ids in a word that is never 0, which marks a free slot."""
    return (_U(left) << _U(32) | _U(right)) + _U(1)


@njit
def _home(pair: np.uint64, mask: np.uint64) -> np.uint64:
    mixed = pair * _ODD
    return (mixed >> _U(32)) & mask


@njit([VOID(I32_IN, I32_IN, U64_OUT, I32_OUT)], cache=True, nogil=True)
def fill_pairs(
    left: np.ndarray,  # int32[merges], ids, in the order of their rank
    right: np.ndarray,  # int32[merges]
    out_pairs: np.ndarray,  # uint64[capacity], zeroed; capacity is a power of two above the merges
    out_ranks: np.ndarray,  # int32[capacity]
) -> None:
    """Enter every merge into the table; if a pair comes twice, its later rank counts."""
    mask = _U(len(out_pairs) - 1)
    for rank in range(len(left)):
        pair = _pair(left[rank], right[rank])
        slot = _home(pair, mask)
        while out_pairs[slot] != _U(0) and out_pairs[slot] != pair:
            slot = (slot + _U(1)) & mask
        out_pairs[slot] = pair
        out_ranks[slot] = rank


@njit
def _rank(left: np.int32, right: np.int32, pairs: np.ndarray, ranks: np.ndarray) -> np.int32:
    """Return the rank of a pair of ids."""
    mask = _U(len(pairs) - 1)
    pair = _pair(left, right)
    slot = _home(pair, mask)
    while pairs[slot] != _U(0):
        if pairs[slot] == pair:
            return ranks[slot]
        slot = (slot + _U(1)) & mask
    return _NEVER


@njit(inline="always")
def _is_plain(text: np.ndarray, begin: int, end: int, lead: int, tables: MergeTables) -> bool:
    """Return whether the bytes `begin:end` have one kind, apart from the leading space, and a token each."""
    kind = tables.kinds[text[begin + lead]]
    plain = kind > 0
    at = begin
    while plain and at < end:
        plain = (tables.kinds[text[at]] == kind or at - begin < lead) and tables.byte_ids[text[at]] >= 0
        at += 1
    return plain


@njit(inline="always")
def _merge(text: np.ndarray, begin: int, size: int, tables: MergeTables, scratch: MergeScratch) -> int:
    """Write the pieces that a unit's bytes are merged to, and return how many there are."""
    ids, ends, ranks = scratch.ids, scratch.ends, scratch.ranks
    for i in range(size):
        ids[i] = tables.byte_ids[text[begin + i]]
        ends[i] = i + 1
    for i in range(size - 1):
        ranks[i] = _rank(ids[i], ids[i + 1], tables.pairs, tables.ranks)
    parts = size
    while parts > 1:
        best = 0
        for i in range(1, parts - 1):
            if ranks[i] < ranks[best]:
                best = i
        if ranks[best] == _NEVER:
            break
        ids[best] = tables.merged[ranks[best]]
        parts -= 1
        ends[best] = ends[best + 1]
        for i in range(best + 1, parts):
            ids[i] = ids[i + 1]
            ends[i] = ends[i + 1]
            ranks[i] = ranks[i + 1]
        if best > 0:
            ranks[best - 1] = _rank(ids[best - 1], ids[best], tables.pairs, tables.ranks)
        if best + 1 < parts:
            ranks[best] = _rank(ids[best], ids[best + 1], tables.pairs, tables.ranks)
    return parts


@njit([I64(U8_IN, I64_IN, I64_IN, _TABLES, _SCRATCH, U8_OUT, I64_OUT, I32_ROWS_OUT)], cache=True, nogil=True)
def merge_pairs(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    tables: MergeTables,
    scratch: MergeScratch,  # overwritten
    out_done: np.ndarray,  # uint8[U], 0 for units that were left out
    out_offsets: np.ndarray,  # int64[U + 1], first token of each unit
    out_tokens: np.ndarray,  # int32[bytes, 3], in characters of the unit
) -> int:
    """Merge the bytes of plain units into tokens and return the number of tokens.

    The scratch and the outputs must belong to this call alone. Cost: quadratic in the bytes of a unit.
    """
    tokens = np.int64(0)
    out_offsets[0] = 0
    for unit in range(len(begins)):
        begin = begins[unit]
        size = ends[unit] - begin
        lead = 1 if text[begin] == _SPACE and size > 1 else 0
        done = size <= len(scratch.ids) and _is_plain(text, begin, ends[unit], lead, tables)
        out_done[unit] = done
        if done:
            parts = _merge(text, begin, size, tables, scratch)
            start = np.int32(lead if tables.trims else 0)
            for i in range(parts):
                out_tokens[tokens, ID] = scratch.ids[i]
                out_tokens[tokens, CHAR_START] = start
                out_tokens[tokens, CHAR_END] = scratch.ends[i]
                tokens += 1
                start = scratch.ends[i]
        out_offsets[unit + 1] = tokens
    return tokens
