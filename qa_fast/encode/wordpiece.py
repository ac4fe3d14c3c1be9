"""ASCII words of BERT's tokenizers, split in a kernel; everything else is left to the Rust tokenizer.

Once every distinct word is encoded once, handing the words to Rust and taking its objects apart again is what costs
most; this halves the time of the whole encoding (see bench/README.md), and concerns most models in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.encode.direct import EncodedTexts
from qa_fast.encode.families import byte_classes
from qa_fast.kernels import wordpiece as kernels
from qa_fast.kernels.words import OPAQUE, SPACE
from qa_fast.schema import Int32s, Int64s, Ragged


@dataclass(frozen=True)
class AsciiWordPiece:
    """A WordPiece vocabulary laid out for the kernel.

    Attributes:
        lowercase: Whether the normaliser lowercases.
        longest_word: Characters beyond which a word is unknown.
        unknown_id: Id of the unknown token.
        prefix: uint8[.], what a continuing piece starts with.
        tokens: uint8 Ragged[V], the tokens' bytes.
        longest_token: Bytes.
        ids: int32[V].
        slot_tag: uint8[capacity].
        slot_hash: uint64[capacity].
        slot_token: int32[capacity].
        plain: uint8[256], 1 for the bytes that its words may hold.
    """

    lowercase: bool
    longest_word: int
    unknown_id: int
    prefix: np.ndarray
    tokens: Ragged
    longest_token: int
    ids: Int32s
    slot_tag: np.ndarray
    slot_hash: np.ndarray
    slot_token: Int32s
    plain: np.ndarray

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> AsciiWordPiece | None:
        """The splitter of a BERT-like tokenizer.json; None where its model is not WordPiece."""
        model = settings.get("model") or {}
        vocabulary: dict[str, int] = model.get("vocab") or {}
        if model.get("type") != "WordPiece" or model.get("unk_token") not in vocabulary:
            return None
        normalizer = settings.get("normalizer") or {}
        steps = normalizer.get("normalizers", [normalizer])
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
        classes = byte_classes()
        return cls(
            lowercase=any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps),
            longest_word=model["max_input_chars_per_word"],
            unknown_id=vocabulary[model["unk_token"]],
            prefix=np.frombuffer(model["continuing_subword_prefix"].encode(), np.uint8),
            tokens=tokens,
            longest_token=int(tokens.lengths.max()),
            ids=np.fromiter(vocabulary.values(), np.int32),
            slot_tag=slot_tag,
            slot_hash=slot_hash,
            slot_token=slot_token,
            plain=((classes != OPAQUE) & (classes < SPACE)).astype(np.uint8),
        )

    def suits(self, text: np.ndarray, offsets: Int64s) -> np.ndarray:
        """Which words can be split here: bool[U] for uint8[bytes] and int64[U + 1]."""
        only = np.empty(len(offsets) - 1, np.uint8)
        kernels.find_words_of(text, offsets, self.plain, only)
        return only.astype(bool)

    def encode(self, text: np.ndarray, begins: Int64s, ends: Int64s) -> EncodedTexts:
        """Split words that `suits`, each of which is one pre-token.

        Args:
            text: uint8[bytes].
            begins: int64[U], first byte of each word.
            ends: int64[U], one past its last.
        """
        offsets, tokens = np.empty(len(begins) + 1, np.int64), np.empty(3 * int((ends - begins).sum()), np.int32)
        count = kernels.split_words(
            text, begins, ends, self.lowercase, self.longest_word, self.longest_token, self.unknown_id, self.prefix,
            self.tokens.values, self.tokens.offsets, self.ids, self.slot_tag, self.slot_hash, self.slot_token,
            np.empty(self.longest_word, np.uint8), np.empty(self.longest_token + 1, np.uint64), offsets, tokens,
        )  # fmt: skip
        columns = tokens[: 3 * count].reshape(-1, 3)
        return EncodedTexts(columns[:, 0], columns[:, 1], columns[:, 2], offsets)
