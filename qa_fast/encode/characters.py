"""Finds how a BERT tokenizer treats each character, by asking the tokenizer itself once for each.

BERT's normaliser (clean, space out ideographs, decompose and drop accents, lowercase) maps each character to a string
of its own, so it treats a text as it treats the characters one by one. Only the order of combining marks depends on
neighbours, and the normaliser drops the marks that it orders; a character that keeps one is left to the tokenizer. The
pre-tokenizer judges each character alone. One question for each character is therefore enough for all texts, and no
table of Unicode is copied here.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import numpy as np

from qa_fast.buffers import grown
from qa_fast.encode.library import normalizer_of, pre_tokenizer_of
from qa_fast.kernels import wordpiece as kernels
from qa_fast.schema import Int64s

# The one normaliser that is known to treat every character alone; others do so for ASCII only.
_BERT = "BertNormalizer"


class Characters:
    """A table of characters that grows as new ones occur. Threads must not share it.

    Attributes:
        table: The normalised bytes of the characters.
        growth: Normalised bytes for each byte of a character, at most.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        normalizer = settings.get("normalizer")
        self._normalize, self._pieces = normalizer_of(normalizer), pre_tokenizer_of(settings["pre_tokenizer"])
        self._ascii_only = normalizer is not None and normalizer.get("type") != _BERT
        strips = (normalizer or {}).get("strip_accents")
        self._decomposes = (normalizer or {}).get("lowercase", False) if strips is None else strips
        self._kinds: dict[str, int] = {}
        self.table = kernels.CharacterTable(
            entries=np.zeros(sys.maxunicode + 1, np.int32),
            offsets=np.zeros(2, np.int32),  # no character has row 0
            text=np.zeros(1024, np.uint8),
            kinds=np.zeros(1024, np.uint8),
        )
        self.growth = 1
        self._rows = 1
        self._learn(range(128))

    def learn_from(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> None:
        """Add the new characters of units to the table; see `kernels.wordpiece.find_unknown_chars`."""
        codes = np.empty(int((ends - begins).sum()), np.int32)
        unknown = kernels.find_unknown_chars(text, begins, ends, self.table.entries, codes)
        if unknown:
            self._learn(codes[:unknown].tolist())

    def _learn(self, codes: range | list[int]) -> None:
        entries, offsets, text, kinds = self.table
        offsets = grown(offsets, self._rows + len(codes) + 1)
        for code in codes:
            normalized = self._normalized(chr(code))
            if normalized is None:
                entries[code] = kernels.LEFT
                continue
            data = normalized.encode()
            begin = int(offsets[self._rows])
            end = begin + len(data)
            text, kinds = grown(text, end), grown(kinds, end)
            text[begin:end] = np.frombuffer(data, np.uint8)
            kinds[begin:end] = [self._kind(char) for char in normalized for _ in char.encode()]
            kinds[begin:end][(text[begin:end] & 0xC0) != 0x80] += kernels.LEAD
            offsets[self._rows + 1] = end
            self.growth = max(self.growth, -(-len(data) // len(chr(code).encode())))
            entries[code] = self._rows
            self._rows += 1
        self.table = kernels.CharacterTable(entries, offsets, text, kinds)

    def _normalized(self, char: str) -> str | None:
        """Return the normalised character; None if that depends on its neighbours."""
        if self._ascii_only and not char.isascii():
            return None
        normalized = self._normalize(char)
        if self._decomposes and any(map(unicodedata.combining, normalized)):
            return None
        return normalized

    def _kind(self, char: str) -> int:
        if char not in self._kinds:
            pieces = len(self._pieces(f"a{char}a"))
            self._kinds[char] = {1: kernels.WORD, 2: kernels.BLANK, 3: kernels.MARK}[pieces]
        return self._kinds[char]
