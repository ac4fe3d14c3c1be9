"""Plain units of byte-level BPE tokenizers, merged in a kernel; the others are left to the Rust tokenizer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.encode.cuts import byte_classes, trimming_processors
from qa_fast.encode.direct import EncodedTexts
from qa_fast.kernels import bpe as kernels
from qa_fast.kernels.words import DIGIT, LETTER, PUNCTUATION
from qa_fast.schema import Int32s, Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Merging is quadratic in the bytes of a unit; longer ones are rare.
_LONGEST_UNIT = 64


@dataclass(frozen=True)
class BytePairs:
    """Tokenizes units of a byte-level BPE tokenizer.

    Attributes:
        kinds: uint8[256], see `kernels.bpe.merge_pairs`, like the others.
        byte_ids: int32[256].
        pairs: uint64[capacity].
        ranks: int32[capacity].
        merged: int32[merges].
        trims: Whether a leading space is not counted to its token.
    """

    kinds: np.ndarray
    byte_ids: Int32s
    pairs: np.ndarray
    ranks: Int32s
    merged: Int32s
    trims: bool

    @classmethod
    def of(cls, _: Tokenizer, settings: dict[str, Any]) -> BytePairs | None:
        """That of a tokenizer.json; None where its model is not plain BPE."""
        model = settings.get("model") or {}
        special = ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get("type") != "BPE" or any(model.get(name) for name in special):
            return None
        vocabulary: dict[str, int] = model["vocab"]
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        merges = [merge for merge in merges if merge[0] != "#version:"]  # an old file's first line, not a merge
        left, right = (np.array([vocabulary[merge[side]] for merge in merges], np.int32) for side in (0, 1))
        merged = np.array([vocabulary["".join(merge)] for merge in merges], np.int32)
        capacity = 1 << (3 * len(merges) + 1).bit_length()
        pairs, ranks = np.zeros(capacity, np.uint64), np.empty(capacity, np.int32)
        kernels.fill_pairs(left, right, pairs, ranks)
        classes = byte_classes()
        return cls(
            kinds=np.where(np.isin(classes, (LETTER, DIGIT, PUNCTUATION)), classes + 1, 0).astype(np.uint8),
            byte_ids=np.array([vocabulary.get(char, -1) for char in byte_alphabet()], np.int32),
            pairs=pairs,
            ranks=ranks,
            merged=merged,
            trims=bool(trimming_processors(settings)),
        )

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Tokenize units; see `wordpiece.WordPiece.encode`."""
        done, offsets = np.empty(len(begins), np.uint8), np.empty(len(begins) + 1, np.int64)
        tokens = np.empty(3 * int((ends - begins).sum()), np.int32)
        scratch = np.empty((3, _LONGEST_UNIT), np.int32)
        count = kernels.merge_pairs(
            text, begins, ends, self.kinds, self.byte_ids, self.pairs, self.ranks, self.merged, self.trims,
            scratch[0], scratch[1], scratch[2], done, offsets, tokens,
        )  # fmt: skip
        return done.astype(bool), EncodedTexts.of(tokens[: 3 * count], offsets)


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it can be seen, else another."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    beyond = itertools.count(0x100)
    return [chr(byte) if byte in seen else chr(next(beyond)) for byte in range(256)]
