"""The fast way: each distinct unit of the texts is tokenized once, by a kernel or else by the Rust tokenizer.

Texts repeat their words: the contexts of SQuAD's training set hold 3.6 million pre-tokens, of which 0.1 million are
distinct. A scan cuts the texts into units and numbers the distinct ones, new units are tokenized, and a gather writes
the ids and character offsets of every text. The units stay known, so a second text costs less than the first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa

from qa_fast.buffers import grown, offsets_of, text_buffers
from qa_fast.encode.cuts import CutRule, byte_classes
from qa_fast.encode.encoded import EncodedTexts
from qa_fast.encode.library import RustTokenizer, open_tokenizer
from qa_fast.encode.units import Scanner, UnitSet, cut_tables
from qa_fast.kernels import words as kernels
from qa_fast.parallel import renew_after_fork
from qa_fast.schema import Int64s

# Units that are encoded in one string, if units may be joined: few calls, and strings that stay in the cache.
_UNITS_A_STRING = 512
# Beyond this many units, or this many bytes of text, the known units are forgotten: each takes some 300 bytes with its
# tokens, and 100 more in the set of each thread. SQuAD has 0.2 million units; an endless corpus has no limit.
_KNOWN_UNITS = 3 << 17
_KNOWN_BYTES = 1 << 26


class WordEncoder:
    """Encodes texts of one tokenizer by their units, and remembers the units. Threads may share it.

    Attributes:
        room: Share of the usual number and bytes of units that may be known.
    """

    room = 1.0

    def __init__(self, rule: CutRule, tokenizer: RustTokenizer) -> None:
        self.rule = rule
        self._tokenizers = {
            variant: tokenizer if variant == rule.variants else open_tokenizer(settings)
            for variant, settings in rule.settings.items()
        }
        self._splitter = _splitter(rule)
        self._lock = threading.Lock()  # guards everything below, and the tokenizers
        self._free: list[Scanner] = []
        self._generation = 0
        self._forget()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the units if another thread of the parent was changing them; see `parallel.Renewed`."""
        if self._lock.locked():
            self._lock, self._free = threading.Lock(), []
            self._forget()

    def _forget(self) -> None:
        self._known = UnitSet()
        self._places = np.empty((0, 2), np.int32)  # see `kernels.words.FIRST_TOKEN`
        self._tokens = np.zeros((0, 3), np.int32)  # see `kernels.signature.ID`
        self._token_count = 0
        self._generation += 1

    def encode(self, texts: pa.Array, with_chars: bool = True) -> EncodedTexts:
        """Encode each text on its own, as the tokenizer would.

        Args:
            texts: string [U].
            with_chars: Whether character offsets are wanted; without them their arrays are empty.
        """
        with self._scanner() as scanner:
            scanner.scan(text_buffers(texts))
            with self._lock:
                tokens = self._learn(scanner)
            return scanner.gather(tokens, with_chars)

    @contextlib.contextmanager
    def _scanner(self) -> Iterator[Scanner]:
        """Lend a scanner that no other thread uses; it is taken back only if nothing failed."""
        with self._lock:
            # A scanner with units that were forgotten since would bring them all back.
            self._free = [scanner for scanner in self._free if scanner.generation == self._generation]
            scanner = self._free.pop() if self._free else Scanner(cut_tables(self.rule))
        yield scanner
        if not self._is_full(scanner.units):
            with self._lock:
                self._free.append(scanner)

    def _learn(self, scanner: Scanner) -> np.ndarray:
        """Give the scanner the places of its new units' tokens, encoding unknown units; return all tokens."""
        if scanner.generation != self._generation:
            scanner.generation, scanner.placed = self._generation, 0
        if scanner.placed < scanner.units.count:
            try:
                before = self._known.count
                numbers = self._known.add_from(scanner.units, scanner.placed)
                self._encode_units(before)
            except BaseException:  # even an interrupt must not leave units without tokens
                self._forget()
                raise
            scanner.place(self._places[numbers])
        tokens = self._tokens
        if self._is_full(self._known):
            self._forget()
        return tokens

    def _is_full(self, units: UnitSet) -> bool:
        return units.count > self.room * _KNOWN_UNITS or units.size > self.room * _KNOWN_BYTES

    def _encode_units(self, begin: int) -> None:
        """Encode the known units from number `begin` on, each in the cheapest way that is right for it."""
        known, count = self._known.table, self._known.count
        self._places = grown(self._places, count)
        variants = known.variants[begin:count]
        for variant in np.unique(variants).tolist():
            units = begin + np.flatnonzero(variants == variant)
            if variant == 0 and self._splitter is not None:
                done, encoded = self._splitter.encode(known.text, known.offsets[units], known.offsets[units + 1])
                self._add_tokens(units, encoded)
                units = units[~done]
            if not len(units):
                continue
            if variant == 0:
                encoded = self._encode_joined(self._tokenizers[0], units)
            else:
                settings = self.rule.variants if variant == kernels.WHOLE else variant
                encoded = self._encode_one_by_one(self._tokenizers[settings], units)
            self._add_tokens(units, encoded)

    def _add_tokens(self, units: Int64s, encoded: EncodedTexts) -> None:
        """Append the tokens of the given known units."""
        begin, end = self._token_count, self._token_count + len(encoded.ids)
        self._tokens = grown(self._tokens, end + kernels.SPARE_TOKENS)
        self._tokens[begin:end] = np.stack([encoded.ids, encoded.char_start, encoded.char_end], axis=1)
        self._places[units, kernels.FIRST_TOKEN] = encoded.offsets[:-1] + begin
        self._places[units, kernels.TOKEN_END] = encoded.offsets[1:] + begin
        self._token_count = end

    def _encode_one_by_one(self, tokenizer: RustTokenizer, units: Int64s) -> EncodedTexts:
        """Encode each unit as a string of its own: whole texts, and units that differ at the ends of a text."""
        known = self._known.table
        return tokenizer.encode(_strings(known.text, known.offsets[units], known.offsets[units + 1]))

    def _encode_joined(self, tokenizer: RustTokenizer, units: Int64s) -> EncodedTexts:
        """Encode many units in one string, where the scan would cut the string into them again."""
        known, joiner = self._known.table, self.rule.joiner
        begins, ends = known.offsets[units], known.offsets[units + 1]
        flat = np.empty(int((ends - begins).sum()) + len(units) * len(joiner), np.uint8)
        offsets, chars = np.empty(len(units) + 1, np.int64), np.empty(len(units), np.int32)
        kernels.join_units(known.text, begins, ends, np.frombuffer(joiner.encode(), np.uint8), flat, offsets, chars)
        first_units = np.flatnonzero(self._starts_string(begins, ends))
        last_units = np.append(first_units[1:], len(units)) - 1
        strings = _strings(flat, offsets[first_units], offsets[last_units + 1] - len(joiner))
        return _share_out(tokenizer.encode(strings), first_units, last_units, chars + np.int64(len(joiner)))

    def _starts_string(self, begins: Int64s, ends: Int64s) -> np.ndarray:
        """Return bool[units]: the units that a new string must begin with, as no cut is certain between some units."""
        starts = np.arange(len(begins)) % _UNITS_A_STRING == 0
        if not self.rule.joiner:
            text, classes = self._known.table.text, byte_classes().astype(np.int64)
            last, first = classes[text[ends[:-1] - 1]], classes[text[begins[1:]]]
            starts[1:] |= self.rule.cuts[last * kernels.CLASSES + first] == 0
        return starts


def _strings(text: np.ndarray, begins: Int64s, ends: Int64s) -> list[str]:
    return [text[a:b].tobytes().decode() for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]


def _share_out(encoded: EncodedTexts, first_units: Int64s, last_units: Int64s, chars: Int64s) -> EncodedTexts:
    """Give each unit its tokens of the string that it was encoded in.

    Args:
        encoded: The tokens of S strings.
        first_units: int64[S], the first unit of each string.
        last_units: int64[S], the last one.
        chars: int64[units], characters of each unit and the joiner behind it.
    """
    # Lay the strings one behind the other on one line of characters, with a gap of one between them.
    advance = chars.copy()
    advance[last_units] += 1
    unit_start = offsets_of(advance)[:-1]
    string_start = np.repeat(unit_start[first_units], np.diff(encoded.offsets))
    unit_of_token = np.searchsorted(unit_start, string_start + encoded.char_start, side="right") - 1
    shift = (unit_start[unit_of_token] - string_start).astype(np.int32)
    counts = np.bincount(unit_of_token, minlength=len(chars))
    return EncodedTexts(encoded.ids, encoded.char_start - shift, encoded.char_end - shift, offsets_of(counts))


class Splitter(Protocol):
    """A kernel that replaces the tokenizer for the units that it can do."""

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Return which units it could do, and their tokens; see `wordpiece.WordPiece.encode`."""
        ...


def _splitter(rule: CutRule) -> Splitter | None:
    """Return the kernel for the model that usually goes with the rule; None if the tokenizer has another model."""
    settings = rule.settings[0]
    if rule.name == "BERT":
        from qa_fast.encode.wordpiece import WordPiece

        return WordPiece.of(settings)
    if rule.name == "byte-level":
        from qa_fast.encode.bpe import BytePairs

        return BytePairs.of(settings)
    from qa_fast.encode.unigram import Unigram

    return Unigram.of(settings)
