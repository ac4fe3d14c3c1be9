"""Finds how a BERT tokenizer treats each character, by asking the tokenizer itself.

BERT's normaliser (clean, space out ideographs, decompose and drop accents, lowercase) maps each character to a string
of its own, so it treats a text as it treats the characters one by one. Only the order of combining marks depends on
neighbours, and the normaliser drops the marks that it orders; a character that keeps one is left to the tokenizer. The
pre-tokenizer judges each character alone. Each character therefore needs to be asked about once for all texts, and many
may be asked about together. No table of Unicode is copied here.
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
# A character that stays as it is, and that no other becomes.
BETWEEN = "\u2042"


class Characters:
    """A table of characters that grows as new ones occur. Threads must not share it.

    Attributes:
        table: The normalised bytes of the characters.
        growth: Normalised bytes for each byte of a character, at most.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        normalizer = settings.get("normalizer")
        self._normalize, self._pieces = normalizer_of(normalizer), pre_tokenizer_of(settings["pre_tokenizer"], ["b"])
        self._ascii_only = normalizer is not None and normalizer.get("type") != _BERT
        strips = (normalizer or {}).get("strip_accents")
        self._decomposes = (normalizer or {}).get("lowercase", False) if strips is None else strips
        self._kinds: dict[str, bytes] = {}  # of the bytes of a normalized character
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
        """Add characters to the table, with two calls of the library for all of them together."""
        entries, offsets, text, kinds = self.table
        chars = [chr(code) for code in codes]
        forms = self._normalize(BETWEEN.join(chars)).split(BETWEEN)
        if len(forms) != len(chars):  # it is among the characters
            forms = [self._normalize(char) for char in chars]
        self._learn_kinds({char for form in forms for char in form} - self._kinds.keys())
        known = [number for number, form in enumerate(forms) if not self._depends_on_others(chars[number], form)]
        rows = [forms[number].encode() for number in known]
        sizes = np.fromiter(map(len, rows), np.int32, len(rows))
        begin = int(offsets[self._rows])
        ends = begin + np.cumsum(sizes)
        end = begin + int(sizes.sum())
        offsets, text, kinds = grown(offsets, self._rows + len(rows) + 1), grown(text, end), grown(kinds, end)
        offsets[self._rows + 1 : self._rows + 1 + len(rows)] = ends
        text[begin:end] = np.frombuffer(b"".join(rows), np.uint8)
        kinds[begin:end] = np.frombuffer(b"".join(self._kinds[char] for n in known for char in forms[n]), np.uint8)
        growth = (-(-len(row) // len(chars[number].encode())) for number, row in zip(known, rows, strict=True))
        self.growth = max(self.growth, *growth, 1)
        self.table = kernels.CharacterTable(entries, offsets, text, kinds)
        numbers = np.array(codes, np.int64)
        entries[numbers] = kernels.LEFT
        entries[numbers[known]] = np.arange(self._rows, self._rows + len(rows))
        self._rows += len(rows)

    def _depends_on_others(self, char: str, normalized: str) -> bool:
        """Return whether what becomes of a character may depend on its neighbours."""
        if self._ascii_only and not char.isascii():
            return True
        return bool(self._decomposes and any(map(unicodedata.combining, normalized)))

    def _learn_kinds(self, chars: set[str]) -> None:
        """Learn the kinds of the bytes of normalized characters."""
        listed = list(chars)
        # The pieces of "aXa" are counted up to the next "b".
        pieces = np.array(self._pieces("".join(f"a{char}a b " for char in listed)), np.int64)
        counts = np.diff(np.flatnonzero(pieces), prepend=-1) - 1
        kinds = {1: kernels.WORD, 2: kernels.BLANK, 3: kernels.MARK}
        for char, count in zip(listed, counts.tolist(), strict=True):
            kind = kinds[count]
            self._kinds[char] = bytes((kind + kernels.LEAD, *[kind] * (len(char.encode()) - 1)))
