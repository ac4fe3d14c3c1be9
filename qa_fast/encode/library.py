"""The only module that uses the Rust library `tokenizers`: versions 0.22, 0.23 and the candidates of 1.0.

Version 1.0 gives ids, but neither offsets, normalizers nor pre-tokenizers. Offsets are then found from the ids by
`alignment`. What one step of a tokenizer does is asked of a small tokenizer that has only this step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import orjson

from qa_fast.buffers import offsets_of
from qa_fast.encode.alignment import Aligner
from qa_fast.encode.encoded import EncodedTexts
from qa_fast.errors import UserError, shown
from qa_fast.schema import Int8s, Int32s, Int64s
from qa_fast.temporary import temporary_folder

# Encoding objects of this many texts exist at a time; more cost memory and gain nothing.
_TEXTS_A_CALL = 1024
# A model whose token ids are the bytes of the text that it receives.
_BYTES = {"type": "BPE", "vocab": {f"<0x{byte:02X}>": byte for byte in range(256)}, "merges": [], "byte_fallback": True}


class RefusedTextError(UserError):
    """A text that cannot be encoded; others can."""


def open_tokenizer(settings: dict[str, Any], written: bytes | None = None) -> RustTokenizer:
    """Return the tokenizer of a tokenizer.json; see `RustTokenizer`."""
    from tokenizers import Encoding

    return (RustTokenizer if hasattr(Encoding, "offsets") else IdsOnlyTokenizer)(settings, written)


class RustTokenizer:
    """A tokenizer of the Rust library.

    Args:
        settings: A parsed tokenizer.json without truncation and padding, which `untrusted.check_settings` accepts.
        written: The same as JSON, if the caller has it.
    """

    def __init__(self, settings: dict[str, Any], written: bytes | None = None) -> None:
        self._rust = _opened(settings, written)
        self._settings = settings

    def encode(self, strings: list[str]) -> EncodedTexts:
        """Encode each of U strings on its own, without special tokens."""
        return encode_strings(self._rust, strings)

    def confirms(self, encoded: EncodedTexts, strings: list[str]) -> bool:
        """Return whether this tokenizer gives the same tokens, as far as the library tells them."""
        return same_tokens(encoded, self.encode(strings))

    def vocabulary(self) -> dict[str, int]:
        """Return the ids of all tokens, including added ones.

        The library is asked only for those that it may number by itself, since its list of all takes half as long as
        reading the file.
        """
        added = {token["content"]: self.id_of(token["content"]) for token in self._settings.get("added_tokens", [])}
        return self._listed | {token: number for token, number in added.items() if number is not None}

    @property
    def _listed(self) -> dict[str, int]:
        """The ids of the model's own tokens."""
        known: Any = self._settings["model"]["vocab"]
        if isinstance(known, list):  # Unigram's, with scores
            known = {token: number for number, (token, _) in enumerate(known)}
        return known

    def id_of(self, token: str) -> int | None:
        """Return the id of a token; None if there is no such token."""
        found: int | None = self._rust.token_to_id(token)
        return found

    def token_of(self, token_id: int) -> str | None:
        """Return the token with an id, as the vocabulary writes it; None if there is no such id."""
        found: str | None = self._rust.id_to_token(token_id)
        return found

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        return str(self._rust.decode(ids, skip_special_tokens=skip_special_tokens))


class IdsOnlyTokenizer(RustTokenizer):
    """A tokenizer of version 1.0, which gives ids alone. Added tokens, too, are read from tokenizer.json."""

    def encode(self, strings: list[str]) -> EncodedTexts:
        """See `RustTokenizer.encode`.

        Raises:
            RefusedTextError: The offsets of a text cannot be found from its ids.
        """
        ids, offsets = self._ids(strings)
        places = np.empty((2, len(ids)), np.int32)
        for string, begin, end in zip(strings, offsets, offsets[1:], strict=False):
            found = self._aligner.places(string, ids[begin:end].tolist())
            if found is None:  # such as a text with an added token in it
                raise RefusedTextError(
                    "a text needs the offsets of the tokenizers library where they do not follow from its tokens; "
                    f"received tokenizers {_version()}, which gives none, and {shown(string, 60)}: "
                    "pip install 'tokenizers<1'"
                )
            places[:, begin:end] = np.array(found, np.int32).reshape(-1, 2).T
        return EncodedTexts(ids, places[0], places[1], offsets)

    def confirms(self, encoded: EncodedTexts, strings: list[str]) -> bool:
        """See `RustTokenizer.confirms`; ids and counts are compared, as there are no offsets."""
        ids, offsets = self._ids(strings)
        return np.array_equal(encoded.ids, ids) and np.array_equal(encoded.offsets, offsets)

    def vocabulary(self) -> dict[str, int]:
        """See `RustTokenizer.vocabulary`.

        Raises:
            UserError: The library gives an added token another id than tokenizer.json.
        """
        vocabulary = self._vocabulary
        for token in self._settings.get("added_tokens", []):
            content, stated = token["content"], vocabulary[token["content"]]
            given = self._rust.encode(content, add_special_tokens=False).ids
            if content and given != [stated]:
                raise UserError(
                    f"an added token must have the id that the tokenizers library gives it; received {stated} for "
                    f"{shown(content)}, and {given} from tokenizers {_version()}: save the tokenizer anew with "
                    "transformers"
                )
        return vocabulary

    def id_of(self, token: str) -> int | None:
        """See `RustTokenizer.id_of`."""
        return self._vocabulary.get(token)

    def token_of(self, token_id: int) -> str | None:
        """See `RustTokenizer.token_of`."""
        return next(iter(self._rust.decode_tokens([token_id])), None)

    def _ids(self, strings: list[str]) -> tuple[Int32s, Int64s]:
        encodings = self._rust.encode_batch(strings, add_special_tokens=False)
        offsets = offsets_of(np.fromiter(map(len, encodings), np.int64, len(encodings)))
        return _flat((encoding.ids for encoding in encodings), int(offsets[-1])), offsets

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return self._listed | {token["content"]: token["id"] for token in self._settings.get("added_tokens", [])}

    @cached_property
    def _aligner(self) -> Aligner:
        return Aligner(self._settings, self._vocabulary, normalizer_of(self._settings.get("normalizer")))


def encode_strings(tokenizer: Any, strings: list[str]) -> EncodedTexts:
    """Encode each string on its own, without special tokens.

    Args:
        tokenizer: A `tokenizers.Tokenizer` of version 0.22 or 0.23 that neither truncates nor pads.
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


def same_tokens(left: EncodedTexts, right: EncodedTexts) -> bool:
    """Return whether two encodings of the same texts agree in every id, offset and count."""
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("ids", "char_start", "char_end", "offsets")
    )


def normalizer_of(step: dict[str, Any] | None) -> Callable[[str], str]:
    """Return the function that normalizes a text as the normalizer of a tokenizer.json does."""
    if step is None:
        return str
    tokenizer = _small(normalizer=step, model=_BYTES)
    if hasattr(tokenizer, "normalizer"):
        normalize: Callable[[str], str] = tokenizer.normalizer.normalize_str
        return normalize
    return lambda text: bytes(tokenizer.encode(text, add_special_tokens=False).ids).decode()


def pre_tokenizer_of(step: dict[str, Any], known: Sequence[str] = ()) -> Callable[[str], list[int]]:
    """Return the function that says which pieces the pre-tokenizer of a tokenizer.json makes of a text.

    A piece is given by its number in `known`, counted from 1, or else by 0.
    """
    tokenizer = _small(pre_tokenizer=step, model=_words(0, "", *known))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def pair_around(step: dict[str, Any] | None, first: int) -> tuple[Int32s, Int8s]:
    """Return ids and type ids that a post-processor makes of a pair of texts of one token each.

    Args:
        step: The post-processor of a tokenizer.json.
        first: The id of the first text; the second one has the next.
    """
    tokenizer = _small(post_processor=step, model=_words(first - 1, "", "a", "b"))
    pair = tokenizer.encode_batch([("a", "b")])[0]
    return np.array(pair.ids, np.int32), np.array(pair.type_ids, np.int8)


def _words(first: int, unknown: str, *others: str) -> dict[str, Any]:
    """Return a model whose tokens are whole pieces of text."""
    ids = {token: number for number, token in enumerate((unknown, *others), first)}
    return {"type": "WordLevel", "vocab": ids, "unk_token": unknown}


def _small(**steps: Any) -> Any:
    """Return a tokenizer that has only the given steps."""
    return _opened({"version": "1.0", "added_tokens": [], **steps})


def _opened(settings: dict[str, Any], written: bytes | None = None) -> Any:
    from tokenizers import Tokenizer

    if hasattr(Tokenizer, "from_buffer"):
        return Tokenizer.from_buffer(written or orjson.dumps(settings))
    steps = (settings.get("pre_tokenizer") or {}).get("pretokenizers", ())
    if len(steps) == 1:  # as DeBERTa has it; version 1.0 does not read a sequence of Metaspace alone
        settings = settings | {"pre_tokenizer": steps[0]}
    with temporary_folder() as folder:  # version 1.0 reads files alone
        path = folder / "tokenizer.json"
        path.write_bytes(orjson.dumps(settings))
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # it raises several kinds, also for settings that earlier versions take
            raise UserError(
                f"a tokenizer must be one that the tokenizers library reads; received tokenizers {_version()}, which "
                f"does not read this one ({shown(str(error), 160)}): pip install 'tokenizers<1'"
            ) from None


def _version() -> str:
    import tokenizers

    return str(tokenizers.__version__)


def _flat(rows: Iterable[Iterable[int]], total: int) -> Int32s:
    return np.fromiter(chain.from_iterable(rows), np.int32, total)


def _joined(parts: list[np.ndarray]) -> Int32s:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
