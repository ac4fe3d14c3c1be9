"""Plain units of Unigram tokenizers with Metaspace, split in a kernel; the others are left to the Rust tokenizer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.encode.cuts import normalizers_of
from qa_fast.encode.direct import EncodedTexts
from qa_fast.encode.vocabulary import Vocabulary
from qa_fast.kernels import unigram as kernels
from qa_fast.schema import Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Letters, marks, dashes, quotes and currencies, which no normal form ever joins: what may be joined begins at U+0300.
_ALONE = (range(0x21, 0x7F), range(0xA1, 0x250), range(0x2010, 0x2028), range(0x2030, 0x205F), range(0x20A0, 0x20C0))


@dataclass(frozen=True)
class Unigram:
    """Tokenizes units of a Unigram tokenizer.

    Attributes:
        vocabulary: The tokens.
        scores: float64[V], logarithms of their probabilities.
        replacement: uint8[.], what stands for a space.
        prepends: Whether it is put before a word that has no space before it.
        parted: Whether the space before a word is dropped, as white space that parts words, and then put before it.
        allowed: uint8[code points], see `kernels.unigram.split_units`.
    """

    vocabulary: Vocabulary
    scores: np.ndarray
    replacement: np.ndarray
    prepends: bool
    parted: bool
    allowed: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, settings: dict[str, Any]) -> Unigram | None:
        """That of a tokenizer and its tokenizer.json; None where its model or pre-tokenizer is another."""
        model, pre = settings.get("model") or {}, settings.get("pre_tokenizer") or {}
        metaspace = pre.get("pretokenizers", [pre])[-1]
        if model.get("type") != "Unigram" or metaspace.get("type") != "Metaspace":
            return None
        replacement = metaspace["replacement"]
        # Asked of the tokenizer, since old files say it in other words.
        words = tokenizer.pre_tokenizer.pre_tokenize_str("a a")
        prepends, parted = words[0][0] == replacement + "a", words[-1][1] == (2, 3)
        if parted and not (prepends and words[-1][0] == replacement + "a"):
            return None
        ids = {token: number for number, (token, _) in enumerate(model["vocab"])}
        scores = np.fromiter((model["vocab"][number][1] for number in ids.values()), np.float64, len(ids))
        normalizer = tokenizer.normalizer
        replaced = "".join(step.get("pattern", {}).get("String", "") for step in normalizers_of(settings))
        allowed = np.zeros(_ALONE[-1].stop, np.uint8)
        for code in itertools.chain(*_ALONE):
            char = chr(code)
            # The replacement itself parts words wherever it stands in a text.
            stays = normalizer is None or normalizer.normalize_str(char) == char
            allowed[code] = stays and char != replacement and char not in replaced
        lead = np.frombuffer(replacement.encode(), np.uint8)
        return cls(Vocabulary.of(ids), scores, lead, prepends, parted, allowed)

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Tokenize units; see `wordpiece.WordPiece.encode`."""
        vocabulary = self.vocabulary
        done, offsets = np.empty(len(begins), np.uint8), np.empty(len(begins) + 1, np.int64)
        # A token for each byte at most, and one for what is put before the text.
        tokens = np.empty(3 * (int((ends - begins).sum()) + len(begins)), np.int32)
        room = int((ends - begins).max(initial=0)) + len(self.replacement) + 1
        count = kernels.split_units(
            text, begins, ends, self.allowed, self.replacement, self.prepends, self.parted, vocabulary.longest,
            *vocabulary.arrays, self.scores, *vocabulary.slots, np.empty(room, np.uint8), np.empty(room, np.int32),
            np.empty(room, np.float64), np.empty(room, np.int32), np.empty(room, np.int32), done, offsets, tokens,
        )  # fmt: skip
        return done.astype(bool), EncodedTexts.of(tokens[: 3 * count], offsets)
