"""The regular expressions of a tokenizer.json, which comes from anybody, tried before a tokenizer is made with them.

An expression that backtracks exponentially is ended by the Rust library's own engine (Oniguruma) after ten million
steps; one that is quadratic, such as `\\s+$`, is not, and takes 10 s for 30,000 blanks, 3 hours for a million. Those of
published tokenizers are known. Any other is tried in a process of its own, which takes a quarter of a second or more,
on texts that are one character, or a few, over and over. Which texts are worst for an expression is not worked out:
whoever means harm can make one that is quick on these and slow on others. See SECURITY.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from qa_fast.errors import UserError, shown

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Of what the supported families and their like have: GPT-2, Llama 3 and its like, GPT-4, GPT-4o; normalizers of CLIP,
# SentencePiece converted by transformers, and Metaspace's.
KNOWN = frozenset(
    (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        *(
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            for digits in ("", "{1,3}")
        ),
        r" {2,}",
        r"\s{2,}|[\n\r\t]",
        r"\s+",
        r"\s",
        r"\n",
    )
)
_MOST, _LONGEST = 16, 5000
# For the process, where others keep the machine busy; it ends itself after 30 seconds of its own.
_SECONDS = 180.0
_TRIAL = Path(__file__).with_name("trial.py")


def check_patterns(settings: dict[str, Any]) -> None:
    """Refuse expressions that take longer than in proportion to a text.

    Args:
        settings: The parsed tokenizer.json, of any form.

    Raises:
        UserError: There is such a one, or too many, or too long ones to be tried.
    """
    unknown = sorted(_expressions([settings.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]) - KNOWN)
    if len(unknown) > _MOST or any(len(pattern) > _LONGEST for pattern in unknown):
        raise UserError(
            f"a tokenizer may have {_MOST} regular expressions of {_LONGEST} characters; received {len(unknown)} of up "
            f"to {max(map(len, unknown))} in tokenizer.json: choose another model"
        )
    slow = _slow_one(tuple(unknown)) if unknown else None
    if slow is not None:
        raise UserError(
            f"a regular expression must take time in proportion to a text; {shown(slow)} in tokenizer.json takes more: "
            "mend it, so that no text can be matched in many ways, or choose another model"
        )


def _expressions(value: Any) -> set[str]:
    """All that stand in parsed JSON as `{"Regex": …}`."""
    found, left = set(), [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if isinstance(part.get("Regex"), str):
                found.add(part["Regex"])
            left += part.values()
        elif isinstance(part, list):
            left += part
    return found


@lru_cache(maxsize=64)
def _slow_one(patterns: tuple[str, ...]) -> str | None:
    """The first of some expressions that is slow on a text of `trial`'s, or ends the process; None where none is."""
    try:
        # -P: no module of the folder that happens to be the current one must be taken for one of Python's.
        done = subprocess.run(
            [sys.executable, "-P", str(_TRIAL)],
            input=json.dumps(patterns).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"RUST_BACKTRACE": "0"},  # of a panic, which takes a second to write
            timeout=_SECONDS,
            check=False,
        )
        told = done.stdout
    except subprocess.TimeoutExpired as late:
        told = late.stdout or b""
    except OSError as error:
        raise UserError(
            f"the regular expressions of a tokenizer.json are tried in a process of their own, which cannot start "
            f"({error.strerror}): choose a model with known ones"
        ) from None
    # It writes a line for each that is done with, so that the next is the one to blame.
    sound = told.count(b"\n")
    return patterns[sound] if sound < len(patterns) else None
