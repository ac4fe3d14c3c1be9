"""Units of BERT's tokenizers, tokenized in a kernel; what the kernel must not judge is left to the Rust tokenizer.

Once every distinct unit is encoded once, handing units to Rust and taking its objects apart again is what costs most
(see bench/README.md), and most models in use are BERT's children.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.encode.characters import Characters
from qa_fast.encode.direct import EncodedTexts
from qa_fast.kernels import wordpiece as kernels
from qa_fast.schema import Int32s, Int64s, Ragged

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class WordPiece:
    """A WordPiece vocabulary laid out for the kernel.

    Attributes:
        characters: What the tokenizer makes of each character.
        longest_word: Characters beyond which a word is unknown.
        unknown_id: Id of the unknown token.
        prefix: uint8[.], what a continuing piece starts with.
        tokens: uint8 Ragged[V], the tokens' bytes.
        longest_token: Bytes.
        ids: int32[V].
        slot_tag: uint8[capacity].
        slot_hash: uint64[capacity].
        slot_token: int32[capacity].
    """

    characters: Characters
    longest_word: int
    unknown_id: int
    prefix: np.ndarray
    tokens: Ragged
    longest_token: int
    ids: Int32s
    slot_tag: np.ndarray
    slot_hash: np.ndarray
    slot_token: Int32s

    @classmethod
    def of(cls, tokenizer: Tokenizer, settings: dict[str, Any]) -> WordPiece | None:
        """That of a BERT-like tokenizer and its tokenizer.json; None where its model is not WordPiece."""
        model = settings.get("model") or {}
        vocabulary: dict[str, int] = model.get("vocab") or {}
        if model.get("type") != "WordPiece" or model.get("unk_token") not in vocabulary:
            return None
        text = "".join(vocabulary)
        words = vocabulary if text.isascii() else [token.encode() for token in vocabulary]
        tokens = Ragged(
            np.frombuffer(text.encode(), np.uint8), offsets_of(np.fromiter(map(len, words), np.int64, len(words)))
        )
        # Few tokens a slot, so that most look-ups end at an empty one.
        capacity = 1 << (3 * len(words)).bit_length()
        slot_tag, slot_hash = np.zeros(capacity, np.uint8), np.empty(capacity, np.uint64)
        slot_token = np.empty(capacity, np.int32)
        kernels.fill_vocabulary(tokens.values, tokens.offsets, slot_tag, slot_hash, slot_token)
        return cls(
            characters=Characters(tokenizer, settings),
            longest_word=model["max_input_chars_per_word"],
            unknown_id=vocabulary[model["unk_token"]],
            prefix=np.frombuffer(model["continuing_subword_prefix"].encode(), np.uint8),
            tokens=tokens,
            longest_token=int(tokens.lengths.max()),
            ids=np.fromiter(vocabulary.values(), np.int32),
            slot_tag=slot_tag,
            slot_hash=slot_hash,
            slot_token=slot_token,
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
        count = kernels.split_units(
            text, begins, ends, characters.entries, characters.offsets, characters.text, characters.kinds,
            self.longest_word, self.longest_token, self.unknown_id, self.prefix, self.tokens.values,
            self.tokens.offsets, self.ids, self.slot_tag, self.slot_hash, self.slot_token,
            np.empty(longest, np.uint8), np.empty(longest, np.uint8), np.empty(longest, np.int32),
            np.empty(self.longest_token + 1, np.uint64), done, offsets, tokens,
        )  # fmt: skip
        columns = tokens[: 3 * count].reshape(-1, 3)
        return done.astype(bool), EncodedTexts(columns[:, 0], columns[:, 1], columns[:, 2], offsets)
