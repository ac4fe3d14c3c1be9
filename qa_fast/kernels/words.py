"""Kernels that cut texts into units, number the distinct units, and put the tokens of the units back together.

A *unit* is a stretch of a text that the tokenizer treats the same wherever it occurs. Two tables over bytes say where a
text may be cut (see `encode.cuts`): the class of each byte, as one bit, and the classes that may begin a unit behind
it, as a mask. Bytes beyond ASCII have a class that is never cut from anything, so whatever a normaliser does across
characters happens inside one unit. Each thread scans into a set of its own (see `kernels.units`), whose new units are
then looked up among the units that all threads know.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import (
    I32_IN,
    I32_OUT,
    I32_ROWS_IN,
    I64,
    I64_IN,
    I64_OUT,
    U8_IN,
    U8_OUT,
    U64_ROWS_OUT,
    VOID,
    record,
)
from qa_fast.kernels.tokens import CHAR_END, CHAR_START, ID
from qa_fast.kernels.units import HIGH, LOW, NUMBER, UNIT_TABLE, UnitTable, add_unit, find_slot, same_bytes, unit_key

OPAQUE, LETTER, DIGIT, PUNCTUATION, APOSTROPHE, SPACE, BREAK, END = range(8)
CLASSES = 8
WHOLE = 4  # variant of a text that is one unit because it contains a trigger
TRIGGER = 1 << END  # a bit that no byte's class has; set for a byte that a trigger starts with
SPARE_TOKENS = 2  # rows behind the last token that gather_tokens may read

# Columns of places int32[units, 2]: first token of a unit, and one past its last.
FIRST_TOKEN, TOKEN_END = range(2)
# Elements of the scan's state int64[3]: distinct units so far, occurrences so far, units of the row that has no room.
UNITS, OCCURRENCES, ROW_UNITS = range(3)

_U = np.uint64


class CutTables(NamedTuple):
    """The places where a text may be cut.

    Attributes:
        kinds: uint8[256], the bit of each byte's class; also TRIGGER if a trigger starts with the byte.
        followers: uint8[256], the classes that may be cut from each byte before them.
        dropped: Classes whose single bytes are left out when they are units.
        variants: Bit 0: the first unit of a text differs from others; bit 1: the last one does.
        triggers: uint8[bytes], strings whose presence makes a whole text one unit.
        trigger_offsets: int64[triggers + 1].
    """

    kinds: np.ndarray
    followers: np.ndarray
    dropped: int
    variants: int
    triggers: np.ndarray
    trigger_offsets: np.ndarray


class Occurrences(NamedTuple):
    """The units of scanned texts, in text order.

    Attributes:
        unit: int32[bytes of the texts], the number of each unit.
        char_start: int32[bytes of the texts], its first character in its text.
        row_end: int64[U], one past each text's last unit.
    """

    unit: np.ndarray
    char_start: np.ndarray
    row_end: np.ndarray


class ScanScratch(NamedTuple):
    """The units of one text, each array one longer than the longest text.

    Attributes:
        start: int64[.], first byte of each unit.
        char: int32[.], its first character.
        keys: uint64[., 2].
    """

    start: np.ndarray
    char: np.ndarray
    keys: np.ndarray


_CUT_TABLES = record(CutTables, U8_OUT, U8_OUT, I64, I64, U8_OUT, I64_OUT)
_OCCURRENCES = record(Occurrences, I32_OUT, I32_OUT, I64_OUT)
_SCRATCH = record(ScanScratch, I64_OUT, I32_OUT, U64_ROWS_OUT)


@njit
def _has_trigger(text: np.ndarray, begin: int, end: int, tables: CutTables) -> bool:
    for at in range(begin, end):
        if tables.kinds[text[at]] & TRIGGER == 0:
            continue
        for word in range(len(tables.trigger_offsets) - 1):
            place = tables.trigger_offsets[word]
            size = tables.trigger_offsets[word + 1] - place
            if at + size <= end and same_bytes(text, at, tables.triggers, place, size):
                return True
    return False


@njit(inline="always")
def _cut_text(
    text: np.ndarray, begin: np.uint64, end: np.uint64, tables: CutTables, scratch: ScanScratch
) -> tuple[np.uint64, bool]:
    """Write where the units of `text[begin:end]` begin; return their number, and whether a trigger makes them one."""
    parts = _U(0)
    chars = np.int32(0)
    may_follow = np.uint8(255)
    seen = np.uint8(0)
    for at in range(begin, end):
        kind = tables.kinds[text[at]]
        seen |= kind
        scratch.start[parts] = at
        scratch.char[parts] = chars
        parts += _U((may_follow & kind) != 0)
        chars += (text[at] & 0xC0) != 0x80
        may_follow = tables.followers[text[at]]
    whole = seen & TRIGGER != 0 and _has_trigger(text, begin, end, tables)
    if whole:
        parts = _U(1)
        scratch.start[0] = begin
        scratch.char[0] = 0
    scratch.start[parts] = end
    return parts, whole


@njit(inline="always")
def _make_keys(text: np.ndarray, parts: np.uint64, whole: bool, tables: CutTables, scratch: ScanScratch) -> np.uint64:
    """Write the keys of a text's units and move up those that are not dropped; return how many are left."""
    kept = _U(0)
    for part in range(parts):
        start = _U(scratch.start[part])
        size = _U(scratch.start[part + _U(1)]) - start
        variant = _U(WHOLE) if whole else _U(0)
        if tables.variants and not whole:
            first, last = part == _U(0), part + _U(1) == parts
            variant = _U(tables.variants & 1) * _U(first) | _U(tables.variants & 2) * _U(last)
        low, high = unit_key(text, start, size, variant)
        scratch.start[kept] = start
        scratch.char[kept] = scratch.char[part]
        scratch.keys[kept, LOW] = low
        scratch.keys[kept, HIGH] = high
        kept += _U(1) - _U(size == _U(1) and tables.kinds[text[start]] & tables.dropped != 0 and not whole)
    return kept


@njit(
    [I64(U8_IN, I64_IN, I64, _CUT_TABLES, UNIT_TABLE, _OCCURRENCES, _SCRATCH, I64_OUT)],
    cache=True,
    nogil=True,
)
def scan_texts(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[U + 1]
    row_begin: int,
    tables: CutTables,
    units: UnitTable,  # updated
    out: Occurrences,
    scratch: ScanScratch,  # overwritten
    state: np.ndarray,  # int64[3], see UNITS; updated
) -> int:
    """Cut texts into units and number the distinct ones, from row `row_begin` on.

    Three short loops for each text are faster than one long loop: whether a byte ends a unit, how long the unit is and
    whether it is new are each hard to predict, and a wrong guess costs more than a store that is overwritten.

    Returns the first row that was not done: the caller makes room for its units and bytes in the set and calls again.
    The arrays must belong to this call alone while it runs. Cost: three passes over each text while it is in the cache.
    """
    count = state[UNITS]
    occurrences = _U(state[OCCURRENCES])
    mask = _U(len(units.slots) - 1)
    row = row_begin
    while row < len(offsets) - 1:
        begin = _U(offsets[row])
        end = _U(offsets[row + 1])
        parts, whole = _cut_text(text, begin, end, tables, scratch)
        kept = _make_keys(text, parts, whole, tables, scratch)
        if count + np.int64(kept) > len(units.variants) or units.offsets[count] + np.int64(end - begin) > len(
            units.text
        ):
            state[ROW_UNITS] = kept
            break
        for part in range(kept):
            low = scratch.keys[part, LOW]
            high = scratch.keys[part, HIGH]
            start = _U(scratch.start[part])
            slot = find_slot(units, low, high, text, start, mask)
            if units.slots[slot, NUMBER] == _U(0):
                add_unit(units, count, slot, low, high, text, start)
                count += 1
            out.unit[occurrences] = units.slots[slot, NUMBER] - _U(1)
            out.char_start[occurrences] = scratch.char[part]
            occurrences += _U(1)
        out.row_end[row] = occurrences
        row += 1
    state[UNITS] = count
    state[OCCURRENCES] = occurrences
    return row


@njit([VOID(I32_IN, I64_IN, I32_ROWS_IN, I64_OUT)], cache=True, nogil=True)
def count_tokens(
    occurrence: np.ndarray,  # int32[.], units of the texts, as scanned
    row_end: np.ndarray,  # int64[U], one past each text's last unit
    places: np.ndarray,  # int32[units, 2], see FIRST_TOKEN
    out_offsets: np.ndarray,  # int64[U + 1], first token of each text
) -> None:
    """Count the tokens of the texts. Cost: O(occurrences)."""
    at = 0
    tokens = np.int64(0)
    out_offsets[0] = 0
    for row in range(len(row_end)):
        while at < row_end[row]:
            unit = _U(occurrence[at])
            tokens += places[unit, TOKEN_END] - places[unit, FIRST_TOKEN]
            at += 1
        out_offsets[row + 1] = tokens


@njit([VOID(I32_IN, I32_IN, I32_ROWS_IN, I32_ROWS_IN, I32_OUT, I32_OUT, I32_OUT)], cache=True, nogil=True)
def gather_tokens(
    occurrence: np.ndarray,  # int32[.], units of the texts, as scanned
    occurrence_char: np.ndarray,  # int32[.], first character of each occurrence in its text
    places: np.ndarray,  # int32[units, 2], see FIRST_TOKEN
    tokens: np.ndarray,  # int32[., 3], tokens of all units, and SPARE_TOKENS more rows
    out_ids: np.ndarray,  # int32[T]
    out_char_start: np.ndarray,  # int32[T], or empty if offsets are not wanted
    out_char_end: np.ndarray,  # int32[T], or empty
) -> None:
    """Write the tokens of the texts. Cost: O(tokens).

    Two tokens are written for each unit, and the next unit overwrites the second if there was only one: the number
    cannot be predicted, and most units have one or two tokens.
    """
    out = _U(0)
    last = _U(max(len(out_ids) - 1, 0))
    with_chars = len(out_char_start) > 0
    for at in range(len(occurrence)):
        unit = _U(occurrence[at])
        shift = occurrence_char[at]
        begin = _U(places[unit, FIRST_TOKEN])
        end = _U(places[unit, TOKEN_END])
        done = begin
        if out < last:
            for i in range(2):
                token = begin + _U(i)
                out_ids[out + _U(i)] = tokens[token, ID]
                if with_chars:
                    out_char_start[out + _U(i)] = tokens[token, CHAR_START] + shift
                    out_char_end[out + _U(i)] = tokens[token, CHAR_END] + shift
            done = min(begin + _U(2), end)
            out += done - begin
        for token in range(done, end):
            out_ids[out] = tokens[token, ID]
            if with_chars:
                out_char_start[out] = tokens[token, CHAR_START] + shift
                out_char_end[out] = tokens[token, CHAR_END] + shift
            out += _U(1)


@njit([VOID(U8_IN, I64_IN, I64_IN, U8_IN, U8_OUT, I64_OUT, I32_OUT)], cache=True, nogil=True)
def join_units(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[n], first byte of each unit
    ends: np.ndarray,  # int64[n], one past its last
    joiner: np.ndarray,  # uint8[.], written behind each
    out_text: np.ndarray,  # uint8[bytes of the units and joiners]
    out_offsets: np.ndarray,  # int64[n + 1], first byte of each unit in out_text
    out_chars: np.ndarray,  # int32[n], characters of each unit
) -> None:
    """Write units one behind the other. Cost: one pass over their bytes."""
    out = 0
    out_offsets[0] = 0
    for unit in range(len(begins)):
        chars = 0
        for at in range(begins[unit], ends[unit]):
            out_text[out] = text[at]
            chars += (text[at] & 0xC0) != 0x80
            out += 1
        for i in range(len(joiner)):
            out_text[out] = joiner[i]
            out += 1
        out_offsets[unit + 1] = out
        out_chars[unit] = chars
