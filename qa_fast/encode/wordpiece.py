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
from qa_fast.kernels import wordpiece as kernels
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
        ids: int32[V].
        slot_hash: uint64[capacity].
        slot_token: int32[capacity].
    """

    lowercase: bool
    longest_word: int
    unknown_id: int
    prefix: np.ndarray
    tokens: Ragged
    ids: Int32s
    slot_hash: np.ndarray
    slot_token: Int32s

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> AsciiWordPiece | None:
        """The splitter of a BERT-like tokenizer.json; None where its model is not WordPiece."""
        model = settings.get("model") or {}
        vocabulary: dict[str, int] = model.get("vocab") or {}
        if model.get("type") != "WordPiece" or model.get("unk_token") not in vocabulary:
            return None
        normalizer = settings.get("normalizer") or {}
        steps = normalizer.get("normalizers", [normalizer])
        words = [token.encode() for token in vocabulary]
        tokens = Ragged(np.frombuffer(b"".join(words), np.uint8), offsets_of(np.fromiter(map(len, words), np.int64)))
        capacity = 1 << (2 * len(words)).bit_length()
        slot_hash, slot_token = np.zeros(capacity, np.uint64), np.full(capacity, -1, np.int32)
        kernels.fill_vocabulary(tokens.values, tokens.offsets, slot_hash, slot_token)
        return cls(
            lowercase=any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps),
            longest_word=model["max_input_chars_per_word"],
            unknown_id=vocabulary[model["unk_token"]],
            prefix=np.frombuffer(model["continuing_subword_prefix"].encode(), np.uint8),
            tokens=tokens,
            ids=np.fromiter(vocabulary.values(), np.int32),
            slot_hash=slot_hash,
            slot_token=slot_token,
        )

    def encode(self, words: Ragged) -> EncodedTexts:
        """Split ASCII words.

        Args:
            words: uint8 Ragged[U]; each is one pre-token.
        """
        offsets, tokens = np.empty(len(words) + 1, np.int64), np.empty(3 * int(words.lengths.sum()), np.int32)
        count = kernels.split_words(
            words.values, words.offsets, self.lowercase, self.longest_word, int(self.tokens.lengths.max()),
            self.unknown_id, self.prefix, self.tokens.values, self.tokens.offsets, self.ids, self.slot_hash,
            self.slot_token, offsets, tokens,
        )  # fmt: skip
        columns = tokens[: 3 * count].reshape(-1, 3)
        return EncodedTexts(columns[:, 0], columns[:, 1], columns[:, 2], offsets)


def plain_words(words: Ragged, plain_bytes: np.ndarray) -> Int64s:
    """bool[U]: which words are made of the marked bytes alone, bool[256]."""
    odd = np.append(0, np.cumsum(~plain_bytes[words.values[words.offsets[0] : words.offsets[-1]]]))
    bounds = words.offsets - words.offsets[0]
    return odd[bounds[1:]] == odd[bounds[:-1]]
