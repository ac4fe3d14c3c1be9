"""The direct way: every text through the Rust tokenizer as it is. Always right, and the yardstick for the other way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.schema import Int32s, Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Encoding objects of this many texts are alive at a time; more costs memory and gains nothing.
_TEXTS_A_CALL = 1024


@dataclass(frozen=True)
class EncodedTexts:
    """U texts as T tokens, special tokens not included.

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

    @classmethod
    def of(cls, tokens: Int32s, offsets: Int64s) -> EncodedTexts:
        """From kernels' tokens, int32[3 * T]: id, first character and one past the last, side by side."""
        columns = tokens.reshape(-1, 3)
        return cls(columns[:, 0], columns[:, 1], columns[:, 2], offsets)

    def take(self, rows: Int32s) -> EncodedTexts:
        """The given texts, in that order; a text may come several times."""
        counts = np.diff(self.offsets)[rows]
        offsets = offsets_of(counts)
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return EncodedTexts(self.ids[index], self.char_start[index], self.char_end[index], offsets)


def encode_strings(tokenizer: Tokenizer, strings: list[str]) -> EncodedTexts:
    """Encode each string on its own, without special tokens.

    Args:
        tokenizer: Without truncation and padding.
        strings: U texts.
    """
    counts, ids, bounds = [], [], []
    for begin in range(0, len(strings), _TEXTS_A_CALL):
        encodings = tokenizer.encode_batch(strings[begin : begin + _TEXTS_A_CALL], add_special_tokens=False)
        counts.append(np.fromiter(map(len, encodings), np.int64, len(encodings)))
        total = int(counts[-1].sum())
        ids.append(_flat((e.ids for e in encodings), total))
        bounds.append(_flat((chain.from_iterable(e.offsets) for e in encodings), 2 * total))
    both = _joined(bounds).reshape(-1, 2)
    return EncodedTexts(
        _joined(ids),
        np.ascontiguousarray(both[:, 0]),
        np.ascontiguousarray(both[:, 1]),
        offsets_of(np.concatenate(counts) if counts else np.zeros(0, np.int64)),
    )


def _flat(rows: Iterable[Iterable[int]], total: int) -> Int32s:
    return np.fromiter(chain.from_iterable(rows), np.int32, total)


def _joined(parts: list[np.ndarray]) -> Int32s:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
