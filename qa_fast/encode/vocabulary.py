"""A tokenizer's vocabulary laid out for the kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.kernels import vocabulary as kernels


def vocabulary_of(ids: Mapping[str, int]) -> kernels.Vocabulary:
    """Return the hash table over tokens and their ids."""
    text = "".join(ids)
    tokens = ids if text.isascii() else [token.encode() for token in ids]
    offsets = offsets_of(np.fromiter(map(len, tokens), np.int64, len(tokens)))
    # Few tokens a slot, so that most look-ups end at a free one.
    capacity = 1 << (3 * len(tokens)).bit_length()
    vocabulary = kernels.Vocabulary(
        text=np.array(bytearray(text.encode()), np.uint8),
        offsets=offsets,
        ids=np.fromiter(ids.values(), np.int32, len(ids)),
        longest=int(np.diff(offsets).max(initial=0)),
        tags=np.zeros(capacity, np.uint8),
        hashes=np.empty(capacity, np.uint64),
        rows=np.empty(capacity, np.int32),
        beginnings=np.zeros((1 << kernels.BEGINNING_BITS) // 64, np.uint64),
    )
    kernels.fill_vocabulary(
        vocabulary.text, offsets, vocabulary.tags, vocabulary.hashes, vocabulary.rows, vocabulary.beginnings
    )
    return vocabulary
