"""Encoding each text through the Rust tokenizer: always correct, and the reference for the fast way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from qa_fast.buffers import offsets_of
from qa_fast.schema import Int32s, Int64s

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Encoding objects of this many texts exist at a time; more cost memory and gain nothing.
_TEXTS_A_CALL = 1024


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

    def take(self, rows: Int32s) -> EncodedTexts:
        """Return the given texts, in that order; a text may be taken several times."""
        counts = np.diff(self.offsets)[rows]
        offsets = offsets_of(counts)
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return EncodedTexts(self.ids[index], self.char_start[index], self.char_end[index], offsets)


def encode_strings(tokenizer: Tokenizer, strings: list[str]) -> EncodedTexts:
    """Encode each string on its own, without special tokens.

    Args:
        tokenizer: A tokenizer that neither truncates nor pads.
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


def _flat(rows: Iterable[Iterable[int]], total: int) -> Int32s:
    return np.fromiter(chain.from_iterable(rows), np.int32, total)


def _joined(parts: list[np.ndarray]) -> Int32s:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
