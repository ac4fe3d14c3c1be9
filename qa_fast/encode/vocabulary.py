"""A tokenizer's vocabulary laid out for the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.kernels import vocabulary as kernels
from qa_fast.schema import Int32s, Int64s


@dataclass(frozen=True)
class Vocabulary:
    """V tokens and the hash table over them, see `kernels.vocabulary`.

    Attributes:
        text: uint8[bytes] of the tokens.
        offsets: int64[V + 1].
        ids: int32[V].
        longest: Bytes of the longest token.
        slot_tag: uint8[capacity].
        slot_hash: uint64[capacity].
        slot_token: int32[capacity].
        beginnings: uint64[.], which pieces begin a token.
    """

    text: np.ndarray
    offsets: Int64s
    ids: Int32s
    longest: int
    slot_tag: np.ndarray
    slot_hash: np.ndarray
    slot_token: Int32s
    beginnings: np.ndarray

    @classmethod
    def of(cls, ids: Mapping[str, int]) -> Vocabulary:
        """That of tokens and their ids."""
        text = "".join(ids)
        tokens = ids if text.isascii() else [token.encode() for token in ids]
        offsets = offsets_of(np.fromiter(map(len, tokens), np.int64, len(tokens)))
        # Few tokens a slot, so that most look-ups end at an empty one.
        capacity = 1 << (3 * len(tokens)).bit_length()
        slot_tag, slot_hash = np.zeros(capacity, np.uint8), np.empty(capacity, np.uint64)
        slot_token = np.empty(capacity, np.int32)
        data = np.frombuffer(text.encode(), np.uint8)
        beginnings = np.zeros((1 << kernels.BEGINNING_BITS) // 64, np.uint64)
        kernels.fill_vocabulary(data, offsets, slot_tag, slot_hash, slot_token, beginnings)
        return cls(
            data,
            offsets,
            np.fromiter(ids.values(), np.int32, len(ids)),
            int(np.diff(offsets).max(initial=0)),
            slot_tag,
            slot_hash,
            slot_token,
            beginnings,
        )

    @property
    def arrays(self) -> tuple[np.ndarray, Int64s, Int32s]:
        """Text, offsets and ids."""
        return self.text, self.offsets, self.ids

    @property
    def slots(self) -> tuple[np.ndarray, np.ndarray, Int32s, np.ndarray]:
        """The hash table, and the beginnings."""
        return self.slot_tag, self.slot_hash, self.slot_token, self.beginnings
