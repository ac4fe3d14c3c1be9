"""A tokenizer with a cache, so that a document that is asked about twice is tokenized once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa

from qa_fast.buffers import offsets_of
from qa_fast.encode import EncodedTexts, TextEncoder
from qa_fast.schema import Int32s

# Memory of a Python string and of an entry with its three arrays, in addition to their contents.
_ENTRY_BYTES = 600


@dataclass(frozen=True)
class _Tokens:
    """The T tokens of a text: ids, first characters, and one past the last characters; int32[T] each."""

    ids: Int32s
    char_start: Int32s
    char_end: Int32s

    def __len__(self) -> int:
        return len(self.ids)


class TokenCache:
    """A cache of the tokens of texts, which drops the least recently used first. Threads may share it.

    Args:
        limit: Most bytes that texts and tokens may take together.
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
        """Return the tokens of a text, or None, and count the look-up."""
        with self._lock:
            tokens = self._entries.get(text)
            if tokens is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(text)
            return tokens

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
    return 4 * len(text) + 12 * len(tokens) + _ENTRY_BYTES  # a character takes at most four bytes


@dataclass(frozen=True)
class CachingEncoder(TextEncoder):
    """A `TextEncoder` that looks texts up in a `TokenCache` first.

    Attributes:
        cache: The cache.
    """

    cache: TokenCache = field(kw_only=True)

    @classmethod
    def around(cls, encoder: TextEncoder, limit: int) -> CachingEncoder:
        """Return an encoder that gives the same tokens and caches up to `limit` bytes of them."""
        values = {attribute.name: getattr(encoder, attribute.name) for attribute in fields(TextEncoder)}
        return cls(**values, cache=TokenCache(limit))

    def encode(self, texts: pa.Array, with_chars: bool = True) -> EncodedTexts:
        """Encode texts as `TextEncoder.encode` does. Characters are always returned."""
        wanted = texts.to_pylist()
        tokens = {text: cached for text in wanted if (cached := self.cache.get(text)) is not None}
        missing = [text for text in dict.fromkeys(wanted) if text not in tokens]
        if missing:
            encoded = super().encode(pa.array(missing, pa.string()))
            columns = (encoded.ids, encoded.char_start, encoded.char_end)
            for text, begin, end in zip(missing, encoded.offsets[:-1], encoded.offsets[1:], strict=True):
                # Copies: a view would keep the tokens of the whole call in memory.
                tokens[text] = _Tokens(*(column[begin:end].copy() for column in columns))
                self.cache.put(text, tokens[text])
        rows = [tokens[text] for text in wanted]
        none = np.zeros(0, np.int32)
        ids, starts, ends = (
            np.concatenate([none, *(getattr(row, name) for row in rows)]) for name in ("ids", "char_start", "char_end")
        )
        return EncodedTexts(ids, starts, ends, offsets_of(np.array([len(row) for row in rows], np.int64)))
