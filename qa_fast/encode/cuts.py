"""Where texts may be cut: a rule for each kind of pre-tokenizer, and which tokenizers it is known to hold for.

A cut is only ever made between two ASCII characters of certain classes, where the pre-tokenizer is certain to part
them and no normaliser on the allow-list looks across. What stands in tokenizer.json decides; whatever is not on
the list is encoded the direct way, text by text, and `choose_rule` says why.
"""

from __future__ import annotations

import base64
import copy
import re
import string
from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.kernels.words import (
    APOSTROPHE,
    BREAK,
    CLASSES,
    DIGIT,
    END,
    LETTER,
    OPAQUE,
    PUNCTUATION,
    SPACE,
)

FIRST, LAST = 1, 2
_SOLID = (LETTER, DIGIT, PUNCTUATION, APOSTROPHE)
# Characters that compatibility normalisation turns into the brackets that added tokens begin with.
_LOOKALIKES = {"[": ("［", "﹇"), "<": ("＜", "﹤", "≮")}
_UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# NFC makes these three of ASCII's characters out of others, and none besides.
_MADE_BY_NFC = "[;`K]"
# What makes one space of white space in a row, which no cut parts.
_RUNS = ({"Regex": " {2,}"}, {"Regex": r"\s{2,}|[\n\r\t]"})


@dataclass(frozen=True)
class CutRule:
    """How texts are cut and units encoded.

    Attributes:
        name: For messages.
        cuts: uint8[CLASSES * CLASSES], 1 where the first class may be parted from the second.
        drop_space: Whether white space has no tokens; each character of it is then parted from the others.
        joiner: What may stand between units that are encoded in one string: a space where the pre-tokenizer drops it,
            else nothing.
        variants: Which of a text's units differ from the others: FIRST, LAST, both or neither.
        settings: Variant -> the tokenizer.json for its units; the original for the variant with all bits.
        triggers: Strings whose presence makes a text one unit.
    """

    name: str
    cuts: np.ndarray
    drop_space: bool
    joiner: str
    variants: int
    settings: dict[int, dict[str, Any]]
    triggers: tuple[str, ...]


class NotAllowedError(Exception):
    """This tokenizer is not one whose units are known to be independent; the message says why."""


def byte_classes() -> np.ndarray:
    """uint8[256]: the class of each byte. Control characters are opaque, but for the three common line and tab ones."""
    classes = np.full(256, OPAQUE, np.uint8)
    for byte in range(0x21, 0x7F):
        char = chr(byte)
        classes[byte] = LETTER if char.isalpha() else DIGIT if char.isdigit() else PUNCTUATION
    classes[ord("'")] = APOSTROPHE
    classes[ord(" ")] = SPACE
    classes[[ord("\t"), ord("\n"), ord("\r")]] = BREAK
    return classes


def choose_rule(settings: dict[str, Any]) -> CutRule:
    """The rule for a tokenizer.

    Args:
        settings: The parsed tokenizer.json.

    Raises:
        NotAllowedError: There is none; the direct way is to be taken.
    """
    if (settings.get("model") or {}).get("dropout"):
        raise NotAllowedError("its BPE model drops merges at random")
    pre = settings.get("pre_tokenizer") or {}
    kind = pre.get("type")
    if kind == "BertPreTokenizer":
        return _bert(settings)
    if kind == "ByteLevel":
        return _byte_level(settings)
    steps = pre.get("pretokenizers", []) if kind == "Sequence" else [pre]
    kinds = [step.get("type") for step in steps]
    if kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        return _metaspace(settings, steps[-1])
    raise NotAllowedError(f"pre-tokenizer {' + '.join(map(str, kinds)) if kind else 'none'} is not on the list")


def _bert(settings: dict[str, Any]) -> CutRule:
    """BERT: white space parts words, punctuation stands alone; both neighbours of a cut survive normalisation."""
    for normalizer in normalizers_of(settings):
        _require(normalizer, "BertNormalizer", "Lowercase", "StripAccents", *_UNICODE_FORMS)
    if trimming_processors(settings) and any(map(_ends_in_space, _tokens(settings))):
        raise NotAllowedError("its post-processor takes the ends of some tokens for spaces")
    cuts = _cuts((_SOLID, (SPACE, BREAK)), ((SPACE, BREAK), (*_SOLID, SPACE, BREAK)))
    marks = (PUNCTUATION, APOSTROPHE)
    cuts |= _cuts(((LETTER, DIGIT), marks), (marks, (LETTER, DIGIT)), (marks, marks))
    return CutRule("BERT", cuts, True, " ", 0, {0: settings}, _triggers(settings))


def _byte_level(settings: dict[str, Any]) -> CutRule:
    """Byte-level BPE with GPT-2's pattern: white space leads the word behind it; letters, digits and marks part.

    Nothing is cut behind an apostrophe that a letter follows, since the pattern takes contractions together.
    """
    for normalizer in normalizers_of(settings):
        _require(normalizer, *_UNICODE_FORMS)
    if not settings["pre_tokenizer"].get("use_regex", True):
        raise NotAllowedError("its byte-level pre-tokenizer does not split by GPT-2's pattern")
    cuts = _cuts(
        (_SOLID, (SPACE, BREAK)),
        ((LETTER,), (DIGIT, PUNCTUATION, APOSTROPHE)),
        ((DIGIT,), (LETTER, PUNCTUATION, APOSTROPHE)),
        ((PUNCTUATION,), (LETTER, DIGIT)),
    )
    adds = [step for step in trimming_processors(settings) if step.get("add_prefix_space", True)]
    if not adds and not settings["pre_tokenizer"].get("add_prefix_space"):
        return CutRule("byte-level", cuts, False, "", 0, {0: settings}, _triggers(settings))
    later = copy.deepcopy(settings)
    later["pre_tokenizer"]["add_prefix_space"] = False
    for processor in trimming_processors(later):
        processor["add_prefix_space"] = False
    return CutRule("byte-level", cuts, False, "", FIRST, {FIRST: settings, 0: later}, _triggers(settings))


def trimming_processors(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The post-processors that do not count a token's spaces to it."""
    processor = settings.get("post_processor") or {}
    return [
        step
        for step in (processor, *processor.get("processors", []))
        if step.get("type") in ("RobertaProcessing", "ByteLevel") and step.get("trim_offsets", True)
    ]


def _tokens(settings: dict[str, Any]) -> list[str]:
    """All tokens, those added included."""
    return [*settings["model"].get("vocab", ()), *(token["content"] for token in settings.get("added_tokens", []))]


def _ends_in_space(token: str) -> bool:
    """Whether a post-processor that trims would trim the token: it takes Ġ for a space, as in byte-level tokens."""
    return any(char == "Ġ" or char.isspace() for char in (token[:1], token[-1:]))


def _metaspace(settings: dict[str, Any], metaspace: dict[str, Any]) -> CutRule:
    """Metaspace: a unit is a space and the text behind it."""
    if not metaspace.get("split", True):
        raise NotAllowedError("its Metaspace does not split")
    strips = 0
    dropped: list[str] = []
    for normalizer in normalizers_of(settings):
        _require(normalizer, "Precompiled", "Nmt", "Replace", "Strip", "Lowercase", "StripAccents", *_UNICODE_FORMS)
        if normalizer["type"] == "Replace" and not _stays_in_units(normalizer):
            raise NotAllowedError(f"its normaliser replaces {normalizer.get('pattern')}")
        if normalizer["type"] == "Precompiled":
            dropped += _dropped_characters(normalizer["precompiled_charsmap"])
        if normalizer["type"] == "Strip":
            strips |= FIRST * bool(normalizer.get("strip_left")) | LAST * bool(normalizer.get("strip_right"))
    cuts = _cuts((_SOLID, (SPACE,)))
    by_variant = {}
    for variant in {0, FIRST & strips, LAST & strips, strips}:
        by_variant[variant] = _with_strip(settings, variant)
    return CutRule("Metaspace", cuts, False, "", strips, by_variant, (*_triggers(settings), *dropped))


def _dropped_characters(character_map: str) -> list[str]:
    """Those that a normaliser of sentencepiece's drops: control characters, as a rule.

    Where it drops a text's first ones, the Rust library counts the offsets of all the text without them, so a text with
    one is taken whole. Only Unicode's first plane is asked for, in a tenth of a second: sentencepiece's own tables drop
    nothing beyond.
    """
    from tokenizers.normalizers import Precompiled

    mark = "\ue000"  # of private use: of no table, and joined to nothing
    chars = [chr(code) for code in (*range(1, 0xD800), *range(0xE001, 0x10000))]
    normalized = Precompiled(base64.b64decode(character_map)).normalize_str(mark.join(chars)).split(mark)
    return [char for char, text in zip(chars, normalized, strict=True) if not text]


def _stays_in_units(replace: dict[str, Any]) -> bool:
    """Whether a replacement neither looks across a cut nor changes what is beside one.

    Besides runs of white space that is marks for marks, as ALBERT's quotes.
    """
    content = replace.get("content") or ""
    if replace.get("pattern") in _RUNS:
        return content in (" ", "▁")
    replaced = (replace.get("pattern") or {}).get("String", "")
    return bool(replaced and content) and set(replaced + content) <= set(string.punctuation)


def _with_strip(settings: dict[str, Any], variant: int) -> dict[str, Any]:
    """The settings with Strip only at the ends of a text that a unit of this variant touches."""
    changed = copy.deepcopy(settings)
    for normalizer in normalizers_of(changed):
        if normalizer["type"] == "Strip":
            normalizer["strip_left"] = bool(normalizer.get("strip_left")) and bool(variant & FIRST)
            normalizer["strip_right"] = bool(normalizer.get("strip_right")) and bool(variant & LAST)
    return changed


def normalizers_of(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a tokenizer's normaliser."""
    normalizer = settings.get("normalizer")
    if not normalizer:
        return []
    steps: list[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    return steps


def _require(normalizer: dict[str, Any], *allowed: str) -> None:
    if normalizer.get("type") not in allowed:
        raise NotAllowedError(f"normaliser {normalizer.get('type')} is not on the list")


def _triggers(settings: dict[str, Any]) -> tuple[str, ...]:
    """What must not be cut through: added tokens, which are looked for in the whole text before anything else.

    Any part of a token will do, and few are better than many: the scan compares each at every place. A token that is
    looked for after normalisation may be spelt in other characters; any text with its first one, or a look-alike, is
    then taken whole.
    """
    normalizers = {normalizer.get("type") for normalizer in normalizers_of(settings)}
    triggers: list[str] = []
    for token in settings.get("added_tokens", []):
        content = token["content"]
        if not content:
            continue
        if not token.get("normalized") or not normalizers:
            triggers.append(_unnumbered(content))
        elif normalizers == {"NFC"} and content.isascii() and re.sub(_MADE_BY_NFC, "", content):
            triggers.append(_unnumbered(max(re.split(_MADE_BY_NFC, content), key=len)))
        elif content[0] in _LOOKALIKES:
            triggers += [content[0], *_LOOKALIKES[content[0]]]
        else:
            raise NotAllowedError(f"its added token {content!r} is looked for after normalisation")
    return tuple(t for t in dict.fromkeys(triggers) if not any(part in t for part in triggers if part != t))


def _unnumbered(content: str) -> str:
    """A token without the number at its end: of `[unused0]` to `[unused99]` one is left."""
    return re.sub(r"(?<=\w)\d+\W*$", "", content)


def _cuts(*rules: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    cuts = np.zeros((CLASSES, CLASSES), np.uint8)
    cuts[END] = 1
    for before, behind in rules:
        cuts[np.ix_(before, behind)] = 1
    return cuts.reshape(-1)
