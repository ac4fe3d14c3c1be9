"""What a tokenizer.json may not do, since it comes from anybody: end in a traceback or a panic, or grow a text at will.

The Rust library checks most of what stands in it, and says so by exceptions of many kinds; some that it overlooks end
in a panic, which is no `Exception` in Python. What it does not bound at all is how much longer a text becomes.
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


def check_ids(tokenizer: Tokenizer) -> None:
    """Refuse ids beyond any vocabulary: tables are made with a row for each.

    Raises:
        UserError: There are such.
    """
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= MOST_TOKENS:
        raise UserError(
            f"a tokenizer's ids must be below {MOST_TOKENS}; received {highest} in tokenizer.json: download the model "
            "again"
        )


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
