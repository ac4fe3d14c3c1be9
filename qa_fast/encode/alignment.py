"""Finds the character offsets of tokens from their ids, for versions of the Rust library that give none.

The text of each token must follow that of the token before it in the normalized text, each of whose characters must be
known to come from one character of the original. This covers BERT's tokenizers, of which a kernel does most units,
byte-level ones and those with Metaspace. If the tokens do not spell the text exactly, nothing is found. This is so with
unknown words of BERT's and, for the others, with added tokens in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from qa_fast.encode.steps import byte_alphabet, trimming_processors

Place = tuple[int, int]
# A run without white space. Python counts four control characters to white space, and Rust does not.
_WORD = r"(?:\S|[\x1c-\x1f])+"


class Aligner:
    """Finds the places of tokens.

    Args:
        settings: The parsed tokenizer.json.
        ids: The ids of all tokens, including added ones.
        normalize: What its normalizer does to a text.
    """

    def __init__(self, settings: dict[str, Any], ids: dict[str, int], normalize: Callable[[str], str]) -> None:
        pre, model = settings.get("pre_tokenizer") or {}, settings["model"]
        self._steps = pre.get("pretokenizers", [pre])
        self._trims = trimming_processors(settings)
        self._normalize = normalize
        # Normalizers may strip the ends of a text, so a character is put between letters.
        self._normal_form = cache(lambda char: normalize(f"x{char}x")[1:-1])
        self._ids = ids
        added = {token["content"] for token in settings.get("added_tokens", [])}
        self._tokens = {number: token for token, number in ids.items() if token not in added}
        self._unknown = model.get("unk_id")
        self._prefix = model.get("continuing_subword_prefix") or ""
        # Added tokens that are found as they are written, with nothing around them.
        plain = [t for t in settings.get("added_tokens", []) if not (t["lstrip"] or t["rstrip"] or t["single_word"])]
        self._marks = {ids[token["content"]]: token["content"] for token in plain if token["content"]}
        longest_first = sorted(self._marks.values(), key=len, reverse=True)
        self._mark = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._bytes = {char: byte for byte, char in enumerate(byte_alphabet())}

    def places(self, text: str, ids: list[int]) -> list[Place] | None:
        """Return the first character of each token and one past its last; None if they cannot be found.

        Args:
            text: The text as it was given.
            ids: Its tokens, without special tokens.
        """
        kinds = [step.get("type") for step in self._steps]
        if kinds == ["BertPreTokenizer"]:
            return self._of_bert(text, ids)
        if kinds == ["ByteLevel"]:
            return self._of_bytes(text, ids)
        if kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
            return self._of_words(text, ids)
        return None if ids else []

    def _of_bert(self, text: str, ids: list[int]) -> list[Place] | None:
        spelled, char_of, begin = "", list[int](), 0
        for number, part in enumerate(self._mark.split(text)):
            is_mark = number % 2 == 1
            forms = list(part) if is_mark else [self._normal_form(char) for char in part]
            if not is_mark and "".join(forms) != self._normalize(part):
                return None
            kept = forms if is_mark else ["".join(re.findall(_WORD, form)) for form in forms]
            spelled += "".join(kept)
            char_of += [place for place, form in enumerate(kept, begin) for _ in form]
            begin += len(part)

        def text_of(number: int, _: int) -> str | None:
            return self._marks.get(number) or self._tokens.get(number, "").removeprefix(self._prefix)

        return _followed(ids, spelled, char_of, text_of)

    def _of_bytes(self, text: str, ids: list[int]) -> list[Place] | None:
        if self._normalize(text) != text:
            return None
        adds = self._steps[0].get("add_prefix_space", True) and text and not text[0].isspace()
        char_of = [0] * bool(adds) + [place for place, char in enumerate(text) for _ in char.encode()]
        data, at = (" " * bool(adds) + text).encode(), 0
        found: list[Place] = []
        for token in [self._tokens.get(number, "") for number in ids]:
            piece = bytes(self._bytes[char] for char in token if char in self._bytes)
            if not piece or len(piece) != len(token) or not data.startswith(piece, at):
                return None
            place = char_of[at], char_of[at + len(piece) - 1] + 1
            for step in self._trims:
                place = _trimmed(token, *place, not found and step.get("add_prefix_space", True))
            found.append(place)
            at += len(piece)
        return found if at == len(data) else None

    def _of_words(self, text: str, ids: list[int]) -> list[Place] | None:
        forms = [self._normal_form(char) for char in text]
        normalized = "".join(forms)
        # Beside a character that a sentencepiece table drops, the library counts some offsets without it.
        if normalized != self._normalize(text) or not all(forms):
            return None
        spelled, char_of = self._spelled(normalized, [place for place, form in enumerate(forms) for _ in form])

        def text_of(number: int, at: int) -> str | None:
            return self._unknown_text(spelled, at) if number == self._unknown else self._tokens.get(number)

        return _followed(ids, spelled, char_of, text_of)

    def _spelled(self, normalized: str, char_of: list[int]) -> tuple[str, list[int]]:
        """Return the text as Metaspace gives it to the model, and the character that each of its characters is from."""
        mark = self._steps[-1]["replacement"]
        scheme = self._steps[-1].get("prepend_scheme", "always")
        texts, places = [], []
        for match in re.finditer(_WORD if len(self._steps) == 2 else r"(?s:.+)", normalized):
            text, place = match[0].replace(" ", mark), char_of[match.start() : match.end()]
            if not text.startswith(mark) and (scheme == "always" or (scheme == "first" and match.start() == 0)):
                text, place = mark + text, [place[0], *place]
            texts.append(text)
            places += place
        return "".join(texts), places

    def _unknown_text(self, spelled: str, begin: int) -> str:
        """Return the characters from a place on that are no token; Unigram makes one token of them."""
        end = begin
        while end < len(spelled) and spelled[end] not in self._ids:
            end += 1
        return spelled[begin:end]


def _followed(
    ids: list[int], spelled: str, char_of: list[int], text_of: Callable[[int, int], str | None]
) -> list[Place] | None:
    """Return the place of each token if the tokens are the spelled text, one behind the other.

    Args:
        ids: The tokens.
        spelled: What they must spell.
        char_of: The character of the original that each character of `spelled` comes from.
        text_of: Returns what a token spells from a place on.
    """
    found: list[Place] = []
    at = 0
    for number in ids:
        token = text_of(number, at)
        if not token or not spelled.startswith(token, at):
            return None
        found.append((char_of[at], char_of[at + len(token) - 1] + 1))
        at += len(token)
    return found if at == len(spelled) else None


def _trimmed(token: str, start: int, end: int, may_be_added: bool) -> Place:
    """Return the place without the spaces at the ends of a byte-level token.

    A single space before the first token of a text stays, if it may have been added; this has no character.
    """
    leading, trailing = len(token) - len(token.lstrip("Ġ")), len(token) - len(token.rstrip("Ġ"))
    start = start if may_be_added and leading == 1 else min(start + leading, end)
    return start, max(end - trailing, start)
