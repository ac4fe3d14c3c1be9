"""A set of units: stretches of texts that the tokenizer treats the same wherever they occur.

The set is a hash table with open addressing. A slot is four words, so that it never crosses a cache line. The key of a
unit of up to 15 bytes holds the bytes themselves; a longer unit has a hash for a key, and is compared byte by byte. The
result is therefore exact. The set keeps the bytes of its units, so it outlives the texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_OUT, I64, I64_OUT, U8_OUT, U64_ROWS_IN, U64_ROWS_OUT, VOID, record

# Columns of slots uint64[capacity, 4], the first two also of keys uint64[room, 2]. NUMBER is the number of the unit
# plus one, or 0 in a free slot; the last column is unused.
LOW, HIGH, NUMBER = range(3)
SLOT_WORDS = 4

_U = np.uint64
# A key's high word: bit 63 says that the unit is long, bits 60 to 62 hold its variant. The rest is the size of a long
# unit, or the size in 4 bits and the last 7 bytes of a short one.
_LONG = _U(1) << _U(63)
_VARIANT_AT, _SIZE_AT = _U(60), _U(56)
_LONG_SIZE = (_U(1) << _SIZE_AT) - _U(1)
_IN_KEY = _U(15)  # bytes that a key has room for
_ODD_A, _ODD_B = _U(0x9E3779B97F4A7C15), _U(0xD6E8FEB86659FD93)


class UnitTable(NamedTuple):
    """A set of units, with room for more.

    Attributes:
        slots: uint64[capacity, 4], see NUMBER; capacity is a power of two.
        keys: uint64[room, 2]; room is at most capacity / 2.
        offsets: int64[room + 1], where the bytes of each unit are in `text`.
        variants: uint8[room].
        text: uint8[.].
    """

    slots: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray
    variants: np.ndarray
    text: np.ndarray


UNIT_TABLE = record(UnitTable, U64_ROWS_OUT, U64_ROWS_OUT, I64_OUT, U8_OUT, U8_OUT)


@njit
def _home(low: np.uint64, high: np.uint64, mask: np.uint64) -> np.uint64:
    """Return the slot where the search for a key begins."""
    mixed = low * _ODD_A ^ high * _ODD_B
    mixed = (mixed ^ (mixed >> _U(32))) * _ODD_A
    return (mixed >> _U(32)) & mask


@njit
def same_bytes(left: np.ndarray, left_start: int, right: np.ndarray, right_start: int, size: int) -> bool:
    """Return whether `left[left_start:]` and `right[right_start:]` begin with the same `size` bytes."""
    for i in range(size):  # noqa: SIM110, a generator costs more here
        if left[left_start + i] != right[right_start + i]:
            return False
    return True


@njit(inline="always")
def find_slot(
    units: UnitTable, low: np.uint64, high: np.uint64, text: np.ndarray, start: np.uint64, mask: np.uint64
) -> np.uint64:
    """Return the slot of the unit that begins at `text[start]`, or the free slot where it belongs.

    Inlined, since handing over this many arrays would cost more than the search.
    """
    slot = _home(low, high, mask)
    while units.slots[slot, NUMBER] != _U(0):
        if units.slots[slot, LOW] == low and units.slots[slot, HIGH] == high:
            if high < _LONG:
                break
            place = units.offsets[units.slots[slot, NUMBER] - _U(1)]
            if same_bytes(text, start, units.text, place, np.int64(high & _LONG_SIZE)):
                break
        slot = (slot + _U(1)) & mask
    return slot


@njit(inline="always")
def add_unit(
    units: UnitTable,
    count: int,
    slot: np.uint64,
    low: np.uint64,
    high: np.uint64,
    text: np.ndarray,
    start: np.uint64,
) -> None:
    """Make the unit that begins at `text[start]` number `count`, in a free slot."""
    size = high & _LONG_SIZE if high >= _LONG else high >> _SIZE_AT & _IN_KEY
    place = units.offsets[count]
    for i in range(size):
        units.text[_U(place) + i] = text[start + i]
    units.keys[count, LOW] = low
    units.keys[count, HIGH] = high
    units.variants[count] = high >> _VARIANT_AT & _U(7)
    units.offsets[count + 1] = place + np.int64(size)
    units.slots[slot, LOW] = low
    units.slots[slot, HIGH] = high
    units.slots[slot, NUMBER] = count + 1


@njit
def _hash_long(text: np.ndarray, start: np.uint64, size: np.uint64) -> np.uint64:
    """Return a hash of a long unit, computed eight bytes at a time."""
    hashed = size
    whole = start + (size & ~_U(7))
    for at in range(start, whole, _U(8)):
        word = _U(0)
        for i in range(8):
            word |= _U(text[at + _U(i)]) << _U(8 * i)
        hashed = (hashed ^ word) * _ODD_A
        hashed ^= hashed >> _U(29)
    for at in range(whole, start + size):
        hashed = (hashed ^ _U(text[at])) * _ODD_B
    return hashed ^ (hashed >> _U(32))


@njit(inline="always")
def unit_key(text: np.ndarray, start: np.uint64, size: np.uint64, variant: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the two words of a unit's key."""
    if size > _IN_KEY:
        low = _hash_long(text, start, size)
        high = _LONG | variant << _VARIANT_AT | size
    else:
        low = _U(0)
        high = _U(0)
        if start + _U(16) <= _U(len(text)):
            # Two words are read whatever the size, and masked: a loop up to the size would be mispredicted.
            for i in range(8):
                low |= _U(text[start + _U(i)]) << _U(8 * i)
                high |= _U(text[start + _U(8 + i)]) << _U(8 * i)
            low &= ~_U(0) >> (_U(64) - _U(8) * min(size, _U(8)))
            high &= (_U(1) << (_U(8) * (max(size, _U(8)) - _U(8)))) - _U(1)
        else:
            for i in range(min(size, _U(8))):
                low |= _U(text[start + i]) << (_U(8) * i)
            for i in range(_U(8), max(size, _U(8))):
                high |= _U(text[start + i]) << (_U(8) * (i - _U(8)))
        high |= size << _SIZE_AT | variant << _VARIANT_AT
    return low, high


@njit([VOID(U64_ROWS_IN, I64, U64_ROWS_OUT)], cache=True, nogil=True)
def fill_slots(
    keys: np.ndarray,  # uint64[>= units, 2]
    units: int,
    out_slots: np.ndarray,  # uint64[capacity, 4], zeroed
) -> None:
    """Enter distinct units into an empty table. Cost: O(units)."""
    mask = _U(len(out_slots) - 1)
    for unit in range(units):
        slot = _home(keys[unit, LOW], keys[unit, HIGH], mask)
        while out_slots[slot, NUMBER] != _U(0):
            slot = (slot + _U(1)) & mask
        out_slots[slot, LOW] = keys[unit, LOW]
        out_slots[slot, HIGH] = keys[unit, HIGH]
        out_slots[slot, NUMBER] = unit + 1


@njit([I64(UNIT_TABLE, I64, I64, UNIT_TABLE, I64, I32_OUT)], cache=True, nogil=True)
def merge_units(
    units: UnitTable,  # of one thread
    begin: int,
    end: int,
    known: UnitTable,  # that all threads know; updated, with room for all units `begin:end`
    count: int,  # of the known units
    out_number: np.ndarray,  # int32[end - begin], the number of each unit among the known
) -> int:
    """Look up the units `begin:end` of a thread among the known, add the new ones, and return how many are known."""
    mask = _U(len(known.slots) - 1)
    for unit in range(begin, end):
        low = units.keys[unit, LOW]
        high = units.keys[unit, HIGH]
        start = _U(units.offsets[unit])
        slot = find_slot(known, low, high, units.text, start, mask)
        if known.slots[slot, NUMBER] == _U(0):
            add_unit(known, count, slot, low, high, units.text, start)
            count += 1
        out_number[unit - begin] = known.slots[slot, NUMBER] - _U(1)
    return count
