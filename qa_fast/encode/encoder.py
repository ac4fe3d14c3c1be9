"""Texts to flat token ids and character offsets.

`TextEncoder` owns a Rust tokenizer and what the other stages need to know of it. `encode` gives each text's tokens
without special ones; windows and special tokens are laid out later, by kernels, from these flat arrays, so that a
text that occurs many times is encoded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from qa_fast.buffers import offsets_of
from qa_fast.encode.template import PairTemplate, probe_template
from qa_fast.errors import UserError
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


@dataclass(frozen=True)
class TextEncoder:
    """A Rust tokenizer with what featurizing needs to know of it.

    Attributes:
        tokenizer: Without truncation and padding.
        settings: The parsed tokenizer.json, less truncation and padding.
        template: Special tokens around a pair.
        cls_id: Id of CLS.
        pad_id: Id of the padding token.
        has_token_types: Whether the model takes token_type_ids.
        tokenizer_hash: SHA-256 of `settings`: equal hashes give equal tokens.
        space_led: uint8[vocabulary] marking ids that begin with a space, where the post-processor trims offsets and
            adds a prefix space; else empty. See `kernels.labels.head_start`.
    """

    tokenizer: Tokenizer
    settings: dict[str, Any]
    template: PairTemplate
    cls_id: int
    pad_id: int
    has_token_types: bool
    tokenizer_hash: str
    space_led: np.ndarray

    def encode(self, texts: pa.Array) -> EncodedTexts:
        """Encode each text on its own.

        Args:
            texts: string [U], without white space at the start.

        Returns:
            Their tokens, in order, offsets in characters of each text.
        """
        counts: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        bounds: list[np.ndarray] = []
        for begin in range(0, len(texts), _TEXTS_A_CALL):
            encodings = self.tokenizer.encode_batch(
                texts.slice(begin, _TEXTS_A_CALL).to_pylist(), add_special_tokens=False
            )
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


def load_encoder(folder: Path) -> TextEncoder:
    """Read the tokenizer of a model folder.

    Args:
        folder: Holds tokenizer.json, or what transformers can make a fast tokenizer from; config.json and
            tokenizer_config.json are read where present.

    Raises:
        UserError: No tokenizer there, not a fast one, or one without a CLS or padding token.
    """
    from tokenizers import Tokenizer

    config, names = _json(folder / "config.json"), _json(folder / "tokenizer_config.json")
    settings = _json(folder / "tokenizer.json")
    if not settings or not _agrees(settings, names):
        settings = _through_transformers(folder)
    settings["truncation"] = settings["padding"] = None
    canonical = orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)
    tokenizer = Tokenizer.from_buffer(canonical)

    special = {**_json(folder / "special_tokens_map.json"), **names}
    cls_id = _special_id(tokenizer, folder, "CLS", special.get("cls_token"), ("[CLS]", "<s>", "<cls>"))
    pad_id = _special_id(tokenizer, folder, "padding", special.get("pad_token"), ("[PAD]", "<pad>"))
    template = probe_template(tokenizer, cls_id)
    if "type_vocab_size" in config:
        has_types = config["type_vocab_size"] > 1
    elif "model_type" in config:
        has_types = False  # models that have token types say how many
    else:
        has_types = bool(template.part_types.max(initial=0) > 0)
    return TextEncoder(
        tokenizer=tokenizer,
        settings=settings,
        template=template,
        cls_id=cls_id,
        pad_id=pad_id,
        has_token_types=has_types,
        tokenizer_hash=hashlib.sha256(canonical).hexdigest(),
        space_led=_space_led(tokenizer, settings),
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path} must be JSON; {error}: fetch the model folder again") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path} must hold a JSON object; received {type(value).__name__}: fetch the model folder again"
        )
    return value


def _agrees(settings: dict[str, Any], names: dict[str, Any]) -> bool:
    """Whether tokenizer.json normalises as tokenizer_config.json says; transformers follows the latter."""
    normalizer = settings.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return True
    pairs = (
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    )
    return all(names[said] == normalizer.get(done) for said, done in pairs if said in names)


def _through_transformers(folder: Path) -> dict[str, Any]:
    """The tokenizer.json that transformers makes of a folder which lacks one, or whose settings disagree with it."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises many kinds for one cause: the folder is not a tokenizer's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"a model folder must hold a tokenizer; {folder} holds none that loads ({reason}): "
            "give a folder with tokenizer.json"
        ) from None
    if not getattr(loaded, "is_fast", False):
        raise UserError(
            f"the tokenizer must be a fast (Rust) one; received {type(loaded).__name__} from {folder}: "
            "convert it to tokenizer.json or choose another model"
        )
    settings: dict[str, Any] = orjson.loads(loaded.backend_tokenizer.to_str())
    return settings


def _special_id(tokenizer: Tokenizer, folder: Path, role: str, named: Any, usual: tuple[str, ...]) -> int:
    content = named["content"] if isinstance(named, dict) else named
    for token in (content,) if content else usual:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found)
    shown = f"{content!r}, which is not in its vocabulary" if content else "none named"
    raise UserError(
        f"the tokenizer must have a {role} token; received {shown} ({folder}): "
        "name one in tokenizer_config.json, or choose a model made for question answering"
    )


def _space_led(tokenizer: Tokenizer, settings: dict[str, Any]) -> np.ndarray:
    processors = [settings.get("post_processor") or {}]
    processors += processors[0].get("processors", [])
    concerned = any(
        p.get("type") in ("RobertaProcessing", "ByteLevel") and p.get("trim_offsets") and p.get("add_prefix_space")
        for p in processors
    )
    if not concerned:
        return np.zeros(0, np.uint8)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    marks = np.zeros(max(vocabulary.values()) + 1, np.uint8)
    for token, token_id in vocabulary.items():
        marks[token_id] = token.startswith("Ġ") or token[:1].isspace()
    return marks
