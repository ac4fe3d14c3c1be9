"""Turns texts into flat token ids and character offsets.

`TextEncoder` owns a Rust tokenizer and the facts about it that other stages need. `encode` returns the tokens of each
text without special tokens. Kernels later lay out windows and special tokens from these flat arrays, so a text that
occurs many times is encoded once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from qa_fast.encode.convert import converted, lists_all_tokens, refuse_unread_settings
from qa_fast.encode.cuts import NotAllowedError, choose_rule
from qa_fast.encode.encoded import EncodedTexts
from qa_fast.encode.library import RefusedTextError, RustTokenizer, open_tokenizer
from qa_fast.encode.steps import trimming_processors
from qa_fast.encode.template import PairTemplate, probe_template
from qa_fast.encode.untrusted import check_added_tokens, check_ids, check_rows, check_settings, one_line
from qa_fast.encode.words import WordEncoder
from qa_fast.errors import UserError, shown
from qa_fast.model.fields import MOST_TOKENS, MOST_TYPES, Fields
from qa_fast.model.files import read_object
from qa_fast.model.folder import known_config
from qa_fast.parallel import renew_after_fork
from qa_fast.schema import ENCODE_MODES

# Texts on which the fast way is compared with the direct one before it is used for the rest.
_CHECKED_TEXTS = 48


@dataclass(frozen=True)
class TextEncoder:
    """A Rust tokenizer and the facts about it that featurizing needs.

    Attributes:
        tokenizer: The tokenizer, which neither truncates nor pads.
        settings: The parsed tokenizer.json, without truncation and padding.
        template: Special tokens around a pair.
        cls_id: Id of CLS.
        pad_id: Id of the padding token.
        has_token_types: Whether the model takes token_type_ids.
        tokenizer_hash: SHA-256 of `settings`: equal hashes give equal tokens.
        space_led: uint8[vocabulary], 1 for ids that begin with a space, if the post-processor trims offsets and adds a
            prefix space; else empty. See `kernels.labels.head_start`.
        way: How texts are encoded.
    """

    tokenizer: RustTokenizer
    settings: dict[str, Any]
    template: PairTemplate
    cls_id: int
    pad_id: int
    has_token_types: bool
    tokenizer_hash: str
    space_led: np.ndarray
    way: Way

    def encode(self, texts: pa.Array, with_chars: bool = True) -> EncodedTexts:
        """Encode each text on its own.

        Args:
            texts: string [U], without leading white space.
            with_chars: Whether character offsets are wanted; without them their arrays may be empty.

        Returns:
            The tokens in order, with offsets in characters of each text.

        Raises:
            RefusedTextError: A text cannot be encoded with this version of the tokenizers library.
        """
        with one_line():
            return self.way.encode(texts, with_chars)

    def encode_accepted(self, texts: pa.Array, with_chars: bool = True) -> tuple[EncodedTexts, dict[int, str]]:
        """Encode texts as `encode` does, but give those that it refuses no tokens.

        Returns:
            The tokens, and the reason for each row that is refused.
        """
        try:
            return self.encode(texts, with_chars), {}
        except RefusedTextError:
            pass
        refused: dict[int, str] = {}
        for row in range(len(texts)):
            try:
                self.encode(texts[row : row + 1], with_chars)
            except RefusedTextError as error:
                refused[row] = str(error)
        is_refused = np.zeros(len(texts), bool)
        is_refused[list(refused)] = True
        return self.encode(pc.if_else(pa.array(is_refused), "", texts), with_chars), refused

    @property
    def unknown_id(self) -> int | None:
        """Id of the token for text that the vocabulary cannot write; None if there is none."""
        model = self.settings["model"]
        token = model.get("unk_token")
        return model.get("unk_id") if token is None else self.tokenizer.id_of(token)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of `encoder_of`; known units are left behind."""
        made_of = (canonical_settings(self.settings), self.cls_id, self.pad_id, self.has_token_types, self.way.mode)
        return encoder_of, made_of


class Way:
    """Encodes texts by their units if that is known to be exact, else directly.

    The choice is made from tokenizer.json and checked once on a sample of the first texts. `reason` says why texts are
    encoded directly; it is None if they are not.
    """

    def __init__(
        self, tokenizer: RustTokenizer, settings: dict[str, Any], mode: str, say: Callable[[str], None]
    ) -> None:
        self._tokenizer, self.mode, self._say = tokenizer, mode, say
        self._checked = mode == "words"
        self.renew()
        renew_after_fork(self)
        self.reason: str | None = "asked for" if mode == "direct" else None
        self._words: WordEncoder | None = None
        if mode != "direct":
            try:
                self._words = WordEncoder(choose_rule(settings), tokenizer)
            except NotAllowedError as why:
                self._fall_back(str(why))

    def renew(self) -> None:
        """Make the lock anew; see `parallel.Renewed`."""
        self._lock = threading.Lock()

    def save_memory(self) -> None:
        """Remember fewer units: 30 MB with the sets of two threads, instead of 200 MB."""
        if self._words is not None:
            self._words.room = 1 / 8

    def encode(self, texts: pa.Array, with_chars: bool = True) -> EncodedTexts:
        """Encode each text on its own; threads may share this."""
        if not self._checked:
            with self._lock:
                if self._words is not None and not self._checked:
                    self._check(texts)
        words = self._words  # the check of another thread may remove it
        if words is not None:
            return words.encode(texts, with_chars)
        distinct = texts.dictionary_encode()
        encoded = self._tokenizer.encode(distinct.dictionary.to_pylist())
        return encoded.take(distinct.indices.to_numpy(zero_copy_only=False))

    def _check(self, texts: pa.Array) -> None:
        """Compare both ways on a sample of the texts."""
        assert self._words is not None
        rows = np.unique(np.linspace(0, len(texts) - 1, min(_CHECKED_TEXTS, len(texts))).astype(np.int64))
        sample = texts.take(pa.array(rows))
        if not self._tokenizer.confirms(self._words.encode(sample), sample.to_pylist()):
            self._fall_back("its units do not give the tokens of the whole texts")
        self._checked = len(texts) > 0  # last: other threads continue as soon as they see it

    def _fall_back(self, reason: str) -> None:
        if self.mode == "words":
            raise UserError(
                f"--encode words needs a tokenizer whose words can be encoded apart; received one where {reason}"
            )
        self._words, self.reason = None, reason
        self._say(f"encoding text by text: {reason}")


def load_encoder(folder: Path, mode: str = "auto", say: Callable[[str], None] = lambda _: None) -> TextEncoder:
    """Read the tokenizer of a model folder.

    Args:
        folder: Holds tokenizer.json, or files that transformers can make a fast tokenizer from; config.json and
            tokenizer_config.json are read if present.
        mode: "auto", "direct" (text by text) or "words" (by distinct units; an error if that is not exact).
        say: Called with a line if texts must be encoded directly.

    Raises:
        UserError: The folder has no tokenizer, or one that is not fast, lacks a CLS or padding token, has ids that the
            model of config.json has no rows for, or has settings that `untrusted` refuses.
    """
    if mode not in ENCODE_MODES:
        raise UserError(f"--encode must be one of {', '.join(ENCODE_MODES)}; received {mode!r}")
    config, names = read_object(folder, "config.json") or {}, read_object(folder, "tokenizer_config.json") or {}
    settings = read_object(folder, "tokenizer.json") or {}
    with one_line(folder):
        refuse_unread_settings(names, folder)
        if settings:
            canonical, tokenizer = _opened(settings)  # checked before transformers gives it to the library
        if not settings or not _agrees(settings, names) or not lists_all_tokens(settings, names, folder):
            settings = converted(folder, config)
            canonical, tokenizer = _opened(settings)
        vocabulary = tokenizer.vocabulary()
        highest = check_ids(vocabulary)
        check_added_tokens(settings)

    # transformers reads the older file only without added_tokens_decoder, and then follows it.
    older = {} if "added_tokens_decoder" in names else read_object(folder, "special_tokens_map.json") or {}
    special = {**names, **older}
    cls_id = _special_id(vocabulary, folder, "CLS", special.get("cls_token"), ("[CLS]", "<s>", "<cls>"))
    pad_id = _special_id(vocabulary, folder, "padding", special.get("pad_token"), ("[PAD]", "<pad>"))
    with one_line(folder):
        template = probe_template(settings, cls_id)
    known = known_config(folder)
    if known is not None or config.get("vocab_size") is not None:
        rows = known.embedding.vocab_size if known else Fields(config).size("vocab_size", most=MOST_TOKENS)
        check_rows(max(highest, template.highest_id), rows, folder)
    if known is not None:
        has_types = known.takes_types
    elif "type_vocab_size" in config:
        has_types = Fields(config).size("type_vocab_size", least=0, most=MOST_TYPES) > 1
    elif "model_type" in config:
        has_types = False  # models with token types state their number
    else:
        has_types = bool(template.part_types.max(initial=0) > 0)
    with one_line(folder):
        return _assembled(tokenizer, settings, canonical, template, cls_id, pad_id, has_types, mode, say)


def _opened(settings: dict[str, Any]) -> tuple[bytes, RustTokenizer]:
    """Return the canonical settings and the tokenizer of a parsed tokenizer.json, without truncation and padding."""
    settings["truncation"] = settings["padding"] = None
    check_settings(settings)
    canonical = canonical_settings(settings)
    return canonical, open_tokenizer(settings, canonical)


def canonical_settings(settings: dict[str, Any]) -> bytes:
    """Return tokenizer.json with sorted keys: equal bytes mean equal tokens."""
    return orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)


def encoder_of(settings: bytes, cls_id: int, pad_id: int, has_token_types: bool, mode: str = "auto") -> TextEncoder:
    """Return an encoder without reading a model folder.

    Args:
        settings: A tokenizer.json, as `canonical_settings` returns it.
        cls_id: Id of CLS.
        pad_id: Id of the padding token.
        has_token_types: Whether the model takes token_type_ids.
        mode: See `load_encoder`.
    """
    parsed = orjson.loads(settings)
    tokenizer = open_tokenizer(parsed, settings)
    template = probe_template(parsed, cls_id)
    return _assembled(tokenizer, parsed, settings, template, cls_id, pad_id, has_token_types, mode, lambda _: None)


def _assembled(
    tokenizer: RustTokenizer,
    settings: dict[str, Any],
    canonical: bytes,
    template: PairTemplate,
    cls_id: int,
    pad_id: int,
    has_token_types: bool,
    mode: str,
    say: Callable[[str], None],
) -> TextEncoder:
    return TextEncoder(
        tokenizer=tokenizer,
        settings=settings,
        template=template,
        cls_id=cls_id,
        pad_id=pad_id,
        has_token_types=has_token_types,
        tokenizer_hash=hashlib.sha256(canonical).hexdigest(),
        space_led=_space_led(tokenizer, settings),
        way=Way(tokenizer, settings, mode, say),
    )


def _agrees(settings: dict[str, Any], names: dict[str, Any]) -> bool:
    """Return whether tokenizer.json does what tokenizer_config.json says; transformers follows the latter."""
    pre = settings.get("pre_tokenizer") or {}
    space = pre.get("add_prefix_space")
    if pre.get("type") == "ByteLevel" and names.get("add_prefix_space", space) != space:
        return False
    normalizer = settings.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return True
    pairs = (
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    )
    return all(names[name] == normalizer.get(field) for name, field in pairs if name in names)


def _special_id(vocabulary: dict[str, int], folder: Path, role: str, named: Any, usual: tuple[str, ...]) -> int:
    content = named.get("content") if isinstance(named, dict) else named
    if content is not None and not isinstance(content, str):
        raise UserError(
            f"the {role} token must be named by a text; received {shown(named)} ({folder}): name one in "
            "tokenizer_config.json"
        )
    for token in (content,) if content else usual:
        if token in vocabulary:
            return vocabulary[token]
    received = f"{shown(content)}, which is not in its vocabulary" if content else "none named"
    raise UserError(
        f"the tokenizer must have a {role} token; received {received} ({folder}): "
        "name one in tokenizer_config.json, or choose a model made for question answering"
    )


def _space_led(tokenizer: RustTokenizer, settings: dict[str, Any]) -> np.ndarray:
    """Return `TextEncoder.space_led`."""
    steps = trimming_processors(settings)
    if not any(step.get("trim_offsets") and step.get("add_prefix_space") for step in steps):
        return np.zeros(0, np.uint8)
    vocabulary = tokenizer.vocabulary()
    marks = np.zeros(max(vocabulary.values()) + 1, np.uint8)
    for token, token_id in vocabulary.items():
        marks[token_id] = token.startswith("Ġ") or token[:1].isspace()
    return marks
