"""Distinct units of texts: the set of them, and the scanner that cuts texts into them and puts their tokens back."""

from __future__ import annotations

import numpy as np

from qa_fast.buffers import grown
from qa_fast.encode.cuts import CutRule, byte_classes
from qa_fast.encode.direct import EncodedTexts
from qa_fast.kernels import words as kernels
from qa_fast.schema import Int64s, Ragged

_CACHE_LINE = 64
_FIRST_UNITS = 1 << 10


class UnitSet:
    """A hash set of units that keeps their bytes; see `kernels.words`.

    Attributes:
        count: How many there are; the arrays have room for more.
        slots: uint64[SLOT_WORDS * capacity].
        keys: uint64[2 * room].
        offsets: int64[room + 1], where the bytes of each unit lie in `text`.
        variants: uint8[room], see `cuts.CutRule`.
        text: uint8[.].
    """

    def __init__(self) -> None:
        self.count = 0
        self.slots = _aligned_zeros(2 * _FIRST_UNITS * kernels.SLOT_WORDS)
        self.keys = np.empty(2 * _FIRST_UNITS, np.uint64)
        self.offsets = np.zeros(_FIRST_UNITS + 1, np.int64)
        self.variants = np.empty(_FIRST_UNITS, np.uint8)
        self.text = np.empty(16 * _FIRST_UNITS, np.uint8)

    @property
    def size(self) -> int:
        """Bytes of all units."""
        return int(self.offsets[self.count])

    def make_room(self, units: int, size: int) -> None:
        """Enlarge it so that so many more units, of so many bytes together, can be added."""
        if self.count + units > len(self.variants):
            room = 1 << (self.count + units - 1).bit_length()
            self.keys, self.variants = grown(self.keys, 2 * room), grown(self.variants, room)
            self.offsets = grown(self.offsets, room + 1)
            self.slots = _aligned_zeros(2 * room * kernels.SLOT_WORDS)
            kernels.fill_slots(self.keys, self.count, self.slots)
        self.text = grown(self.text, self.size + size)

    def add_from(self, other: UnitSet, begin: int) -> np.ndarray:
        """Add the units of another set from number `begin` on; the numbers that they have here, int32[.]."""
        self.make_room(other.count - begin, other.size - int(other.offsets[begin]))
        numbers = np.empty(other.count - begin, np.int32)
        self.count = kernels.merge_units(
            other.keys, other.offsets, other.variants, other.text, begin, other.count, self.count, self.slots,
            self.keys, self.offsets, self.variants, self.text, numbers,
        )  # fmt: skip
        return numbers


def _aligned_zeros(words: int) -> np.ndarray:
    """uint64[words], from the start of a cache line on, so that no slot lies over two lines."""
    extra = _CACHE_LINE // 8
    raw = np.zeros(words + extra, np.uint64)
    begin = -raw.ctypes.data % _CACHE_LINE // 8
    return raw[begin : begin + words]


class Cutter:
    """What `kernels.scan_texts` must know of a rule: classes of bytes, cuts and triggers, as its arguments."""

    def __init__(self, rule: CutRule) -> None:
        classes = byte_classes()
        cuts = rule.cuts.reshape(kernels.CLASSES, kernels.CLASSES)
        bits = 1 << np.arange(kernels.CLASSES)
        triggers = [trigger.encode() for trigger in rule.triggers]
        kinds = bits[classes]
        kinds[list({trigger[0] for trigger in triggers})] |= kernels.TRIGGER
        self.kinds = kinds.astype(np.uint8)
        self.followers = (cuts * bits).sum(axis=1).astype(np.uint8)[classes]
        self.dropped = int(bits[kernels.SPACE] | bits[kernels.BREAK]) if rule.drop_space else 0
        self.variants = rule.variants
        self.triggers = np.frombuffer(b"".join(triggers), np.uint8)
        self.trigger_offsets = np.cumsum([0, *map(len, triggers)], dtype=np.int64)


class Scanner:
    """One thread's: cuts texts into units, and gathers their tokens once they are known.

    Attributes:
        units: Those of all texts so far.
        places: int64[2 * .], first token and one past the last of the first `placed` units.
        placed: Units whose tokens are known.
        generation: Of the known units that `places` speaks of.
    """

    def __init__(self, cutter: Cutter) -> None:
        self.units = UnitSet()
        self.places = np.empty(0, np.int64)
        self.placed = 0
        self.generation = -1
        self._cutter = cutter
        self._occurrence, self._char_start = np.empty(0, np.int32), np.empty(0, np.int32)
        self._row_end = np.empty(0, np.int64)
        self._scratch = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint64)

    def scan(self, texts: Ragged) -> None:
        """Cut the texts, uint8 Ragged[U], and number their units.

        What is found stays here until the next scan, in buffers that are used again: fresh ones would cost as much as
        the scan's own work, a page fault for every 4 KB.
        """
        size = int(texts.offsets[-1] - texts.offsets[0])
        if size > len(self._occurrence):
            self._occurrence, self._char_start = np.empty(size, np.int32), np.empty(size, np.int32)
        longest = int(texts.lengths.max(initial=0)) + 1
        if longest > len(self._scratch[0]):
            self._scratch = np.empty(longest, np.int64), np.empty(longest, np.int32), np.empty(2 * longest, np.uint64)
        self._row_end = np.empty(len(texts), np.int64)
        cutter, units, state = self._cutter, self.units, np.array([self.units.count, 0, 0], np.int64)
        row = 0
        while True:
            row = kernels.scan_texts(
                texts.values, texts.offsets, row, cutter.kinds, cutter.followers, cutter.dropped, cutter.variants,
                cutter.triggers, cutter.trigger_offsets, units.slots, units.keys, units.offsets, units.variants,
                units.text, self._occurrence, self._char_start, self._row_end, *self._scratch, state,
            )  # fmt: skip
            units.count, self._found = int(state[0]), int(state[1])
            if row == len(texts):
                return
            units.make_room(int(state[2]), int(texts.offsets[row + 1] - texts.offsets[row]))

    def place(self, first: Int64s, last: Int64s) -> None:
        """Say where the tokens of the units from `placed` on are: int64[count - placed] each."""
        self.places = grown(self.places, 2 * self.units.count)
        fresh = self.places[2 * self.placed : 2 * self.units.count]
        fresh[::2], fresh[1::2] = first, last
        self.placed = self.units.count

    def gather(self, tokens: np.ndarray, with_chars: bool) -> EncodedTexts:
        """The tokens of the texts scanned last.

        Args:
            tokens: int32[3 * .], see `kernels.words.gather_tokens`.
            with_chars: Whether character offsets are wanted.
        """
        occurrence = self._occurrence[: self._found]
        offsets = np.empty(len(self._row_end) + 1, np.int64)
        kernels.count_tokens(occurrence, self._row_end, self.places, offsets)
        ids = np.empty(offsets[-1], np.int32)
        char_start, char_end = (np.empty(offsets[-1] if with_chars else 0, np.int32) for _ in range(2))
        kernels.gather_tokens(
            occurrence, self._char_start[: self._found], self.places, tokens, ids, char_start, char_end
        )
        return EncodedTexts(ids, char_start, char_end, offsets)
