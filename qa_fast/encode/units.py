"""Distinct units of texts: the set of them, and the scanner that cuts texts into them and puts their tokens back."""

from __future__ import annotations

import numpy as np

from qa_fast.buffers import grown
from qa_fast.encode.cuts import CutRule, byte_classes
from qa_fast.encode.encoded import EncodedTexts
from qa_fast.kernels import units as unit_kernels
from qa_fast.kernels import words as kernels
from qa_fast.schema import Ragged

_CACHE_LINE = 64
_FIRST_UNITS = 1 << 10


class UnitSet:
    """A hash set of units that keeps their bytes.

    Attributes:
        count: The number of units.
        table: The units, with room for more.
    """

    def __init__(self) -> None:
        self.count = 0
        self.table = unit_kernels.UnitTable(
            slots=_free_slots(2 * _FIRST_UNITS),
            keys=np.empty((_FIRST_UNITS, 2), np.uint64),
            offsets=np.zeros(_FIRST_UNITS + 1, np.int64),
            variants=np.empty(_FIRST_UNITS, np.uint8),
            text=np.empty(16 * _FIRST_UNITS, np.uint8),
        )

    @property
    def size(self) -> int:
        """The bytes of all units."""
        return int(self.table.offsets[self.count])

    def make_room(self, units: int, size: int) -> None:
        """Make room for more units of so many bytes together."""
        table = self.table
        if self.count + units > len(table.variants):
            room = 1 << (self.count + units - 1).bit_length()
            table = table._replace(
                slots=_free_slots(2 * room),
                keys=grown(table.keys, room),
                offsets=grown(table.offsets, room + 1),
                variants=grown(table.variants, room),
            )
            unit_kernels.fill_slots(table.keys, self.count, table.slots)
        self.table = table._replace(text=grown(table.text, self.size + size))

    def add_from(self, other: UnitSet, begin: int) -> np.ndarray:
        """Add the units of another set from number `begin` on; return the numbers that they have here, int32[.]."""
        self.make_room(other.count - begin, other.size - int(other.table.offsets[begin]))
        numbers = np.empty(other.count - begin, np.int32)
        self.count = unit_kernels.merge_units(other.table, begin, other.count, self.table, self.count, numbers)
        return numbers


def _free_slots(capacity: int) -> np.ndarray:
    """Return zeros, uint64[capacity, SLOT_WORDS], that begin at a cache line, so that no slot crosses two lines."""
    words, extra = capacity * unit_kernels.SLOT_WORDS, _CACHE_LINE // 8
    raw = np.zeros(words + extra, np.uint64)
    begin = -raw.ctypes.data % _CACHE_LINE // 8
    return raw[begin : begin + words].reshape(capacity, unit_kernels.SLOT_WORDS)


def cut_tables(rule: CutRule) -> kernels.CutTables:
    """Return a rule as the kernels need it."""
    classes = byte_classes()
    cuts = rule.cuts.reshape(kernels.CLASSES, kernels.CLASSES)
    bits = 1 << np.arange(kernels.CLASSES)
    triggers = [trigger.encode() for trigger in rule.triggers]
    kinds = bits[classes]
    kinds[list({trigger[0] for trigger in triggers})] |= kernels.TRIGGER
    return kernels.CutTables(
        kinds=kinds.astype(np.uint8),
        followers=(cuts * bits).sum(axis=1).astype(np.uint8)[classes],
        dropped=int(bits[kernels.SPACE] | bits[kernels.BREAK]) if rule.drop_space else 0,
        variants=rule.variants,
        triggers=np.array(bytearray(b"".join(triggers)), np.uint8),
        trigger_offsets=np.cumsum([0, *map(len, triggers)], dtype=np.int64),
    )


class Scanner:
    """Cuts texts into units, and gathers their tokens once they are known. Each thread has its own.

    Attributes:
        units: The units of all texts so far.
        places: int32[., 2], the tokens of the first `placed` units; see `kernels.words.FIRST_TOKEN`.
        placed: The number of units whose tokens are known.
        generation: The generation of known units that `places` refers to.
    """

    def __init__(self, tables: kernels.CutTables) -> None:
        self.units = UnitSet()
        self.places = np.empty((0, 2), np.int32)
        self.placed = 0
        self.generation = -1
        self._tables = tables
        self._out = kernels.Occurrences(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
        self._count = 0
        self._scratch = kernels.ScanScratch(np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 2), np.uint64))

    def scan(self, texts: Ragged) -> None:
        """Cut the texts, uint8 Ragged[U], and number their units.

        The result stays here until the next scan, in buffers that are used again: fresh ones would cost as much as the
        scan itself, because of a page fault for every 4 KB.
        """
        size = int(texts.offsets[-1] - texts.offsets[0])
        unit, char_start, _ = self._out
        if size > len(unit):
            unit, char_start = np.empty(size, np.int32), np.empty(size, np.int32)
        self._out = kernels.Occurrences(unit, char_start, np.empty(len(texts), np.int64))
        longest = int(texts.lengths.max(initial=0)) + 1
        if longest > len(self._scratch.start):
            self._scratch = kernels.ScanScratch(
                np.empty(longest, np.int64), np.empty(longest, np.int32), np.empty((longest, 2), np.uint64)
            )
        units, state = self.units, np.array([self.units.count, 0, 0], np.int64)
        row = 0
        while True:
            row = kernels.scan_texts(
                texts.values, texts.offsets, row, self._tables, units.table, self._out, self._scratch, state
            )
            units.count, self._count = int(state[kernels.UNITS]), int(state[kernels.OCCURRENCES])
            if row == len(texts):
                return
            units.make_room(int(state[kernels.ROW_UNITS]), int(texts.offsets[row + 1] - texts.offsets[row]))

    def place(self, places: np.ndarray) -> None:
        """Set the tokens of the units from `placed` on: int32[count - placed, 2]."""
        self.places = grown(self.places, self.units.count)
        self.places[self.placed : self.units.count] = places
        self.placed = self.units.count

    def gather(self, tokens: np.ndarray, with_chars: bool) -> EncodedTexts:
        """Return the tokens of the texts that were scanned last.

        Args:
            tokens: int32[., 3], see `kernels.words.gather_tokens`.
            with_chars: Whether character offsets are wanted.
        """
        unit, char_start, row_end = self._out
        occurrence = unit[: self._count]
        offsets = np.empty(len(row_end) + 1, np.int64)
        kernels.count_tokens(occurrence, row_end, self.places, offsets)
        ids = np.empty(offsets[-1], np.int32)
        out_start, out_end = (np.empty(offsets[-1] if with_chars else 0, np.int32) for _ in range(2))
        kernels.gather_tokens(occurrence, char_start[: self._count], self.places, tokens, ids, out_start, out_end)
        return EncodedTexts(ids, out_start, out_end, offsets)
