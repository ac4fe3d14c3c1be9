"""Units of BERT's tokenizers, tokenized in a kernel; what the kernel must not judge is left to the Rust tokenizer.

Once every distinct unit is encoded once, handing units to Rust and taking its objects apart again is what costs most
(see bench/README.md), and most models in use are BERT's children.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.encode.characters import Characters
from qa_fast.encode.direct import EncodedTexts
from qa_fast.encode.vocabulary import Vocabulary
from qa_fast.kernels import wordpiece as kernels
from qa_fast.schema import Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class WordPiece:
    """Tokenizes units of a BERT tokenizer.

    Attributes:
        characters: What the tokenizer makes of each character.
        longest_word: Characters beyond which a word is unknown.
        unknown_id: Id of the unknown token.
        prefix: uint8[.], what a continuing piece starts with.
        vocabulary: The tokens.
    """

    characters: Characters
    longest_word: int
    unknown_id: int
    prefix: np.ndarray
    vocabulary: Vocabulary

    @classmethod
    def of(cls, tokenizer: Tokenizer, settings: dict[str, Any]) -> WordPiece | None:
        """That of a BERT-like tokenizer and its tokenizer.json; None where its model is not WordPiece."""
        model = settings.get("model") or {}
        vocabulary: dict[str, int] = model.get("vocab") or {}
        if model.get("type") != "WordPiece" or model.get("unk_token") not in vocabulary:
            return None
        return cls(
            characters=Characters(tokenizer, settings),
            longest_word=model["max_input_chars_per_word"],
            unknown_id=vocabulary[model["unk_token"]],
            prefix=np.frombuffer(model["continuing_subword_prefix"].encode(), np.uint8),
            vocabulary=Vocabulary.of(vocabulary),
        )

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Tokenize units, given by their bytes; not for several threads at once.

        Args:
            text: uint8[bytes].
            begins: int64[U], first byte of each unit.
            ends: int64[U], one past its last.

        Returns:
            bool[U], which of them this could do, and the tokens of all; none for the others.
        """
        characters = self.characters
        characters.learn_from(text, begins, ends)
        sizes = ends - begins
        longest = int(sizes.max(initial=0)) * characters.growth
        done, offsets = np.empty(len(begins), np.uint8), np.empty(len(begins) + 1, np.int64)
        tokens = np.empty(3 * int(sizes.sum()) * characters.growth, np.int32)
        vocabulary = self.vocabulary
        count = kernels.split_units(
            text, begins, ends, characters.entries, characters.offsets, characters.text, characters.kinds,
            self.longest_word, vocabulary.longest, self.unknown_id, self.prefix, *vocabulary.arrays,
            *vocabulary.slots, np.empty(longest, np.uint8), np.empty(longest, np.uint8), np.empty(longest, np.int32),
            np.empty(vocabulary.longest + 1, np.uint64), done, offsets, tokens,
        )  # fmt: skip
        return done.astype(bool), EncodedTexts.of(tokens[: 3 * count], offsets)
