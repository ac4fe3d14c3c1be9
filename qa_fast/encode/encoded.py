"""Tokens of texts as flat arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.schema import Int32s, Int64s


@dataclass(frozen=True)
class EncodedTexts:
    """U texts as T tokens, without special tokens.

    Attributes:
        ids: int32[T].
        char_start: int32[T], first character of each token in its text.
        char_end: int32[T], one past its last character.
        offsets: int64[U + 1], text i has tokens `offsets[i]:offsets[i + 1]`.
    """

    ids: Int32s
    char_start: Int32s
    char_end: Int32s
    offsets: Int64s

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, begin: int, end: int) -> EncodedTexts:
        """Return texts [begin, end), without a copy of their tokens."""
        first, last = self.offsets[begin], self.offsets[end]
        offsets = self.offsets[begin : end + 1] - first
        return EncodedTexts(self.ids[first:last], self.char_start[first:last], self.char_end[first:last], offsets)

    def take(self, rows: Int32s) -> EncodedTexts:
        """Return the given texts, in that order; a text may be taken several times."""
        counts = np.diff(self.offsets)[rows]
        offsets = offsets_of(counts)
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return EncodedTexts(self.ids[index], self.char_start[index], self.char_end[index], offsets)


def encode_units(
    kernel: Callable[[np.ndarray, Int64s, Int32s], int], units: int, most_tokens: int
) -> tuple[np.ndarray, EncodedTexts]:
    """Tokenize units by a kernel.

    Args:
        kernel: Writes `out_done` uint8[U], `out_offsets` int64[U + 1] and `out_tokens` int32[most_tokens, 3], and
            returns the number of tokens; see `kernels.wordpiece.split_units`.
        units: U.
        most_tokens: The most tokens that there can be.

    Returns:
        bool[U], the units that the kernel could do, and the tokens of all units; the others have none.
    """
    done, offsets = np.empty(units, np.uint8), np.empty(units + 1, np.int64)
    tokens = np.empty((most_tokens, 3), np.int32)
    ids, char_start, char_end = tokens[: kernel(done, offsets, tokens)].T
    return done.astype(bool), EncodedTexts(ids, char_start, char_end, offsets)
