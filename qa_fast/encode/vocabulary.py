"""A tokenizer's vocabulary laid out for the kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.kernels import vocabulary as kernels


def vocabulary_of(ids: Mapping[str, int]) -> kernels.Vocabulary:
    """Return the hash table over tokens and their ids."""
    text = np.array(bytearray("".join(ids).encode()), np.uint8)
    chars = offsets_of(np.fromiter(map(len, ids), np.int64, len(ids)))
    offsets = np.append(np.flatnonzero((text & 0xC0) != 0x80), len(text))[chars]
    # Few tokens a slot, so that most look-ups end at a free one.
    capacity = 1 << (3 * len(ids)).bit_length()
    vocabulary = kernels.Vocabulary(
        text=text,
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
