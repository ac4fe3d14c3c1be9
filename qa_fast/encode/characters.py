"""What a BERT tokenizer makes of each character, asked of the tokenizer itself, once a character.

BERT's normaliser (clean, space out ideographs, decompose and drop accents, lowercase) maps each character to a string
of its own: what it does to a text is what it does to the characters one by one. Only the order of combining marks
depends on neighbours, and where it orders them it drops them; a character that keeps one is left to the tokenizer. Its
pre-tokenizer judges each character alone. So one question a character stands for all texts, and no table of Unicode is
copied here.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.buffers import grown
from qa_fast.kernels import wordpiece as kernels
from qa_fast.schema import Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The one normaliser that is known to work character by character; others do so for ASCII only.
_BERT = "BertNormalizer"


class Characters:
    """The table, which grows as characters are met. Not for several threads at once.

    Attributes:
        entries: int32[code points], row of each character; 0: not asked yet, below 0: left to the tokenizer.
        offsets: int32[rows + 1], into the next two.
        text: uint8[.], the normalised characters.
        kinds: uint8[.], see `kernels.wordpiece`.
        growth: Normalised bytes for each byte of a character, at most.
    """

    def __init__(self, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
        self._normalizer, self._pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
        normalizer = settings.get("normalizer")
        self._ascii_only = normalizer is not None and normalizer.get("type") != _BERT
        strips = (normalizer or {}).get("strip_accents")
        self._decomposes = (normalizer or {}).get("lowercase", False) if strips is None else strips
        self._kinds: dict[str, int] = {}
        self.entries = np.zeros(sys.maxunicode + 1, np.int32)
        self.offsets = np.zeros(2, np.int32)  # row 0 is nobody's
        self.text, self.kinds = np.zeros(1024, np.uint8), np.zeros(1024, np.uint8)
        self.growth = 1
        self._rows = 1
        self._learn(range(128))

    def learn_from(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> None:
        """Ask for the characters of units that are not in the table yet; see `kernels.wordpiece.find_unknown_chars`."""
        codes = np.empty(int((ends - begins).sum()), np.int32)
        found = kernels.find_unknown_chars(text, begins, ends, self.entries, codes)
        if found:
            self._learn(codes[:found].tolist())

    def _learn(self, codes: range | list[int]) -> None:
        self.offsets = grown(self.offsets, self._rows + len(codes) + 1)
        for code in codes:
            normalized = self._normalized(chr(code))
            if normalized is None:
                self.entries[code] = kernels.LEFT
                continue
            begin = int(self.offsets[self._rows])
            data = normalized.encode()
            kinds = [self._kind(char) for char in normalized for _ in char.encode()]
            end = begin + len(data)
            self.text, self.kinds = grown(self.text, end), grown(self.kinds, end)
            self.text[begin:end] = np.frombuffer(data, np.uint8)
            self.kinds[begin:end] = kinds
            self.kinds[begin:end][(self.text[begin:end] & 0xC0) != 0x80] += kernels.LEAD
            self.offsets[self._rows + 1] = end
            self.growth = max(self.growth, -(-len(data) // len(chr(code).encode())))
            self.entries[code] = self._rows
            self._rows += 1

    def _normalized(self, char: str) -> str | None:
        """What the character becomes; None where that depends on its neighbours."""
        if self._ascii_only and not char.isascii():
            return None
        normalized: str = self._normalizer.normalize_str(char) if self._normalizer else char
        if self._decomposes and any(map(unicodedata.combining, normalized)):
            return None
        return normalized

    def _kind(self, char: str) -> int:
        if char not in self._kinds:
            parts = [part for part, _ in self._pre_tokenizer.pre_tokenize_str(f"a{char}a")]
            self._kinds[char] = {1: kernels.WORD, 2: kernels.BLANK, 3: kernels.MARK}[len(parts)]
        return self._kinds[char]
