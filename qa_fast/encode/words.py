"""The fast way: each distinct unit of the texts through the Rust tokenizer once, kernels for the rest.

Texts repeat their words: the contexts of SQuAD's training set hold 3.6 million pre-tokens, 0.1 million distinct ones.
A scan cuts the texts into units and numbers the distinct ones, Rust encodes those it has not seen yet, and a gather
writes every text's ids and character offsets. The units stay known, so a second text costs less than the first.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from qa_fast.buffers import offsets_of, row_ranges, strings_from, text_buffers
from qa_fast.encode.direct import EncodedTexts, encode_strings
from qa_fast.encode.families import Family, byte_classes
from qa_fast.encode.wordpiece import AsciiWordPiece, plain_words
from qa_fast.kernels import text as text_kernels
from qa_fast.kernels import words as kernels
from qa_fast.schema import Int32s, Int64s, Ragged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Units that are encoded in one string, where units may be joined: few calls, and strings that stay in the cache.
_UNITS_A_STRING = 512
# Room for distinct units that a scan starts with; more than most tables of examples need, small beside their texts.
_FIRST_UNITS = 1 << 17
# Beside the variants: a plain word, split by a kernel.
_PLAIN = 8
# The known units are forgotten beyond this many bytes of text, which bounds a server's memory.
_KNOWN_BYTES = 1 << 26


@dataclass(frozen=True)
class Scan:
    """What one thread found in its rows.

    Attributes:
        row_begin: First text.
        row_end: One past the last text.
        units: Its distinct units.
        occurrence: int32[.], unit numbers in text order.
        char_start: int32[.], first character of each occurrence in its text.
    """

    row_begin: int
    row_end: int
    units: Units
    occurrence: Int32s
    char_start: Int32s


@dataclass(frozen=True)
class Units:
    """Distinct units: a hash set over stretches of a byte buffer.

    Attributes:
        count: How many there are; the arrays have room for more.
        slots: uint64[2 * capacity], see `kernels.words`.
        hashes: uint64[capacity / 2].
        starts: int64[capacity / 2], first byte.
        sizes: int32[capacity / 2], bytes.
        variants: uint8[capacity / 2], see `families.Family`.
    """

    count: int
    slots: np.ndarray
    hashes: np.ndarray
    starts: Int64s
    sizes: Int32s
    variants: np.ndarray

    @classmethod
    def empty(cls, room: int) -> Units:
        """A set with room for at least so many units."""
        capacity = 1 << max(2 * room - 1, 1023).bit_length()
        half = capacity // 2
        return cls(
            0,
            np.zeros(2 * capacity, np.uint64),
            np.empty(half, np.uint64),
            np.empty(half, np.int64),
            np.empty(half, np.int32),
            np.empty(half, np.uint8),
        )

    def with_room(self, room: int) -> Units:
        """The same units with room for at least so many."""
        if room <= len(self.hashes):
            return self
        larger = Units.empty(max(room, 2 * len(self.hashes)))
        for new, old in (
            (larger.hashes, self.hashes),
            (larger.starts, self.starts),
            (larger.sizes, self.sizes),
            (larger.variants, self.variants),
        ):
            new[: self.count] = old[: self.count]
        kernels.fill_slots(larger.hashes, larger.sizes, self.count, larger.slots)
        return replace(larger, count=self.count)


class WordEncoder:
    """Encodes texts of one tokenizer by their units, and remembers the units.

    Not for use by several threads at once: callers that share one hold a lock.
    """

    def __init__(self, family: Family, tokenizer: Tokenizer) -> None:
        self.family = family
        self._tokenizers = {
            variant: tokenizer if variant == family.variants else _tokenizer(settings)
            for variant, settings in family.settings.items()
        }
        self._classes = byte_classes()
        # One word a unit is what BERT's cuts give, so the kernel can stand in for the tokenizer there.
        self._wordpiece = AsciiWordPiece.from_settings(family.settings[0]) if family.name == "BERT" else None
        triggers = [trigger.encode() for trigger in family.triggers]
        self._triggers = np.frombuffer(b"".join(triggers), np.uint8)
        self._trigger_offsets = offsets_of(np.array([len(trigger) for trigger in triggers], np.int64))
        self._marked_classes = self._classes.copy()
        self._marked_classes[list({trigger[0] for trigger in triggers})] += kernels.TRIGGER
        self._forget()

    def _forget(self) -> None:
        self._known = Units.empty(1 << 10)
        self._bytes = np.empty(1 << 14, np.uint8)
        self._token_offsets = np.zeros(1, np.int64)  # tokens of each known unit
        self._tokens = np.empty(0, np.int32)  # id, first character and one past the last, side by side

    def encode(self, texts: pa.Array, workers: int = 1, with_chars: bool = True) -> EncodedTexts:
        """Encode each text on its own, as the tokenizer would.

        Args:
            texts: string [U].
            workers: Threads that scan and gather.
            with_chars: Whether character offsets are wanted; empty arrays stand in their place otherwise.
        """
        flat = text_buffers(texts)
        ranges = row_ranges(flat.offsets, workers)
        with ThreadPoolExecutor(len(ranges) or 1) as pool:
            row_end = np.empty(len(texts), np.int64)
            scans = list(pool.map(lambda rows: self._scan(flat, rows[0], rows[1], row_end), ranges))
            numbers = [self._learn(flat.values, scan.units) for scan in scans]
            token_offsets, tokens = self._token_offsets, self._tokens
            counts = np.empty(len(texts), np.int64)

            def count(scan: Scan, number: Int32s) -> None:
                kernels.count_tokens(
                    scan.occurrence, number, row_end, scan.row_begin, scan.row_end, token_offsets, counts
                )

            list(pool.map(count, scans, numbers))
            offsets = offsets_of(counts)
            ids = np.empty(offsets[-1], np.int32)
            char_start, char_end = (np.empty(offsets[-1] if with_chars else 0, np.int32) for _ in range(2))

            def gather(scan: Scan, number: Int32s) -> None:
                kernels.gather_tokens(
                    scan.occurrence, scan.char_start, number, row_end, scan.row_begin, scan.row_end,
                    token_offsets, tokens, offsets, ids, char_start, char_end,
                )  # fmt: skip

            list(pool.map(gather, scans, numbers))
        if self._known.count and self._known.starts[self._known.count - 1] > _KNOWN_BYTES:
            self._forget()
        return EncodedTexts(ids, char_start, char_end, offsets)

    def _scan(self, flat: Ragged, row_begin: int, row_end: int, out_row_end: Int64s) -> Scan:
        size = int(flat.offsets[row_end] - flat.offsets[row_begin])
        units = Units.empty(min(size, _FIRST_UNITS))
        # One entry a byte is the most there can be; pages that are not written cost nothing.
        occurrence, char_start = np.empty(size, np.int32), np.empty(size, np.int32)
        longest = int(np.diff(flat.offsets[row_begin : row_end + 1]).max(initial=0))
        scratch_start, scratch_char = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int32)
        state = np.zeros(2, np.int64)
        row = row_begin
        while True:
            row = kernels.scan_texts(
                flat.values, flat.offsets, row, row_end, self._marked_classes, self.family.cuts,
                self.family.drop_space, self.family.variants, self._triggers, self._trigger_offsets, units.slots,
                units.hashes, units.starts, units.sizes, units.variants, occurrence, char_start, out_row_end,
                scratch_start, scratch_char, state,
            )  # fmt: skip
            units = replace(units, count=int(state[0]))
            if row == row_end:
                return Scan(row_begin, row_end, units, occurrence[: state[1]], char_start[: state[1]])
            units = units.with_room(units.count + int(flat.offsets[row + 1] - flat.offsets[row]))

    def _learn(self, text: np.ndarray, units: Units) -> Int32s:
        """Number the scanned units among the known, encoding those that are new: int32[scanned units]."""
        before = self._known.count
        known = self._known.with_room(before + units.count)
        used = int(known.starts[before - 1] + known.sizes[before - 1]) if before else 0
        needed = used + int(units.sizes[: units.count].sum())
        if needed > len(self._bytes):
            larger = np.empty(max(needed, 2 * len(self._bytes)), np.uint8)
            larger[:used] = self._bytes[:used]
            self._bytes = larger
        number = np.empty(units.count, np.int32)
        count = kernels.merge_units(
            text, units.hashes, units.starts, units.sizes, units.variants, units.count, before,
            known.slots, known.hashes, known.starts, known.sizes, known.variants, self._bytes, number,
        )  # fmt: skip
        if count > before:
            fresh = offsets_of(known.sizes[before:count]) + used
            added = self._encode_units(fresh, known.variants[before:count])
            beside = np.stack([added.ids, added.char_start, added.char_end], axis=1).reshape(-1)
            self._tokens = np.concatenate([self._tokens, beside])
            self._token_offsets = np.concatenate([self._token_offsets, added.offsets[1:] + self._token_offsets[-1]])
        self._known = replace(known, count=count)
        return number

    def _encode_units(self, offsets: Int64s, variants: np.ndarray) -> EncodedTexts:
        """Encode units, given by their byte offsets in the store, each in the cheapest way that is right for it."""
        units = Ragged(self._bytes[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
        strings = strings_from(units)
        way = variants.astype(np.int64)
        if self._wordpiece is not None:
            is_plain = (self._classes != kernels.OPAQUE) & (self._classes < kernels.SPACE)
            way[plain_words(units, is_plain) & (variants == 0)] = _PLAIN
        parts, order = [], []
        for number in np.unique(way).tolist():
            rows = np.flatnonzero(way == number)
            chosen = strings if len(rows) == len(strings) else strings.take(pa.array(rows))
            if number == _PLAIN and self._wordpiece is not None:
                parts.append(self._wordpiece.encode(text_buffers(chosen)))
            elif number == 0:
                parts.append(self._encode_joined(self._tokenizers[0], chosen))
            else:
                # Whole texts, and first or last units that differ from the others as a string's would: one string each.
                variant = self.family.variants if number == kernels.WHOLE else number
                parts.append(encode_strings(self._tokenizers[variant], chosen.to_pylist()))
            order.append(rows)
        return parts[0] if len(parts) == 1 else _reordered(parts, np.concatenate(order))

    def _encode_joined(self, tokenizer: Tokenizer, units: pa.Array) -> EncodedTexts:
        """Encode many units in one string, where the scan would part them again at the same places."""
        flat = text_buffers(units)
        chars = np.empty(len(units), np.int32)
        text_kernels.count_chars(flat.values, flat.offsets, chars)
        starts_string = np.arange(len(units)) % _UNITS_A_STRING == 0
        if not self.family.joiner:
            last = self._classes[flat.values[flat.offsets[1:] - 1]].astype(np.int64)
            first = self._classes[flat.values[flat.offsets[:-1]]].astype(np.int64)
            starts_string[1:] |= self.family.cuts[last[:-1] * kernels.CLASSES + first[1:]] == 0
        heads = np.flatnonzero(starts_string)
        words = units.to_pylist()
        ends = np.append(heads[1:], len(words))
        strings = [self.family.joiner.join(words[a:b]) for a, b in zip(heads.tolist(), ends.tolist(), strict=True)]
        encoded = encode_strings(tokenizer, strings)
        # Place every unit and every token on one line of characters, string after string, a gap between strings.
        advance = chars.astype(np.int64) + len(self.family.joiner)
        advance[ends - 1] += 1
        unit_start = offsets_of(advance)
        string_of_token = np.repeat(np.arange(len(strings)), np.diff(encoded.offsets))
        token_at = unit_start[heads][string_of_token] + encoded.char_start
        unit_of_token = np.searchsorted(unit_start[:-1], token_at, side="right") - 1
        shift = (unit_start[unit_of_token] - unit_start[heads][string_of_token]).astype(np.int32)
        counts = np.bincount(unit_of_token, minlength=len(units))
        return EncodedTexts(encoded.ids, encoded.char_start - shift, encoded.char_end - shift, offsets_of(counts))


def _tokenizer(settings: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_buffer(orjson.dumps(settings))


def _appended(left: EncodedTexts, right: EncodedTexts) -> EncodedTexts:
    return EncodedTexts(
        np.concatenate([left.ids, right.ids]),
        np.concatenate([left.char_start, right.char_start]),
        np.concatenate([left.char_end, right.char_end]),
        np.concatenate([left.offsets, right.offsets[1:] + left.offsets[-1]]),
    )


def _reordered(parts: list[EncodedTexts], order: Int64s) -> EncodedTexts:
    """The parts' texts, one part after the other, put to the places that `order` gives."""
    whole = parts[0]
    for part in parts[1:]:
        whole = _appended(whole, part)
    source = np.argsort(order, kind="stable")
    counts = np.diff(whole.offsets)[source]
    offsets = offsets_of(counts)
    index = np.arange(offsets[-1]) + np.repeat(whole.offsets[:-1][source] - offsets[:-1], counts)
    return EncodedTexts(whole.ids[index], whole.char_start[index], whole.char_end[index], offsets)
