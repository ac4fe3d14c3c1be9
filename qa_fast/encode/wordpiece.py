"""Units of BERT's tokenizers, tokenized in a kernel; units that the kernel cannot judge are left to the Rust tokenizer.

Once every distinct unit is encoded only once, passing units to Rust and taking its objects apart is the largest cost
(see bench/README.md), and most models in use descend from BERT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.encode.characters import Characters
from qa_fast.encode.encoded import EncodedTexts, encode_units
from qa_fast.encode.vocabulary import vocabulary_of
from qa_fast.kernels import wordpiece as kernels
from qa_fast.kernels.vocabulary import Vocabulary
from qa_fast.schema import Int64s


@dataclass(frozen=True)
class WordPiece:
    """Tokenizes units of a BERT tokenizer.

    Attributes:
        characters: What the tokenizer makes of each character.
        rules: The settings of its model.
        vocabulary: The tokens.
    """

    characters: Characters
    rules: kernels.WordRules
    vocabulary: Vocabulary

    @classmethod
    def of(cls, settings: dict[str, Any]) -> WordPiece | None:
        """Return the splitter of a tokenizer.json; None if its model is not WordPiece."""
        model = settings.get("model") or {}
        vocabulary: dict[str, int] = model.get("vocab") or {}
        if model.get("type") != "WordPiece" or model.get("unk_token") not in vocabulary:
            return None
        rules = kernels.WordRules(
            longest_word=model["max_input_chars_per_word"],
            unknown_id=vocabulary[model["unk_token"]],
            prefix=np.array(bytearray(model["continuing_subword_prefix"].encode()), np.uint8),
        )
        return cls(Characters(settings), rules, vocabulary_of(vocabulary))

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> tuple[np.ndarray, EncodedTexts]:
        """Tokenize units, given by their bytes. Threads must not share this.

        Args:
            text: uint8[bytes].
            begins: int64[U], first byte of each unit.
            ends: int64[U], one past its last.

        Returns:
            bool[U], the units that this could do, and the tokens of all units; the others have none.
        """
        characters = self.characters
        characters.learn_from(text, begins, ends)
        sizes = (ends - begins) * characters.growth
        longest = int(sizes.max(initial=0))
        scratch = kernels.WordScratch(
            np.empty(longest, np.uint8),
            np.empty(longest, np.uint8),
            np.empty(longest, np.int32),
            np.empty(self.vocabulary.longest + 1, np.uint64),
        )
        return encode_units(
            lambda *out: kernels.split_units(
                text, begins, ends, characters.table, self.rules, self.vocabulary, scratch, *out
            ),
            len(begins),
            int(sizes.sum()),
        )
