"""A tokenizer that remembers: a document asked about twice is tokenized once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa

from qa_fast.buffers import offsets_of
from qa_fast.encode import EncodedTexts, TextEncoder
from qa_fast.schema import Int32s

# Of a Python string and of an entry with its three arrays, besides their contents.
_ENTRY_BYTES = 600


@dataclass(frozen=True)
class _Tokens:
    """One text's tokens: ids, first characters and ends, int32[T] each."""

    ids: Int32s
    char_start: Int32s
    char_end: Int32s

    def __len__(self) -> int:
        return len(self.ids)


class TokenCache:
    """Texts with their tokens, the least recently used dropped first.

    Args:
        limit: Bytes that texts and tokens may take together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[str, _Tokens] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, text: str) -> _Tokens | None:
        """The tokens of a text, or None; counts the look-up."""
        with self._lock:
            found = self._entries.get(text)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(text)
            return found

    def put(self, text: str, tokens: _Tokens) -> None:
        """Keep a text's tokens, unless they alone exceed the limit."""
        with self._lock:
            size = _size(text, tokens)
            if size > self.limit or text in self._entries:
                return
            self._entries[text] = tokens
            self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= _size(*self._entries.popitem(last=False))


def _size(text: str, tokens: _Tokens) -> int:
    return 4 * len(text) + 12 * len(tokens) + _ENTRY_BYTES  # four bytes is a character's most


@dataclass(frozen=True)
class RememberingEncoder(TextEncoder):
    """A `TextEncoder` with a `TokenCache` before it.

    Attributes:
        cache: Where tokens are kept; threads may share it.
    """

    cache: TokenCache = field(kw_only=True)

    @classmethod
    def around(cls, encoder: TextEncoder, limit: int) -> RememberingEncoder:
        """An encoder like the given one that keeps up to `limit` bytes."""
        own = {part.name: getattr(encoder, part.name) for part in fields(TextEncoder)}
        return cls(**own, cache=TokenCache(limit))

    def encode(self, texts: pa.Array, with_chars: bool = True) -> EncodedTexts:
        """See `TextEncoder.encode`; characters always come along."""
        wanted = texts.to_pylist()
        known = [self.cache.get(text) for text in wanted]
        new = [row for row, tokens in enumerate(known) if tokens is None]
        if new:
            fresh = super().encode(texts.take(pa.array(new)))
            for at, row in enumerate(new):
                of = slice(fresh.offsets[at], fresh.offsets[at + 1])
                # Copies: a view would keep the tokens of the whole call alive.
                tokens = _Tokens(fresh.ids[of].copy(), fresh.char_start[of].copy(), fresh.char_end[of].copy())
                known[row] = tokens
                self.cache.put(wanted[row], tokens)
        found = [tokens for tokens in known if tokens is not None]
        none = np.zeros(0, np.int32)
        ids, starts, ends = (
            np.concatenate([none, *(getattr(tokens, name) for tokens in found)])
            for name in ("ids", "char_start", "char_end")
        )
        return EncodedTexts(ids, starts, ends, offsets_of(np.array([len(tokens) for tokens in found], np.int64)))
