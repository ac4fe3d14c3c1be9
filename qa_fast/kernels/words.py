"""Kernels that cut texts into units, number the distinct ones, and put the units' tokens back together.

A *unit* is a stretch of a text that the tokenizer treats the same wherever it stands. Where a text may be cut is told
by two tables over bytes: which class a byte is of, as one bit, and which classes may begin a unit behind it, as a mask
(see `encode.cuts`). Bytes beyond ASCII are of a class that is never parted from anything, so that whatever a
normaliser does across characters happens inside one unit.

The set of distinct units is an open-addressing table of slots of four words, which share a line of the cache: the two
words of the unit's key, its number plus one, and one unused. The key of a unit of up to 15 bytes holds the bytes
themselves; longer units have a hash for a key and are compared byte by byte. So nothing rests on luck. The bytes of the
units lie one behind the other in a store of the set's own, so that it outlives the texts. Each thread has a set, which
it scans into; what is new in one is looked up among the units that all threads know.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8, U8_IN, U8_OUT, U64_IN, U64_OUT, VOID

OPAQUE, LETTER, DIGIT, PUNCTUATION, APOSTROPHE, SPACE, BREAK, END = range(8)
CLASSES = 8
WHOLE = 4  # variant of a text that is one unit because of a trigger in it
TRIGGER = 1 << END  # the bit of no byte's class, set for a byte that a trigger starts with
SLOT_WORDS = 4
SPARE_TOKENS = 2  # that gather_tokens may read behind the last

_U = np.uint64
_IN_KEY = _U(15)  # bytes that a key has room for, beside size and variant
_LONG = _U(1) << _U(63)
_ODD_A, _ODD_B = _U(0x9E3779B97F4A7C15), _U(0xD6E8FEB86659FD93)


@njit
def _home(low: np.uint64, high: np.uint64, mask: np.uint64) -> np.uint64:
    """The slot where the search for a key begins."""
    mixed = low * _ODD_A ^ high * _ODD_B
    mixed = (mixed ^ (mixed >> _U(32))) * _ODD_A
    return (mixed >> _U(32)) & mask


@njit
def _same_bytes(left: np.ndarray, left_start: int, right: np.ndarray, right_start: int, size: int) -> bool:
    for i in range(size):  # noqa: SIM110, a generator costs more here
        if left[left_start + i] != right[right_start + i]:
            return False
    return True


@njit
def _holds_any(
    text: np.ndarray, begin: int, end: int, kinds: np.ndarray, words: np.ndarray, word_offsets: np.ndarray
) -> bool:
    for at in range(begin, end):
        if kinds[text[at]] & TRIGGER == 0:
            continue
        for word in range(len(word_offsets) - 1):
            size = word_offsets[word + 1] - word_offsets[word]
            if at + size <= end and _same_bytes(text, at, words, word_offsets[word], size):
                return True
    return False


@njit
def _hash_long(text: np.ndarray, start: np.uint64, size: np.uint64) -> np.uint64:
    """A hash of a long unit, eight bytes at a time."""
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


@njit(
    [
        I64(
            U8_IN, I64_IN, I64, U8_IN, U8_IN, U8, I64, U8_IN, I64_IN, U64_OUT, U64_OUT, I64_OUT, U8_OUT, U8_OUT,
            I32_OUT, I32_OUT, I64_OUT, I64_OUT, I32_OUT, U64_OUT, I64_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def scan_texts(
    text: np.ndarray,  # uint8[bytes]
    offsets: np.ndarray,  # int64[U + 1]
    row_begin: int,
    kinds: np.ndarray,  # uint8[256], the bit of each byte's class; TRIGGER too where a trigger starts with the byte
    followers: np.ndarray,  # uint8[256], the classes that may be parted from each byte before them
    dropped: int,  # classes of which a single byte is left out when it is a unit
    variant_mask: int,  # bit 0: a text's first unit differs; bit 1: its last one does
    triggers: np.ndarray,  # uint8[bytes], strings whose presence makes the whole text one unit
    trigger_offsets: np.ndarray,  # int64[triggers + 1]
    slots: np.ndarray,  # uint64[SLOT_WORDS * capacity], capacity a power of two; updated, like all of unit_…
    unit_keys: np.ndarray,  # uint64[2 * room], room at most capacity / 2
    unit_offsets: np.ndarray,  # int64[room + 1], where each unit's bytes lie in unit_text
    unit_variants: np.ndarray,  # uint8[room]
    unit_text: np.ndarray,  # uint8[.]
    out_occurrence: np.ndarray,  # int32[bytes of the rows], unit numbers in text order
    out_char_start: np.ndarray,  # int32[bytes of the rows], first character of each occurrence in its text
    out_row_end: np.ndarray,  # int64[U], one past each text's last occurrence
    scratch_start: np.ndarray,  # int64[longest text + 1], overwritten
    scratch_char: np.ndarray,  # int32[longest text + 1], overwritten
    scratch_keys: np.ndarray,  # uint64[2 * (longest text + 1)], overwritten
    state: np.ndarray,  # int64[3], distinct units and occurrences so far, units of the row not done; updated
) -> int:
    """Cut texts into units and number the distinct ones, from row `row_begin` on.

    Three short loops a text rather than one long one: whether a byte ends a unit, how long the unit is and whether it
    is new are each anybody's guess, and a wrong guess costs more than a store that the next one overwrites.

    Returns the first row not done: the caller makes room for its units and bytes in the set and calls again. Cost:
    three passes over a text while it lies in the cache.
    """
    units = state[0]
    occurrences = _U(state[1])
    mask = _U(len(slots) // SLOT_WORDS - 1)
    row = row_begin
    while row < len(offsets) - 1:
        begin = _U(offsets[row])
        end = _U(offsets[row + 1])
        # The cuts.
        parts = _U(0)
        chars = np.int32(0)
        may_follow = np.uint8(255)
        seen = np.uint8(0)
        for at in range(begin, end):
            kind = kinds[text[at]]
            seen |= kind
            scratch_start[parts] = at
            scratch_char[parts] = chars
            parts += _U((may_follow & kind) != 0)
            chars += (text[at] & 0xC0) != 0x80
            may_follow = followers[text[at]]
        whole = seen & TRIGGER != 0 and _holds_any(text, begin, end, kinds, triggers, trigger_offsets)
        if whole:
            parts = _U(1)
            scratch_start[0] = begin
            scratch_char[0] = 0
        scratch_start[parts] = end
        # The keys of the units between them, less those that are dropped.
        kept = _U(0)
        for part in range(parts):
            start = _U(scratch_start[part])
            size = _U(scratch_start[part + _U(1)]) - start
            variant = _U(WHOLE) if whole else _U(0)
            if variant_mask and not whole:
                variant = _U(variant_mask & 1) * _U(part == _U(0)) | _U(variant_mask & 2) * _U(part + _U(1) == parts)
            if size > _IN_KEY:
                low = _hash_long(text, start, size)
                high = _LONG | variant << _U(56) | size
            else:
                low = _U(0)
                high = _U(0)
                if start + _U(16) <= _U(len(text)):
                    # Two words are read whatever the size, and masked: a loop to the size would be mispredicted.
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
                high |= (size | variant << _U(4)) << _U(56)
            scratch_start[kept] = start
            scratch_char[kept] = scratch_char[part]
            scratch_keys[_U(2) * kept] = low
            scratch_keys[_U(2) * kept + _U(1)] = high
            kept += _U(1) - _U(size == _U(1) and kinds[text[start]] & dropped != 0 and not whole)
        if units + np.int64(kept) > len(unit_variants) or unit_offsets[units] + np.int64(end - begin) > len(unit_text):
            state[2] = kept
            break
        # Their numbers. The look-up stands here and in merge_units in full: as a function it is not inlined, and
        # handing over that many arrays costs more than itself.
        for part in range(kept):
            low = scratch_keys[_U(2) * part]
            high = scratch_keys[_U(2) * part + _U(1)]
            slot = _home(low, high, mask)
            while True:
                number = slots[_U(SLOT_WORDS) * slot + _U(2)]
                if number == _U(0):
                    slots[_U(SLOT_WORDS) * slot] = low
                    slots[_U(SLOT_WORDS) * slot + _U(1)] = high
                    size = high & _U(0xFFFFFFFFFFFFFF) if high >= _LONG else high >> _U(56) & _IN_KEY
                    place = unit_offsets[units]
                    for i in range(size):
                        unit_text[_U(place) + i] = text[_U(scratch_start[part]) + i]
                    unit_keys[2 * units] = low
                    unit_keys[2 * units + 1] = high
                    unit_variants[units] = high >> _U(56) & _U(15) if high >= _LONG else high >> _U(60)
                    units += 1
                    unit_offsets[units] = place + np.int64(size)
                    number = _U(units)
                    slots[_U(SLOT_WORDS) * slot + _U(2)] = number
                    break
                if slots[_U(SLOT_WORDS) * slot] == low and slots[_U(SLOT_WORDS) * slot + _U(1)] == high:
                    place = unit_offsets[number - _U(1)]
                    if high < _LONG or _same_bytes(
                        text, scratch_start[part], unit_text, place, np.int64(high & _U(0xFFFFFFFFFFFFFF))
                    ):
                        break
                slot = (slot + _U(1)) & mask
            out_occurrence[occurrences] = number - _U(1)
            out_char_start[occurrences] = scratch_char[part]
            occurrences += _U(1)
        out_row_end[row] = occurrences
        row += 1
    state[0] = units
    state[1] = occurrences
    return row


@njit([VOID(U64_IN, I64, U64_OUT)], cache=True, nogil=True)
def fill_slots(
    unit_keys: np.ndarray,  # uint64[>= 2 * units]
    units: int,
    out_slots: np.ndarray,  # uint64[SLOT_WORDS * capacity], zeroed
) -> None:
    """Enter the units into an empty table. Cost: O(units)."""
    mask = _U(len(out_slots) // SLOT_WORDS - 1)
    for unit in range(units):
        slot = _home(unit_keys[2 * unit], unit_keys[2 * unit + 1], mask)
        while out_slots[_U(SLOT_WORDS) * slot + _U(2)] != _U(0):
            slot = (slot + _U(1)) & mask
        out_slots[_U(SLOT_WORDS) * slot] = unit_keys[2 * unit]
        out_slots[_U(SLOT_WORDS) * slot + _U(1)] = unit_keys[2 * unit + 1]
        out_slots[_U(SLOT_WORDS) * slot + _U(2)] = unit + 1


@njit(
    [I64(U64_IN, I64_IN, U8_IN, U8_IN, I64, I64, I64, U64_OUT, U64_OUT, I64_OUT, U8_OUT, U8_OUT, I32_OUT)],
    cache=True,
    nogil=True,
)
def merge_units(
    unit_keys: np.ndarray,  # uint64[2 * .], of one thread's set
    unit_offsets: np.ndarray,  # int64[.]
    unit_variants: np.ndarray,  # uint8[.]
    unit_text: np.ndarray,  # uint8[.]
    begin: int,
    end: int,
    known: int,
    slots: np.ndarray,  # uint64[SLOT_WORDS * capacity], the units that all threads know; updated, like all of known_…
    known_keys: np.ndarray,  # uint64[2 * room], with room for all units of the thread
    known_offsets: np.ndarray,  # int64[room + 1]
    known_variants: np.ndarray,  # uint8[room]
    known_text: np.ndarray,  # uint8[.], with room for all bytes of the thread's units
    out_number: np.ndarray,  # int32[end - begin], each one's number among the known
) -> int:
    """Look up units `begin:end` of a thread among the known and add the new ones; the number known afterwards."""
    mask = _U(len(slots) // SLOT_WORDS - 1)
    for scanned in range(begin, end):
        low = unit_keys[2 * scanned]
        high = unit_keys[2 * scanned + 1]
        start = unit_offsets[scanned]
        size = unit_offsets[scanned + 1] - start
        slot = _home(low, high, mask)
        while True:
            number = slots[_U(SLOT_WORDS) * slot + _U(2)]
            if number == _U(0):
                slots[_U(SLOT_WORDS) * slot] = low
                slots[_U(SLOT_WORDS) * slot + _U(1)] = high
                place = known_offsets[known]
                for i in range(size):
                    known_text[place + i] = unit_text[start + i]
                known_keys[2 * known] = low
                known_keys[2 * known + 1] = high
                known_variants[known] = unit_variants[scanned]
                known += 1
                known_offsets[known] = place + size
                number = _U(known)
                slots[_U(SLOT_WORDS) * slot + _U(2)] = number
                break
            if slots[_U(SLOT_WORDS) * slot] == low and slots[_U(SLOT_WORDS) * slot + _U(1)] == high:
                place = known_offsets[number - _U(1)]
                if high < _LONG or _same_bytes(unit_text, start, known_text, place, size):
                    break
            slot = (slot + _U(1)) & mask
        out_number[scanned - begin] = number - _U(1)
    return known


@njit([VOID(I32_IN, I64_IN, I64_IN, I64_OUT)], cache=True, nogil=True)
def count_tokens(
    occurrence: np.ndarray,  # int32[.], units of the texts, as scanned
    row_end: np.ndarray,  # int64[U], one past each text's last occurrence
    places: np.ndarray,  # int64[2 * units], first token of each unit and one past its last
    out_offsets: np.ndarray,  # int64[U + 1], first token of each text
) -> None:
    """Count the tokens of the texts. Cost: O(occurrences)."""
    at = 0
    tokens = np.int64(0)
    out_offsets[0] = 0
    for row in range(len(row_end)):
        while at < row_end[row]:
            unit = _U(occurrence[at])
            tokens += places[_U(2) * unit + _U(1)] - places[_U(2) * unit]
            at += 1
        out_offsets[row + 1] = tokens


@njit([VOID(I32_IN, I32_IN, I64_IN, I32_IN, I32_OUT, I32_OUT, I32_OUT)], cache=True, nogil=True)
def gather_tokens(
    occurrence: np.ndarray,  # int32[.], units of the texts, as scanned
    occurrence_char: np.ndarray,  # int32[.], first character of each occurrence in its text
    places: np.ndarray,  # int64[2 * units], first token of each unit and one past its last
    tokens: np.ndarray,  # int32[3 * .]: id, first character and one past the last, in the unit; + SPARE_TOKENS
    out_ids: np.ndarray,  # int32[T]
    out_char_start: np.ndarray,  # int32[T], or empty where offsets are not wanted
    out_char_end: np.ndarray,  # int32[T], or empty
) -> None:
    """Write the tokens of the texts. Cost: O(tokens).

    Two tokens are written for each unit, and the second is overwritten by the next unit's where there was only one: how
    many there are cannot be predicted, and most units have one or two.
    """
    out = _U(0)
    last = _U(max(len(out_ids) - 1, 0))
    with_chars = len(out_char_start) > 0
    for at in range(len(occurrence)):
        unit = _U(occurrence[at])
        shift = occurrence_char[at]
        begin = _U(places[_U(2) * unit])
        end = _U(places[_U(2) * unit + _U(1)])
        done = begin
        if out < last:
            for i in range(2):
                token = _U(3) * (begin + _U(i))
                out_ids[out + _U(i)] = tokens[token]
                if with_chars:
                    out_char_start[out + _U(i)] = tokens[token + _U(1)] + shift
                    out_char_end[out + _U(i)] = tokens[token + _U(2)] + shift
            done = min(begin + _U(2), end)
            out += done - begin
        for token in range(done, end):
            out_ids[out] = tokens[_U(3) * token]
            if with_chars:
                out_char_start[out] = tokens[_U(3) * token + _U(1)] + shift
                out_char_end[out] = tokens[_U(3) * token + _U(2)] + shift
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
