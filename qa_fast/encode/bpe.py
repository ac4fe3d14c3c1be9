"""Plain units of byte-level BPE tokenizers, merged in a kernel; the others are left to the Rust tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.encode.cuts import byte_classes
from qa_fast.encode.encoded import EncodedTexts, encode_units
from qa_fast.encode.steps import byte_alphabet, trimming_processors
from qa_fast.kernels import bpe as kernels
from qa_fast.kernels.words import DIGIT, LETTER, PUNCTUATION
from qa_fast.schema import Int64s

# Merging is quadratic in the bytes of a unit; longer ones are rare.
_LONGEST_UNIT = 64


@dataclass(frozen=True)
class BytePairs:
    """Tokenizes units of a byte-level BPE tokenizer.

    Attributes:
        tables: Its merges.
    """

    tables: kernels.MergeTables

    @classmethod
    def of(cls, settings: dict[str, Any]) -> BytePairs | None:
        """Return the splitter of a tokenizer.json; None if its model is not plain BPE."""
        model = settings.get("model") or {}
        special = ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get("type") != "BPE" or any(model.get(name) for name in special):
            return None
        vocabulary: dict[str, int] = model["vocab"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        merges = [merge for merge in merges if merge[0] != "#version:"]  # the first line of an old file, not a merge
        left, right = (np.array([vocabulary[merge[side]] for merge in merges], np.int32) for side in (0, 1))
        capacity = 1 << (3 * len(merges) + 1).bit_length()
        pairs, ranks = np.zeros(capacity, np.uint64), np.empty(capacity, np.int32)
        kernels.fill_pairs(left, right, pairs, ranks)
        classes = byte_classes()
        return cls(
            kernels.MergeTables(
                kinds=np.where(np.isin(classes, (LETTER, DIGIT, PUNCTUATION)), classes + 1, 0).astype(np.uint8),
                byte_ids=np.array([vocabulary.get(char, -1) for char in byte_alphabet()], np.int32),
                pairs=pairs,
                ranks=ranks,
                merged=np.array([vocabulary["".join(merge)] for merge in merges], np.int32),
                trims=bool(trimming_processors(settings)),
            )
        )

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Tokenize units; see `wordpiece.WordPiece.encode`."""
        scratch = kernels.MergeScratch(*(np.empty(_LONGEST_UNIT, np.int32) for _ in range(3)))
        return encode_units(
            lambda *out: kernels.merge_pairs(text, begins, ends, self.tables, scratch, *out),
            len(begins),
            int((ends - begins).sum()),
        )
