"""Kernels that cut texts into units, number the distinct ones, and put the units' tokens back together.

A *unit* is a stretch of a text that the tokenizer treats the same wherever it stands. Where a text may be cut is told
by two tables: the class of each byte, and which class may be parted from which (see `encode.families`). Bytes beyond
ASCII are of a class that is never parted from anything, so that whatever a normaliser does across characters happens
inside one unit.

The set of distinct units is an open-addressing table. A slot is two words side by side, so that a look-up touches one
line of the cache: the hash, and the unit's number and size. The hash of a unit of up to seven bytes is a one-to-one
function of them; longer units with equal hashes are compared byte by byte. So nothing rests on luck. Each thread scans
its own texts into its own set; the sets are merged afterwards.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from qa_fast.kernels.signature import BOOL, I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, VOID

U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
U64_OUT = types.Array(types.uint64, 1, "C", readonly=False)

OPAQUE, LETTER, DIGIT, PUNCTUATION, APOSTROPHE, SPACE, BREAK, END = range(8)
CLASSES = 8
WHOLE = 4  # variant of a text that is one unit because of a trigger in it
TRIGGER = 64  # added to the class of a byte that a trigger starts with

_SHORT = 7  # bytes that fit into a hash, beside size and variant
_FNV_SEED, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_ODD_A, _ODD_B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@njit
def _same_bytes(left: np.ndarray, left_start: int, right: np.ndarray, right_start: int, size: int) -> bool:
    for i in range(size):  # noqa: SIM110, a generator costs more here
        if left[left_start + i] != right[right_start + i]:
            return False
    return True


@njit
def _hash(text: np.ndarray, start: int, size: int, variant: int) -> np.uint64:
    """A unit's hash: one-to-one for short units, since every step of the mixing can be undone.

    Eight bytes are read whatever the size, and masked: a loop to the size would be mispredicted once a word.
    """
    if size <= _SHORT:
        key = np.uint64(0)
        if start + 8 <= len(text):
            for i in range(8):
                key |= np.uint64(text[start + i]) << np.uint64(8 * i)
            key &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
        else:
            for i in range(size):
                key |= np.uint64(text[start + i]) << np.uint64(8 * i)
        key |= np.uint64(size | variant << 3) << np.uint64(56)
    else:
        key = _FNV_SEED ^ np.uint64(variant)
        for i in range(size):
            key = (key ^ np.uint64(text[start + i])) * _FNV_PRIME
    key = (key ^ (key >> np.uint64(32))) * _ODD_A
    key = (key ^ (key >> np.uint64(29))) * _ODD_B
    return key ^ (key >> np.uint64(32))


@njit
def _slot_word(unit: int, size: int) -> np.uint64:
    """Number and size of a unit in one word that is never 0, which marks an empty slot."""
    return np.uint64(unit + 1) | np.uint64(size) << np.uint64(32)


@njit
def _starts_with_any(text: np.ndarray, at: int, end: int, words: np.ndarray, word_offsets: np.ndarray) -> bool:
    for word in range(len(word_offsets) - 1):
        size = word_offsets[word + 1] - word_offsets[word]
        if at + size <= end and _same_bytes(text, at, words, word_offsets[word], size):
            return True
    return False


@njit(
    [
        I64(
            U8_IN, I64_IN, I64, I64, U8_IN, U8_IN, BOOL, I64, U8_IN, I64_IN,
            U64_OUT, U64_OUT, I64_OUT, I32_OUT, U8_OUT, I32_OUT, I32_OUT, I64_OUT, I64_OUT, I32_OUT, I64_OUT,
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
    classes: np.ndarray,  # uint8[256], class of each byte, TRIGGER added where a trigger starts with it
    cuts: np.ndarray,  # uint8[CLASSES * CLASSES], 1 where a class may be parted from the next one; from END always
    drop_space: bool,  # leave out units of one white-space character
    variant_mask: int,  # bit 0: a text's first unit differs; bit 1: its last one does
    triggers: np.ndarray,  # uint8[bytes], strings whose presence makes the whole text one unit
    trigger_offsets: np.ndarray,  # int64[triggers + 1]
    slots: np.ndarray,  # uint64[2 * capacity], the set, capacity a power of two; updated
    out_unit_hash: np.ndarray,  # uint64[capacity / 2]
    out_unit_start: np.ndarray,  # int64[capacity / 2], first byte, in `text`
    out_unit_size: np.ndarray,  # int32[capacity / 2], bytes
    out_unit_variant: np.ndarray,  # uint8[capacity / 2]
    out_occurrence: np.ndarray,  # int32[bytes of the rows], unit numbers in text order
    out_char_start: np.ndarray,  # int32[bytes of the rows], first character of each occurrence in its text
    out_row_end: np.ndarray,  # int64[U], one past each text's last occurrence
    scratch_start: np.ndarray,  # int64[longest text + 1], overwritten
    scratch_char: np.ndarray,  # int32[longest text + 1], overwritten
    state: np.ndarray,  # int64[2], distinct units and occurrences so far; updated
) -> int:
    """Cut rows `row_begin:row_end` into units and number the distinct ones.

    Returns the first row not done: the caller enlarges the set and calls again. Cost: one pass over the bytes.
    """
    units = state[0]
    occurrences = state[1]
    mask = np.uint64(len(slots) // 2 - 1)
    row = row_begin
    while row < row_end:
        begin = offsets[row]
        end = offsets[row + 1]
        if units + (end - begin) > len(out_unit_hash):
            break
        # First the cuts, without a branch a byte but the trigger's: whether a byte is one is anybody's guess, and a
        # wrong guess costs more than a store that the next one overwrites.
        parts = np.int64(0)
        chars = np.int32(0)
        previous = np.uint8(END)
        whole = False
        for at in range(begin, end):
            byte = text[at]
            kind = classes[byte]
            if kind >= TRIGGER:
                if _starts_with_any(text, at, end, triggers, trigger_offsets):
                    whole = True
                    break
                kind -= np.uint8(TRIGGER)
            scratch_start[parts] = at
            scratch_char[parts] = chars
            parts += cuts[np.int64(previous) * CLASSES + kind]
            chars += (byte & 0xC0) != 0x80
            previous = kind
        if whole:
            parts = np.int64(1)
            scratch_start[0] = begin
            scratch_char[0] = 0
        scratch_start[parts] = end
        # Then the units between them.
        for part in range(parts):
            start = scratch_start[part]
            size = scratch_start[part + 1] - start
            if drop_space and size == 1 and classes[text[start]] & (TRIGGER - 1) >= SPACE:
                continue
            variant = np.int64(0)
            if whole:
                variant = np.int64(WHOLE)
            elif variant_mask:
                if part == 0:
                    variant |= variant_mask & 1
                if part == parts - 1:
                    variant |= variant_mask & 2
            # The look-up stands here and in merge_units in full: as a function it is not inlined, and handing over that
            # many arrays costs three times the look-up itself.
            hashed = _hash(text, start, size, variant)
            slot = hashed & mask
            unit = np.int64(-1)
            while unit < 0:
                word = slots[2 * slot + np.uint64(1)]
                if word == np.uint64(0):
                    slots[2 * slot] = hashed
                    slots[2 * slot + np.uint64(1)] = _slot_word(units, size)
                    out_unit_hash[units] = hashed
                    out_unit_start[units] = start
                    out_unit_size[units] = size
                    out_unit_variant[units] = variant
                    unit = units
                    units += 1
                elif slots[2 * slot] == hashed and np.int64(word >> np.uint64(32)) == size:
                    found = np.int64(word & np.uint64(0xFFFFFFFF)) - 1
                    if size <= _SHORT or (
                        out_unit_variant[found] == variant
                        and _same_bytes(text, start, text, out_unit_start[found], size)
                    ):
                        unit = found
                slot = (slot + np.uint64(1)) & mask
            out_occurrence[occurrences] = unit
            out_char_start[occurrences] = scratch_char[part]
            occurrences += 1
        out_row_end[row] = occurrences
        row += 1
    state[0] = units
    state[1] = occurrences
    return row


@njit([VOID(U64_IN, I32_IN, I64, U64_OUT)], cache=True, nogil=True)
def fill_slots(
    unit_hash: np.ndarray,  # uint64[>= units]
    unit_size: np.ndarray,  # int32[>= units]
    units: int,
    out_slots: np.ndarray,  # uint64[2 * capacity], zeroed
) -> None:
    """Enter the units into an empty table. Cost: O(units)."""
    mask = np.uint64(len(out_slots) // 2 - 1)
    for unit in range(units):
        slot = unit_hash[unit] & mask
        while out_slots[2 * slot + np.uint64(1)] != np.uint64(0):
            slot = (slot + np.uint64(1)) & mask
        out_slots[2 * slot] = unit_hash[unit]
        out_slots[2 * slot + np.uint64(1)] = _slot_word(unit, unit_size[unit])


@njit(
    [
        I64(
            U8_IN, U64_IN, I64_IN, I32_IN, U8_IN, I64, I64,
            U64_OUT, U64_OUT, I64_OUT, I32_OUT, U8_OUT, U8_OUT, I32_OUT,
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
    slots: np.ndarray,  # uint64[2 * capacity], set of known units, with room for all scanned ones; updated
    known_hash: np.ndarray,  # uint64[capacity / 2]; updated, like all of known_…
    known_start: np.ndarray,  # int64[capacity / 2], first byte, in known_bytes
    known_size: np.ndarray,  # int32[capacity / 2]
    known_variant: np.ndarray,  # uint8[capacity / 2]
    known_bytes: np.ndarray,  # uint8[.], with room for all scanned ones
    out_number: np.ndarray,  # int32[scanned units], each one's number among the known
) -> int:
    """Look up scanned units among the known and add the new ones; the number known afterwards."""
    free = known_start[known - 1] + known_size[known - 1] if known > 0 else 0
    mask = np.uint64(len(slots) // 2 - 1)
    for scanned_unit in range(scanned):
        hashed = unit_hash[scanned_unit]
        size = np.int64(unit_size[scanned_unit])
        start = unit_start[scanned_unit]
        variant = unit_variant[scanned_unit]
        slot = hashed & mask
        unit = np.int64(-1)
        while unit < 0:
            word = slots[2 * slot + np.uint64(1)]
            if word == np.uint64(0):
                slots[2 * slot] = hashed
                slots[2 * slot + np.uint64(1)] = _slot_word(known, size)
                known_hash[known] = hashed
                known_start[known] = free
                known_size[known] = size
                known_variant[known] = variant
                for i in range(size):
                    known_bytes[free + i] = text[start + i]
                free += size
                unit = known
                known += 1
            elif slots[2 * slot] == hashed and np.int64(word >> np.uint64(32)) == size:
                found = np.int64(word & np.uint64(0xFFFFFFFF)) - 1
                if size <= _SHORT or (
                    known_variant[found] == variant and _same_bytes(text, start, known_bytes, known_start[found], size)
                ):
                    unit = found
            slot = (slot + np.uint64(1)) & mask
        out_number[scanned_unit] = unit
    return known


@njit([VOID(I32_IN, I32_IN, I64_IN, I64, I64, I64_IN, I64_OUT)], cache=True, nogil=True)
def count_tokens(
    occurrence: np.ndarray,  # int32[.], unit numbers of the rows, as scanned
    number: np.ndarray,  # int32[scanned units], their numbers among the known
    row_end: np.ndarray,  # int64[U], one past each text's last occurrence
    row_begin: int,
    row_stop: int,
    token_offsets: np.ndarray,  # int64[known + 1], tokens of the known units
    out_counts: np.ndarray,  # int64[U]
) -> None:
    """Count the tokens of texts `row_begin:row_stop`, whose occurrences these are. Cost: O(occurrences)."""
    at = 0
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
            I32_IN, I32_IN, I32_IN, I64_IN, I64, I64, I64_IN, I32_IN, I64_IN,
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
    row_begin: int,
    row_stop: int,
    token_offsets: np.ndarray,  # int64[known + 1], tokens of the known units
    tokens: np.ndarray,  # int32[3 * .]: id, first character and one past the last, from the unit's start
    text_offsets: np.ndarray,  # int64[U + 1], first token of each text
    out_ids: np.ndarray,  # int32[T]
    out_char_start: np.ndarray,  # int32[T], or empty where offsets are not wanted
    out_char_end: np.ndarray,  # int32[T], or empty
) -> None:
    """Write the tokens of texts `row_begin:row_stop`, whose occurrences these are. Cost: O(tokens)."""
    at = 0
    out = text_offsets[row_begin]
    with_chars = len(out_char_start) > 0
    for row in range(row_begin, row_stop):
        while at < row_end[row]:
            unit = number[occurrence[at]]
            shift = occurrence_char[at]
            for token in range(token_offsets[unit], token_offsets[unit + 1]):
                out_ids[out] = tokens[3 * token]
                if with_chars:
                    out_char_start[out] = tokens[3 * token + 1] + shift
                    out_char_end[out] = tokens[3 * token + 2] + shift
                out += 1
            at += 1
