"""Rules for cutting texts: one for each kind of pre-tokenizer, and the tokenizers that it is known to hold for.

A cut is made only between two ASCII characters of certain classes, where the pre-tokenizer always separates them and no
normaliser on the allow-list looks across. tokenizer.json decides which rule applies. If no rule does, texts are encoded
one by one, and `choose_rule` says why.
"""

from __future__ import annotations

import copy
import re
import string
from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_fast.encode.library import normalizer_of
from qa_fast.encode.steps import normalizers_of, trimming_processors
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
# The only ASCII characters that NFC makes out of others: three of them, as a set of a regular expression.
_MADE_BY_NFC = "[;`K]"
# Expressions that turn a run of white space into one space; no cut divides such a run.
_RUNS = ({"Regex": " {2,}"}, {"Regex": r"\s{2,}|[\n\r\t]"})


@dataclass(frozen=True)
class CutRule:
    """The rule by which texts are cut and units encoded.

    Attributes:
        name: Name of the rule.
        cuts: uint8[CLASSES * CLASSES], 1 if a cut between the first class and the second is allowed.
        drop_space: Whether white space has no tokens; each of its characters is then a unit.
        joiner: The text between units that are encoded in one string: a space if the pre-tokenizer drops it, else "".
        variants: Which of a text's units differ from the others: FIRST, LAST, both or neither.
        settings: The tokenizer.json for the units of each variant; the original for the variant with all bits.
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
    """The units of this tokenizer are not known to be independent; the message says why."""


def byte_classes() -> np.ndarray:
    """Return uint8[256]: the class of each byte. Control characters are opaque, except tab, newline and return."""
    classes = np.full(256, OPAQUE, np.uint8)
    for byte in range(0x21, 0x7F):
        char = chr(byte)
        classes[byte] = LETTER if char.isalpha() else DIGIT if char.isdigit() else PUNCTUATION
    classes[ord("'")] = APOSTROPHE
    classes[ord(" ")] = SPACE
    classes[[ord("\t"), ord("\n"), ord("\r")]] = BREAK
    return classes


def choose_rule(settings: dict[str, Any]) -> CutRule:
    """Return the rule for a tokenizer.

    Args:
        settings: The parsed tokenizer.json.

    Raises:
        NotAllowedError: There is no rule, and texts must be encoded directly.
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
    """Return the rule of BERT: white space separates words, and each punctuation mark is a word of its own."""
    for normalizer in normalizers_of(settings):
        _require(normalizer, "BertNormalizer", "Lowercase", "StripAccents", *_UNICODE_FORMS)
    if trimming_processors(settings) and any(map(_ends_in_space, _tokens(settings))):
        raise NotAllowedError("its post-processor takes the ends of some tokens for spaces")
    cuts = _cuts((_SOLID, (SPACE, BREAK)), ((SPACE, BREAK), (*_SOLID, SPACE, BREAK)))
    marks = (PUNCTUATION, APOSTROPHE)
    cuts |= _cuts(((LETTER, DIGIT), marks), (marks, (LETTER, DIGIT)), (marks, marks))
    return CutRule("BERT", cuts, True, " ", 0, {0: settings}, _triggers(settings))


def _byte_level(settings: dict[str, Any]) -> CutRule:
    """Return the rule of byte-level BPE with GPT-2's pattern.

    White space belongs to the word behind it; letters, digits and marks are separated. No cut is made between an
    apostrophe and a letter behind it, since the pattern keeps contractions together.
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


def _tokens(settings: dict[str, Any]) -> list[str]:
    """Return all tokens, including added ones."""
    return [*settings["model"].get("vocab", ()), *(token["content"] for token in settings.get("added_tokens", []))]


def _ends_in_space(token: str) -> bool:
    """Return whether a post-processor would trim the token: it takes Ġ for a space, as in byte-level tokens."""
    return any(char == "Ġ" or char.isspace() for char in (token[:1], token[-1:]))


def _metaspace(settings: dict[str, Any], metaspace: dict[str, Any]) -> CutRule:
    """Return the rule of Metaspace: a unit is a space and the text behind it."""
    if not metaspace.get("split", True):
        raise NotAllowedError("its Metaspace does not split")
    strips = 0
    dropped: list[str] = []
    for normalizer in normalizers_of(settings):
        _require(normalizer, "Precompiled", "Nmt", "Replace", "Strip", "Lowercase", "StripAccents", *_UNICODE_FORMS)
        if normalizer["type"] == "Replace" and not _stays_in_units(normalizer):
            raise NotAllowedError(f"its normaliser replaces {normalizer.get('pattern')}")
        if normalizer["type"] == "Precompiled":
            dropped += _dropped_characters(normalizer)
        if normalizer["type"] == "Strip":
            strips |= FIRST * bool(normalizer.get("strip_left")) | LAST * bool(normalizer.get("strip_right"))
    cuts = _cuts((_SOLID, (SPACE,)))
    by_variant = {}
    for variant in {0, FIRST & strips, LAST & strips, strips}:
        by_variant[variant] = _with_strip(settings, variant)
    return CutRule("Metaspace", cuts, False, "", strips, by_variant, (*_triggers(settings), *dropped))


def _dropped_characters(step: dict[str, Any]) -> list[str]:
    """Return the characters that a sentencepiece normaliser drops: control characters, as a rule.

    If it drops characters at the start of a text, the Rust library counts the offsets of the whole text without them,
    so a text with such a character is one unit. Only the first plane of Unicode is tried, which takes a tenth of a
    second: the tables of sentencepiece drop nothing beyond it.
    """
    mark = "\ue000"  # a private-use character, which is in no table and is joined to nothing
    chars = [chr(code) for code in (*range(1, 0xD800), *range(0xE001, 0x10000))]
    normalized = normalizer_of(step)(mark.join(chars)).split(mark)
    return [char for char, text in zip(chars, normalized, strict=True) if not text]


def _stays_in_units(replace: dict[str, Any]) -> bool:
    """Return whether a replacement neither looks across a cut nor changes a character beside one.

    That holds for runs of white space, and for marks that become marks, such as ALBERT's quotes.
    """
    content = replace.get("content") or ""
    if replace.get("pattern") in _RUNS:
        return content in (" ", "▁")
    replaced = (replace.get("pattern") or {}).get("String", "")
    return bool(replaced and content) and set(replaced + content) <= set(string.punctuation)


def _with_strip(settings: dict[str, Any], variant: int) -> dict[str, Any]:
    """Return the settings with Strip only at those ends of a text that a unit of this variant touches."""
    changed = copy.deepcopy(settings)
    for normalizer in normalizers_of(changed):
        if normalizer["type"] == "Strip":
            normalizer["strip_left"] = bool(normalizer.get("strip_left")) and bool(variant & FIRST)
            normalizer["strip_right"] = bool(normalizer.get("strip_right")) and bool(variant & LAST)
    return changed


def _require(normalizer: dict[str, Any], *allowed: str) -> None:
    if normalizer.get("type") not in allowed:
        raise NotAllowedError(f"normaliser {normalizer.get('type')} is not on the list")


def _triggers(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return strings that every text with an added token contains, since no cut may go through an added token.

    The tokenizer looks for added tokens in the whole text before anything else. Any part of a token is enough, and few
    strings are better than many, as the scan compares each at every place. A token that is looked for after
    normalisation may be spelt in other characters; its first character and the look-alikes are then triggers.
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
    """Return a token without the number at its end, so that `[unused0]` to `[unused99]` become one."""
    return re.sub(r"(?<=\w)\d+\W*$", "", content)


def _cuts(*rules: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    cuts = np.zeros((CLASSES, CLASSES), np.uint8)
    cuts[END] = 1
    for before, behind in rules:
        cuts[np.ix_(before, behind)] = 1
    return cuts.reshape(-1)
