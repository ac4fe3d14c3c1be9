"""What a tokenizer.json may not do, since it comes from anybody: end in a traceback or a panic, or cost at will.

The Rust library checks most of what stands in it, and says so by exceptions of many kinds; some that it overlooks end
in a panic, which is no `Exception` in Python and writes to standard error, or end the process. What it does not bound
at all is how much longer a text becomes, how long a word takes, and whether the ids are ones that the model has.
Regular expressions are `patterns`' matter.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_fast.errors import UserError, shown
from qa_fast.model.fields import MOST_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Tables of sentencepiece turn a character into 18 at most; a few more steps treble a text.
_MOST_GROWTH = 4096
# Of what the special tokens' template puts around a pair.
_MOST_PIECES = 4096
# WordPiece's time is cubic in a word's length: for one in pieces of a letter the library takes 3 µs a letter of 100,
# 70 µs of 1,000, 3,700 µs of 10,000 (one core of an AMD EPYC). BERT and all made after it have 100.
_LONGEST_WORD = 1000
_PANIC = "PanicException"


@contextlib.contextmanager
def one_line(folder: Path | None = None) -> Iterator[None]:
    """What a tokenizer that is damaged raises, in the user's words: panics always, all else where a folder is opened.

    Args:
        folder: Whose tokenizer is being made; None while one encodes, where another error is no fault of the file's.

    Raises:
        UserError: The tokenizer cannot be made, or not be worked with.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        panicked = type(error).__name__ == _PANIC  # of a module that cannot be imported
        if not panicked and (folder is None or not isinstance(error, Exception)):
            raise
        if isinstance(error, ImportError | OSError):
            raise
        where = f"that of {folder}" if folder is not None else "this one"
        raise UserError(
            f"a tokenizer must be as the tokenizers library writes it; {where} is not "
            f"({type(error).__name__}: {shown(str(error), 160)}): download the model again"
        ) from error


def check_ids(tokenizer: Tokenizer) -> int:
    """Refuse ids beyond any vocabulary: tables are made with a row for each.

    Returns:
        The highest id that a text may get; -1 where there is no token.

    Raises:
        UserError: There are such.
    """
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= MOST_TOKENS:
        raise UserError(
            f"a tokenizer's ids must be below {MOST_TOKENS}; received {highest} in tokenizer.json: download the model "
            "again"
        )
    return highest


def check_rows(highest: int, vocab_size: int, folder: Path) -> None:
    """Refuse a tokenizer that gives ids which the model has no row for: a look-up there gives anything, or ends all.

    A model may have more rows than there are tokens: published ones are padded to a round number.

    Args:
        highest: The highest id that a text or the special tokens around it may get.
        vocab_size: Rows of the model's word embedding.
        folder: Whose.

    Raises:
        UserError: It is beyond them.
    """
    if highest >= vocab_size:
        raise UserError(
            f"a tokenizer's ids must be below vocab_size of config.json, {vocab_size}; received {highest} in the "
            f"tokenizer of {folder}: give the model and the tokenizer that belong together"
        )


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse what the Rust library would not, or not in time; to be asked before it sees the settings.

    Args:
        settings: The parsed tokenizer.json, of any form.

    Raises:
        UserError: A text would grow or take time beyond measure, or the library would panic or end the process.
    """
    check_growth(settings)
    model = settings.get("model")
    if isinstance(model, dict):
        _check_words(model)
        _check_merges(model)
    for step in _objects(settings.get("post_processor")):
        _check_template(step)
    for step in _objects([settings.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]):
        _check_step(step)


def _check_words(model: dict[str, Any]) -> None:
    longest = model.get("max_input_chars_per_word")
    if type(longest) is int and longest > _LONGEST_WORD:
        raise UserError(
            f"max_input_chars_per_word must be at most {_LONGEST_WORD}, since a word's time grows with the cube of its "
            f"length; received {shown(longest)} in tokenizer.json: set it to 100, as BERT has it"
        )


def _check_merges(model: dict[str, Any]) -> None:
    """Refuse merges that make no token: the library puts them together unasked, in a buffer as long as any token.

    It also cuts the prefix off the second part, be it there or not; where that goes amid a character, what it raises
    is no text, and ends the process.
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
                "a merge must make a token, its second part beginning with continuing_subword_prefix, "
                f"{shown(prefix)}; received {shown(merge)} in tokenizer.json: download the model again"
            )


def _check_template(step: dict[str, Any]) -> None:
    """Refuse a template that names a special token which it does not list: the library looks it up unasked."""
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


def _check_step(step: dict[str, Any]) -> None:
    """Refuse a table of sentencepiece's that is no base64, and a search for nothing: the library trusts in both."""
    if step.get("type") == "Precompiled":
        table = step.get("precompiled_charsmap")
        if not (isinstance(table, str) and _is_table(table)):
            raise UserError(
                f"precompiled_charsmap must be a table as sentencepiece writes it, in base64; received {shown(table)} "
                "in tokenizer.json: download the model again"
            )
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and "" in (pattern.get("String"), pattern.get("Regex")):
        raise UserError(
            f"a pattern must be for some text; received the empty one in a {shown(step.get('type'))} of "
            "tokenizer.json: download the model again"
        )


def _is_table(text: str) -> bool:
    """Whether a text is base64 of a size, so many bytes of a trie, and texts; where the trie points is not followed."""
    try:
        data = base64.b64decode(text)
        begin = 4 + int.from_bytes(data[:4], "little") // 4 * 4
        data[begin:].decode()
    except ValueError:
        return False
    return 4 <= begin <= len(data) and base64.b64encode(data).decode() == text


def check_growth(settings: dict[str, Any]) -> None:
    """Refuse steps that together make a text, or a pair's special tokens, longer beyond measure.

    Each step alone is harmless: forty in a row that each double a text make a million million of one letter. This is
    asked before the Rust library sees the settings, since it normalizes added tokens as it reads them.

    Args:
        settings: The parsed tokenizer.json, of any form.

    Raises:
        UserError: They would.
    """
    growth = 1
    for part in ("normalizer", "pre_tokenizer"):
        for step in _objects(settings.get(part)):
            growth = min(growth * _growth(step), 1 << 60)
    pieces = 1
    for step in _objects(settings.get("post_processor")):
        pair = step.get("pair")
        pieces = min(pieces * max(1, len(pair) if isinstance(pair, list) else 1), 1 << 60)
    if growth > _MOST_GROWTH or pieces > _MOST_PIECES:
        raise UserError(
            f"a tokenizer may make a text {_MOST_GROWTH} times as long and a pair have {_MOST_PIECES} pieces; received "
            f"a tokenizer.json of {growth} and {pieces}: choose another model"
        )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects in a value, itself included."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield found
        if isinstance(found, dict | list):
            left += found.values() if isinstance(found, dict) else found


def _growth(step: dict[str, Any]) -> int:
    """How many times as long a step of a normalizer or pre-tokenizer may make a text, at most."""
    if step.get("type") == "ByteLevel" or "trim_offsets" in step:
        return 4  # a character for each byte
    content, prepended, table = (step.get(name) for name in ("content", "prepend", "precompiled_charsmap"))
    if isinstance(content, str):
        pattern = step.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(literal, str) and literal:
            return max(1, -(-len(content) // len(literal)))
        # An expression may match a single character, or the nothing before each.
        return max(1, len(content)) if _takes_some(pattern) else 1 + len(content)
    if isinstance(prepended, str):
        return 1 + len(prepended)
    if isinstance(table, str):
        with contextlib.suppress(binascii.Error, ValueError):
            data = base64.b64decode(table)
            texts = data[4 + int.from_bytes(data[:4], "little") :]
            return max(1, *(len(text.decode(errors="replace")) for text in texts.split(b"\0")))
    return 1


def _takes_some(pattern: Any) -> bool:
    """Whether an expression is one of those in use that match a space at least."""
    return isinstance(pattern, dict) and str(pattern.get("Regex")).startswith((" ", r"\s{2,}"))
