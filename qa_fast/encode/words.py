"""The fast way: each distinct unit of the texts is tokenized once, by a kernel or else by the Rust tokenizer.

Texts repeat their words: the contexts of SQuAD's training set hold 3.6 million pre-tokens, 0.1 million distinct ones.
A scan cuts the texts into units and numbers the distinct ones, those not seen yet are tokenized, and a gather writes
every text's ids and character offsets. The units stay known, so a second text costs less than the first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import orjson
import pyarrow as pa

from qa_fast.buffers import grown, offsets_of, text_buffers
from qa_fast.encode.cuts import CutRule, byte_classes
from qa_fast.encode.direct import EncodedTexts, encode_strings
from qa_fast.encode.units import Cutter, Scanner, UnitSet
from qa_fast.kernels import words as kernels
from qa_fast.schema import Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Units that are encoded in one string, where units may be joined: few calls, and strings that stay in the cache.
_UNITS_A_STRING = 512
# The known units are forgotten beyond so many, or so many bytes of text: with tokens and places they take some 300
# bytes each, and in each thread's set 100 more. SQuAD has 0.2 million; a corpus without end has them without end.
_KNOWN_UNITS = 3 << 17
_KNOWN_BYTES = 1 << 26


class WordEncoder:
    """Encodes texts of one tokenizer by their units, and remembers the units. Threads may share it."""

    def __init__(self, rule: CutRule, tokenizer: Tokenizer) -> None:
        self.rule = rule
        self._tokenizers = {
            variant: tokenizer if variant == rule.variants else _tokenizer(settings)
            for variant, settings in rule.settings.items()
        }
        self._splitter = _splitter(rule, self._tokenizers.get(0, tokenizer))
        self._lock = threading.Lock()  # over all below, and the tokenizers
        self._free: list[Scanner] = []
        self._generation = 0
        self._forget()

    def _forget(self) -> None:
        self._known = UnitSet()
        self._places = np.empty((0, 2), np.int64)  # first token of each known unit, and one past its last
        self._tokens = np.zeros(0, np.int32)  # id, first character and one past the last, side by side
        self._token_count = 0
        self._generation += 1

    def encode(self, texts: pa.Array, with_chars: bool = True) -> EncodedTexts:
        """Encode each text on its own, as the tokenizer would.

        Args:
            texts: string [U].
            with_chars: Whether character offsets are wanted; empty arrays stand in their place otherwise.
        """
        with self._scanner() as scanner:
            scanner.scan(text_buffers(texts))
            with self._lock:
                tokens = self._learn(scanner)
            return scanner.gather(tokens, with_chars)

    @contextlib.contextmanager
    def _scanner(self) -> Iterator[Scanner]:
        """A scanner that no other thread uses; given back only if all went well."""
        with self._lock:
            # One that met units which were forgotten since would bring them all back.
            self._free = [scanner for scanner in self._free if scanner.generation == self._generation]
            scanner = self._free.pop() if self._free else Scanner(Cutter(self.rule))
        yield scanner
        if not _is_full(scanner.units):
            with self._lock:
                self._free.append(scanner)

    def _learn(self, scanner: Scanner) -> np.ndarray:
        """Tell the scanner where its new units' tokens are, encoding those that no thread knows; all tokens."""
        if scanner.generation != self._generation:
            scanner.generation, scanner.placed = self._generation, 0
        if scanner.placed < scanner.units.count:
            try:
                before = self._known.count
                numbers = self._known.add_from(scanner.units, scanner.placed)
                self._encode_units(before)
            except BaseException:  # an interrupt too must not leave units without tokens
                self._forget()
                raise
            places = self._places[numbers]
            scanner.place(places[:, 0], places[:, 1])
        tokens = self._tokens
        if _is_full(self._known):
            self._forget()
        return tokens

    def _encode_units(self, begin: int) -> None:
        """Encode the known units from number `begin` on, each in the cheapest way that is right for it."""
        known = self._known
        self._places = grown(self._places, known.count)
        variants = known.variants[begin : known.count]
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
                like = self.rule.variants if variant == kernels.WHOLE else variant
                encoded = self._encode_one_by_one(self._tokenizers[like], units)
            self._add_tokens(units, encoded)

    def _add_tokens(self, units: Int64s, encoded: EncodedTexts) -> None:
        """Append the tokens of the given known units."""
        begin, end = self._token_count, self._token_count + len(encoded.ids)
        self._tokens = grown(self._tokens, 3 * (end + kernels.SPARE_TOKENS))
        beside = self._tokens[3 * begin : 3 * end].reshape(-1, 3)
        beside[:, 0], beside[:, 1], beside[:, 2] = encoded.ids, encoded.char_start, encoded.char_end
        self._places[units, 0] = encoded.offsets[:-1] + begin
        self._places[units, 1] = encoded.offsets[1:] + begin
        self._token_count = end

    def _encode_one_by_one(self, tokenizer: Tokenizer, units: Int64s) -> EncodedTexts:
        """Encode each unit as a string of its own: whole texts, and units that differ from others as a string's do."""
        known = self._known
        spans = zip(known.offsets[units].tolist(), known.offsets[units + 1].tolist(), strict=True)
        return encode_strings(tokenizer, [known.text[a:b].tobytes().decode() for a, b in spans])

    def _encode_joined(self, tokenizer: Tokenizer, units: Int64s) -> EncodedTexts:
        """Encode many units in one string, where the scan would part them again at the same places."""
        known, joiner = self._known, self.rule.joiner
        begins, ends = known.offsets[units], known.offsets[units + 1]
        flat = np.empty(int((ends - begins).sum()) + len(units) * len(joiner), np.uint8)
        offsets, chars = np.empty(len(units) + 1, np.int64), np.empty(len(units), np.int32)
        kernels.join_units(known.text, begins, ends, np.frombuffer(joiner.encode(), np.uint8), flat, offsets, chars)
        starts_string = np.arange(len(units)) % _UNITS_A_STRING == 0
        if not joiner:
            classes = byte_classes()
            last, first = (classes[known.text[at]].astype(np.int64) for at in (ends - 1, begins))
            starts_string[1:] |= self.rule.cuts[last[:-1] * kernels.CLASSES + first[1:]] == 0
        heads = np.flatnonzero(starts_string)
        tails = np.append(heads[1:], len(units))
        spans = zip(offsets[heads].tolist(), (offsets[tails] - len(joiner)).tolist(), strict=True)
        encoded = encode_strings(tokenizer, [flat[a:b].tobytes().decode() for a, b in spans])
        # Place every unit and every token on one line of characters, string after string, a gap between strings.
        advance = chars.astype(np.int64) + len(joiner)
        advance[tails - 1] += 1
        unit_start = offsets_of(advance)
        string_of_token = np.repeat(np.arange(len(heads)), np.diff(encoded.offsets))
        token_at = unit_start[heads][string_of_token] + encoded.char_start
        unit_of_token = np.searchsorted(unit_start[:-1], token_at, side="right") - 1
        shift = (unit_start[unit_of_token] - unit_start[heads][string_of_token]).astype(np.int32)
        counts = np.bincount(unit_of_token, minlength=len(units))
        return EncodedTexts(encoded.ids, encoded.char_start - shift, encoded.char_end - shift, offsets_of(counts))


def _is_full(units: UnitSet) -> bool:
    return units.count > _KNOWN_UNITS or units.size > _KNOWN_BYTES


class Splitter(Protocol):
    """A kernel that stands in for the tokenizer where it can."""

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Which units it could do, and their tokens; see `wordpiece.WordPiece.encode`."""
        ...


def _splitter(rule: CutRule, tokenizer: Tokenizer) -> Splitter | None:
    """The kernel for the model that usually goes with the rule; None where the tokenizer has another."""
    settings = rule.settings[0]
    if rule.name == "BERT":
        from qa_fast.encode.wordpiece import WordPiece

        return WordPiece.of(tokenizer, settings)
    if rule.name == "byte-level":
        from qa_fast.encode.bpe import BytePairs

        return BytePairs.of(tokenizer, settings)
    from qa_fast.encode.unigram import Unigram

    return Unigram.of(tokenizer, settings)


def _tokenizer(settings: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_buffer(orjson.dumps(settings))
