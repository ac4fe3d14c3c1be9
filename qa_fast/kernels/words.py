"""Kernels that cut texts into units, number the distinct ones, and put the units' tokens back together.

A *unit* is a stretch of a text that the tokenizer treats the same wherever it stands. Where a text may be cut is told
by two tables: the class of each byte, and which class may be parted from which (see `encode.families`). Bytes beyond
ASCII are of a class that is never parted from anything, so that whatever a normaliser does across characters happens
inside one unit.

The set of distinct units is an open-addressing table of unit numbers over 64-bit hashes; equal hashes are compared byte
by byte, so nothing rests on luck. Each thread scans its own texts into its own set; the sets are merged afterwards.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from qa_fast.kernels.signature import BOOL, I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, VOID

U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
U64_OUT = types.Array(types.uint64, 1, "C", readonly=False)

OPAQUE, LETTER, DIGIT, PUNCTUATION, APOSTROPHE, SPACE, BREAK = range(7)
CLASSES = 7

# FNV-1a, 64 bits.
_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


@njit(inline="always")
def _same_bytes(left: np.ndarray, left_start: int, right: np.ndarray, right_start: int, size: int) -> bool:
    for i in range(size):  # noqa: SIM110, a generator costs more here
        if left[left_start + i] != right[right_start + i]:
            return False
    return True


@njit(inline="always")
def _spread(hashed: np.uint64, variant: int) -> np.uint64:
    """Mix in the variant, and bring the high bits down to where the table's mask looks."""
    hashed = (hashed ^ np.uint64(variant)) * _PRIME
    return hashed ^ (hashed >> np.uint64(32))


@njit(inline="always")
def _find_or_add(
    text: np.ndarray,
    start: int,
    size: int,
    variant: int,
    hashed: np.uint64,
    slots: np.ndarray,
    unit_hash: np.ndarray,
    unit_start: np.ndarray,
    unit_size: np.ndarray,
    unit_variant: np.ndarray,
    units: int,
) -> int:
    """The number of a unit of `text`; equals `units` where it is new and has been added."""
    mask = np.uint64(len(slots) - 1)
    slot = hashed & mask
    while slots[slot] >= 0:
        unit = slots[slot]
        if (
            unit_hash[unit] == hashed
            and unit_size[unit] == size
            and unit_variant[unit] == variant
            and _same_bytes(text, start, text, unit_start[unit], size)
        ):
            return unit
        slot = (slot + np.uint64(1)) & mask
    slots[slot] = units
    unit_hash[units] = hashed
    unit_start[units] = start
    unit_size[units] = size
    unit_variant[units] = variant
    return units


@njit(inline="always")
def _starts_with_any(text: np.ndarray, at: int, end: int, words: np.ndarray, word_offsets: np.ndarray) -> bool:
    for word in range(len(word_offsets) - 1):
        size = word_offsets[word + 1] - word_offsets[word]
        if at + size <= end and _same_bytes(text, at, words, word_offsets[word], size):
            return True
    return False


@njit(
    [
        I64(
            U8_IN, I64_IN, I64, I64, U8_IN, U8_IN, BOOL, I64, U8_IN, U8_IN, I64_IN,
            I32_OUT, U64_OUT, I64_OUT, I32_OUT, U8_OUT, I32_OUT, I32_OUT, I64_OUT, I64_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def scan_texts(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[U + 1]
    row_begin: int,
    row_end: int,
    classes: np.ndarray,  # uint8[256], class of each byte
    cuts: np.ndarray,  # uint8[CLASSES * CLASSES], 1 where a class may be parted from the next one
    drop_space: bool,  # leave out units of white space alone
    variant_mask: int,  # bit 0: a text's first unit differs; bit 1: its last one does
    is_trigger: np.ndarray,  # uint8[256], 1 for the first bytes of triggers
    triggers: np.ndarray,  # uint8[bytes], strings whose presence makes the whole text one unit
    trigger_offsets: np.ndarray,  # int64[triggers + 1]
    slots: np.ndarray,  # int32[capacity], a power of two, -1 where empty; updated
    out_unit_hash: np.ndarray,  # uint64[capacity / 2]
    out_unit_start: np.ndarray,  # int64[capacity / 2], first byte, in `text`
    out_unit_size: np.ndarray,  # int32[capacity / 2], bytes
    out_unit_variant: np.ndarray,  # uint8[capacity / 2]
    out_occurrence: np.ndarray,  # int32[bytes of the rows], unit numbers in text order
    out_char_start: np.ndarray,  # int32[bytes of the rows], first character of each occurrence in its text
    out_row_end: np.ndarray,  # int64[U], one past each text's last occurrence
    state: np.ndarray,  # int64[2], distinct units and occurrences so far; updated
) -> int:
    """Cut rows `row_begin:row_end` into units and number the distinct ones.

    Returns the first row not done: the caller enlarges the set and calls again. Cost: one pass over the bytes.
    """
    units = state[0]
    occurrences = state[1]
    row = row_begin
    while row < row_end:
        begin = offsets[row]
        end = offsets[row + 1]
        if units + (end - begin) > len(out_unit_hash):
            break
        first_occurrence = occurrences
        start = begin
        start_char = 0
        chars = 0
        solid = False
        whole = False
        hashed = _SEED
        previous = OPAQUE
        at = begin
        while at < end:
            byte = text[at]
            kind = classes[byte]
            if cuts[previous * CLASSES + kind] and at > start:
                if solid or not drop_space:
                    variant = variant_mask & 1 if start == begin else 0
                    unit = _find_or_add(
                        text, start, at - start, variant, _spread(hashed, variant), slots,
                        out_unit_hash, out_unit_start, out_unit_size, out_unit_variant, units,
                    )  # fmt: skip
                    units += unit == units
                    out_occurrence[occurrences] = unit
                    out_char_start[occurrences] = start_char
                    occurrences += 1
                start = at
                start_char = chars
                solid = False
                hashed = _SEED
            if is_trigger[byte] and _starts_with_any(text, at, end, triggers, trigger_offsets):
                whole = True
                break
            hashed = (hashed ^ np.uint64(byte)) * _PRIME
            solid |= kind < SPACE
            chars += (byte & 0xC0) != 0x80
            previous = kind
            at += 1
        variant = 0
        if whole:
            occurrences = first_occurrence
            start = begin
            start_char = 0
            hashed = _SEED
            for at in range(begin, end):
                hashed = (hashed ^ np.uint64(text[at])) * _PRIME
            solid = True
            variant = variant_mask
        else:
            variant = variant_mask & (3 if start == begin else 2)
        if end > start and (solid or not drop_space):
            unit = _find_or_add(
                text, start, end - start, variant, _spread(hashed, variant), slots,
                out_unit_hash, out_unit_start, out_unit_size, out_unit_variant, units,
            )  # fmt: skip
            units += unit == units
            out_occurrence[occurrences] = unit
            out_char_start[occurrences] = start_char
            occurrences += 1
        out_row_end[row] = occurrences
        row += 1
    state[0] = units
    state[1] = occurrences
    return row


@njit([VOID(U64_IN, I64, I32_OUT)], cache=True, nogil=True)
def fill_slots(
    unit_hash: np.ndarray,  # uint64[>= units]
    units: int,
    out_slots: np.ndarray,  # int32[capacity], all -1
) -> None:
    """Enter the units into an empty table. Cost: O(units)."""
    mask = np.uint64(len(out_slots) - 1)
    for unit in range(units):
        slot = unit_hash[unit] & mask
        while out_slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        out_slots[slot] = unit


@njit(
    [
        I64(
            U8_IN, U64_IN, I64_IN, I32_IN, U8_IN, I64, I64,
            I32_OUT, U64_OUT, I64_OUT, I32_OUT, U8_OUT, U8_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def merge_units(
    text: np.ndarray,  # uint8[bytes], what the scanned units lie in
    unit_hash: np.ndarray,  # uint64[scanned units]
    unit_start: np.ndarray,  # int64[scanned units]
    unit_size: np.ndarray,  # int32[scanned units]
    unit_variant: np.ndarray,  # uint8[scanned units]
    scanned: int,
    known: int,
    slots: np.ndarray,  # int32[capacity], set of known units; room for all scanned ones; updated
    known_hash: np.ndarray,  # uint64[capacity / 2]; updated, like all of known_…
    known_start: np.ndarray,  # int64[capacity / 2], first byte, in known_bytes
    known_size: np.ndarray,  # int32[capacity / 2]
    known_variant: np.ndarray,  # uint8[capacity / 2]
    known_bytes: np.ndarray,  # uint8[.], with room for all scanned ones
    out_number: np.ndarray,  # int32[scanned units], each one's number among the known
) -> int:
    """Look up scanned units among the known and add the new ones; the number known afterwards."""
    mask = np.uint64(len(slots) - 1)
    free = known_start[known - 1] + known_size[known - 1] if known > 0 else 0
    for number in range(scanned):
        hashed = unit_hash[number]
        size = unit_size[number]
        start = unit_start[number]
        slot = hashed & mask
        while True:
            unit = slots[slot]
            if unit < 0:
                slots[slot] = known
                known_hash[known] = hashed
                known_start[known] = free
                known_size[known] = size
                known_variant[known] = unit_variant[number]
                for i in range(size):
                    known_bytes[free + i] = text[start + i]
                free += size
                out_number[number] = known
                known += 1
                break
            if (
                known_hash[unit] == hashed
                and known_size[unit] == size
                and known_variant[unit] == unit_variant[number]
                and _same_bytes(text, start, known_bytes, known_start[unit], size)
            ):
                out_number[number] = unit
                break
            slot = (slot + np.uint64(1)) & mask
    return known


@njit([VOID(I32_IN, I32_IN, I64_IN, I64, I64, I64, I64_IN, I64_OUT)], cache=True, nogil=True)
def count_tokens(
    occurrence: np.ndarray,  # int32[.], unit numbers of the rows, as scanned
    number: np.ndarray,  # int32[scanned units], their numbers among the known
    row_end: np.ndarray,  # int64[U], one past each text's last occurrence
    base: int,  # first text of these occurrences
    row_begin: int,
    row_stop: int,
    token_offsets: np.ndarray,  # int64[known + 1], tokens of the known units
    out_counts: np.ndarray,  # int64[U]
) -> None:
    """Count the tokens of texts `row_begin:row_stop`. Cost: O(occurrences)."""
    at = row_end[row_begin - 1] if row_begin > base else 0
    for row in range(row_begin, row_stop):
        tokens = np.int64(0)
        while at < row_end[row]:
            unit = number[occurrence[at]]
            tokens += token_offsets[unit + 1] - token_offsets[unit]
            at += 1
        out_counts[row] = tokens


@njit(
    [
        VOID(
            I32_IN, I32_IN, I32_IN, I64_IN, I64, I64, I64, I64_IN, I32_IN, I32_IN, I32_IN, I64_IN,
            I32_OUT, I32_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def gather_tokens(
    occurrence: np.ndarray,  # int32[.], unit numbers of the rows, as scanned
    occurrence_char: np.ndarray,  # int32[.], first character of each occurrence in its text
    number: np.ndarray,  # int32[scanned units], their numbers among the known
    row_end: np.ndarray,  # int64[U]
    base: int,  # first text of these occurrences
    row_begin: int,
    row_stop: int,
    token_offsets: np.ndarray,  # int64[known + 1], tokens of the known units
    token_ids: np.ndarray,  # int32[.]
    token_start: np.ndarray,  # int32[.], characters from the unit's start
    token_end: np.ndarray,  # int32[.]
    text_offsets: np.ndarray,  # int64[U + 1], first token of each text
    out_ids: np.ndarray,  # int32[T]
    out_char_start: np.ndarray,  # int32[T]
    out_char_end: np.ndarray,  # int32[T]
) -> None:
    """Write the tokens of texts `row_begin:row_stop`. Cost: O(tokens)."""
    at = row_end[row_begin - 1] if row_begin > base else 0
    out = text_offsets[row_begin]
    for row in range(row_begin, row_stop):
        while at < row_end[row]:
            unit = number[occurrence[at]]
            shift = occurrence_char[at]
            for token in range(token_offsets[unit], token_offsets[unit + 1]):
                out_ids[out] = token_ids[token]
                out_char_start[out] = token_start[token] + shift
                out_char_end[out] = token_end[token] + shift
                out += 1
            at += 1
