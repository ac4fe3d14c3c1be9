"""Checks of a tokenizer.json, which may come from anybody.

The Rust library checks most of what such a file holds, and reports it by exceptions of many kinds. Some damage makes
it panic instead: a panic is no `Exception` in Python, and it writes to standard error or ends the process. The library
does not bound how much longer a text may become, how long a word may take, how long a regular expression may search,
or whether the ids are ones that the model has. The checks here cover these cases.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qa_fast.encode.library import normalizer_of
from qa_fast.errors import UserError, shown
from qa_fast.model.fields import MOST_TOKENS

# Tables of sentencepiece turn a character into 18 at most; a few more steps treble a text.
_MOST_GROWTH = 4096
# Pieces that the template of special tokens may put around a pair.
_MOST_PIECES = 4096
# WordPiece's time is cubic in the length of a word: a letter takes the library 3 µs in words of 100 letters, 70 µs in
# words of 1,000 and 3,700 µs in words of 10,000 (one core of an AMD EPYC). BERT and its successors have 100.
_LONGEST_WORD = 1000
_LARGEST = 1 << 60
_PANIC = "PanicException"

# The library ends an expression that backtracks exponentially after ten million steps, but not a quadratic one: `\s+$`
# takes 10 s for 30,000 spaces. The text of an expression does not show whether it is slow, so only those of
# published tokenizers are accepted.
ALLOW_PATTERNS = "QA_FAST_ALLOW_PATTERNS"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN_PATTERNS = frozenset(
    (
        # GPT-2.
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # Qwen 2; GPT-4 and Llama 3; GPT-4o.
        rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
        # The library's own pre-tokenizer Whitespace, spelled out.
        r"\w+|[^\w\s]+",
        # Normalizers of CLIP and of SentencePiece models that transformers converted, and Metaspace's decoder.
        r" {2,}",
        r"\s{2,}|[\n\r\t]",
        r"\s+",
        r"\s",
        r"\n",
    )
)


@contextlib.contextmanager
def one_line(folder: Path | None = None) -> Iterator[None]:
    """Turn what the library raises for a damaged tokenizer into a `UserError`.

    Panics are always turned into one, other exceptions only while a folder is opened.

    Args:
        folder: The folder whose tokenizer is being made; None while texts are encoded, where an exception other than a
            panic is not the file's fault.

    Raises:
        UserError: The tokenizer cannot be made or cannot be used.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        panicked = type(error).__name__ == _PANIC  # its module cannot be imported
        if not panicked and (folder is None or not isinstance(error, Exception)):
            raise
        if isinstance(error, ImportError | OSError):
            raise
        where = f"that of {folder}" if folder is not None else "this one"
        raise UserError(
            f"a tokenizer must be as the tokenizers library writes it; {where} is not "
            f"({type(error).__name__}: {shown(str(error), 160)}): download the model again"
        ) from error


def check_ids(vocabulary: dict[str, int]) -> int:
    """Refuse ids that no vocabulary has, since tables are made with one row for each id.

    Returns:
        The highest id that a text may get; -1 if there is no token.

    Raises:
        UserError: An id is too high.
    """
    highest = max(vocabulary.values(), default=-1)
    if highest >= MOST_TOKENS:
        raise UserError(
            f"a tokenizer's ids must be below {MOST_TOKENS}; received {highest} in tokenizer.json: download the model "
            "again"
        )
    return highest


def check_added_tokens(settings: dict[str, Any]) -> None:
    """Refuse added tokens that become the same text by normalization.

    Which of them the library then finds in a text differs from one loading of the file to the next.

    Raises:
        UserError: Two of them do.
    """
    added = settings.get("added_tokens") or []
    contents = dict.fromkeys(token["content"] for token in added if token.get("normalized") and token["content"])
    if not contents or not settings.get("normalizer"):
        return
    normalize = normalizer_of(settings["normalizer"])
    found: dict[str, str] = {}
    for content in contents:
        text = normalize(content)
        if text in found:
            raise UserError(
                "added tokens must differ after normalization, or their ids depend on chance; received "
                f"{shown(found[text])} and {shown(content)}, which both become {shown(text)}: leave one out, or "
                'set "normalized" to false for one in tokenizer.json'
            )
        found[text] = content


def check_rows(highest: int, vocab_size: int, folder: Path) -> None:
    """Refuse a tokenizer with ids that the model has no row for: looking them up gives garbage or ends the process.

    A model may have more rows than the tokenizer has tokens: published models are padded to a round number.

    Args:
        highest: The highest id that a text or the special tokens around it may get.
        vocab_size: Rows of the model's word embedding.
        folder: The model folder, for the message.

    Raises:
        UserError: The highest id is not below `vocab_size`.
    """
    if highest >= vocab_size:
        raise UserError(
            f"a tokenizer's ids must be below vocab_size of config.json, {vocab_size}; received {highest} in the "
            f"tokenizer of {folder}: give the model and the tokenizer that belong together"
        )


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that the Rust library would accept, or refuse too late. Call this before the library sees them.

    Args:
        settings: The parsed tokenizer.json, of any form.

    Raises:
        UserError: A text could grow or take time without bound, or the library would panic or end the process.
    """
    check_growth(settings)
    model = settings.get("model")
    if isinstance(model, dict):
        _check_words(model)
        _check_merges(model)
    for step in _objects(settings.get("post_processor")):
        _check_template(step)
    for step in _objects([settings.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]):
        _check_table(step)
        _check_pattern(step)


def _check_words(model: dict[str, Any]) -> None:
    longest = model.get("max_input_chars_per_word")
    if type(longest) is int and longest > _LONGEST_WORD:
        raise UserError(
            f"max_input_chars_per_word must be at most {_LONGEST_WORD}, since the time for a word grows with the cube "
            f"of its length; received {shown(longest)} in tokenizer.json: set it to 100, as BERT has it"
        )


def _check_merges(model: dict[str, Any]) -> None:
    """Refuse merges that make no token: the library joins their parts unchecked, in a buffer as long as any token.

    It also cuts a prefix off the second part without looking whether it is there. If that splits a character, the
    process ends.
    """
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not (isinstance(vocabulary, dict) and isinstance(merges, list)):
        return
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        try:
            first, second = parts
            sound = second.startswith(prefix) and first + second[len(prefix) :] in vocabulary
        except (TypeError, ValueError, AttributeError):  # of another form, which the library refuses
            continue
        if not sound:
            raise UserError(
                "a merge must make a token, and its second part must begin with continuing_subword_prefix, "
                f"{shown(prefix)}; received {shown(merge)} in tokenizer.json: download the model again"
            )


def _check_template(step: dict[str, Any]) -> None:
    """Refuse a template with a special token that it does not list: the library looks it up unchecked."""
    if step.get("type") != "TemplateProcessing":
        return
    listed = step.get("special_tokens")
    known = listed if isinstance(listed, dict) else {}
    for piece in _objects([step.get("single"), step.get("pair")]):
        special = piece.get("SpecialToken")
        name = special.get("id") if isinstance(special, dict) else None
        if isinstance(name, str) and name not in known:
            raise UserError(
                f"a template's special tokens must be listed in its special_tokens; received {shown(name)} in "
                "tokenizer.json, which is not: download the model again"
            )


def _check_table(step: dict[str, Any]) -> None:
    """Refuse a sentencepiece table that is not base64 of one: the library decodes it unchecked."""
    if step.get("type") != "Precompiled":
        return
    table = step.get("precompiled_charsmap")
    if not (isinstance(table, str) and _is_table(table)):
        raise UserError(
            f"precompiled_charsmap must be a table as sentencepiece writes it, in base64; received {shown(table)} "
            "in tokenizer.json: download the model again"
        )


def _check_pattern(step: dict[str, Any]) -> None:
    """Refuse a search for the empty text, and an unknown regular expression unless the environment allows it."""
    pattern, expression = step.get("pattern"), step.get("Regex")
    if isinstance(pattern, dict) and "" in (pattern.get("String"), pattern.get("Regex")):
        raise UserError(
            f"a pattern must be for some text; received the empty one in a {shown(step.get('type'))} of "
            "tokenizer.json: download the model again"
        )
    if isinstance(expression, str) and expression not in KNOWN_PATTERNS and os.environ.get(ALLOW_PATTERNS) != "1":
        raise UserError(
            f"a tokenizer's regular expressions must be known to be fast; received {shown(expression)} in "
            f"tokenizer.json: choose another model or, if you trust this one, set {ALLOW_PATTERNS}=1 in the environment"
        )


def _is_table(text: str) -> bool:
    """Return whether a text is base64 of a size, a trie of that many bytes, and texts. The trie is not followed."""
    try:
        data = base64.b64decode(text)
        begin = 4 + int.from_bytes(data[:4], "little") // 4 * 4
        data[begin:].decode()
    except ValueError:
        return False
    return 4 <= begin <= len(data) and base64.b64encode(data).decode() == text


def check_growth(settings: dict[str, Any]) -> None:
    """Refuse steps that together make a text, or the special tokens of a pair, too long.

    Each step alone is harmless, but forty steps that each double a text turn one letter into a million million. Call
    this before the Rust library sees the settings, since it normalizes added tokens as it reads them.

    Args:
        settings: The parsed tokenizer.json, of any form.

    Raises:
        UserError: They make a text or a pair too long.
    """
    growth = 1
    for part in ("normalizer", "pre_tokenizer"):
        for step in _objects(settings.get(part)):
            growth = min(growth * _growth(step), _LARGEST)
    pieces = 1
    for step in _objects(settings.get("post_processor")):
        pair = step.get("pair")
        pieces = min(pieces * max(1, len(pair) if isinstance(pair, list) else 1), _LARGEST)
    if growth > _MOST_GROWTH or pieces > _MOST_PIECES:
        raise UserError(
            f"a tokenizer may make a text at most {_MOST_GROWTH} times as long and a pair have at most {_MOST_PIECES} "
            f"pieces; received a tokenizer.json with {growth} and {pieces}: choose another model"
        )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all JSON objects in a value, the value itself included."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
        if isinstance(part, dict | list):
            left += part.values() if isinstance(part, dict) else part


def _growth(step: dict[str, Any]) -> int:
    """Return the largest factor by which a step of a normalizer or pre-tokenizer may lengthen a text."""
    if step.get("type") == "ByteLevel" or "trim_offsets" in step:
        return 4  # a character for each byte
    content, prepended, table = (step.get(name) for name in ("content", "prepend", "precompiled_charsmap"))
    if isinstance(content, str):
        pattern = step.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(literal, str) and literal:
            return max(1, -(-len(content) // len(literal)))
        # An expression may match a single character, or the empty text before each.
        return max(1, len(content)) if _matches_some(pattern) else 1 + len(content)
    if isinstance(prepended, str):
        return 1 + len(prepended)
    if isinstance(table, str):
        with contextlib.suppress(binascii.Error, ValueError):
            data = base64.b64decode(table)
            texts = data[4 + int.from_bytes(data[:4], "little") :]
            return max(1, *(len(text.decode(errors="replace")) for text in texts.split(b"\0")))
    return 1


def _matches_some(pattern: Any) -> bool:
    """Return whether an expression is a known one that never matches the empty text."""
    return isinstance(pattern, dict) and str(pattern.get("Regex")).startswith((" ", r"\s{2,}"))
