"""A program: tries regular expressions, a JSON list on standard input, and writes a line for each that is quick.

It ends at the first that is slow, or that the library panics or ends the process on. It imports nothing of ours, so
that it starts at once.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from itertools import product

from tokenizers import Regex, pre_tokenizers

# Characters of the texts. For the short one 0.5 ms is usual, and the long one takes 8 times as long where time is in
# proportion, 64 times where it is squared (an AMD EPYC); below the seconds nothing can be told.
_SHORT, _LONG, _TIMES = 1 << 9, 1 << 12, 20
_SHORT_SECONDS, _LONG_SECONDS = 0.02, 0.01
_MEMORY, _CPU_SECONDS = 4 << 30, 30
# One of each kind that expressions tell apart; of what stands in an expression itself, the first few characters too.
_KINDS = " a1'!\n\tA_é中-"
_MOST_OWN, _MOST_PAIRED, _MOST_READ = 24, 4, 500


def texts(pattern: str) -> list[tuple[str, str]]:
    """What an expression is tried on: what is to be repeated, and the end behind it.

    A character, or two, or a word of the expression's own; with no end, and with one that holds what the expression may
    need somewhere, since the library looks for that first.
    """
    own = "".join(dict.fromkeys(char for char in pattern[:_MOST_READ] if char not in "\\()[]{}|?*+^$"))
    pairs = product(dict.fromkeys(own[:_MOST_PAIRED] + " a1"), repeat=2)
    words = re.findall(r"\w+", pattern[:_MOST_READ])
    pieces = [*_KINDS, *own[:_MOST_OWN], *words, *("".join(pair) for pair in pairs)]
    return [(piece, end) for end in (f"\0{own}\0", "") for piece in dict.fromkeys(pieces)]


def is_quick(pattern: str) -> bool:
    """Whether an expression takes a proper time on each text."""
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception:  # none at all, which the library says in its own words when the tokenizer is made
        return True

    def took(text: str) -> float:
        begun = time.process_time()
        split.pre_tokenize_str(text)
        return time.process_time() - begun

    for piece, end in texts(pattern):
        short, long = (piece * (size // len(piece)) + end for size in (_SHORT, _LONG))
        if took(short) > _SHORT_SECONDS and _least(took, short) > _SHORT_SECONDS:
            return False
        if took(long) > _LONG_SECONDS and _least(took, long) > _TIMES * _least(took, short):
            return False
    return True


def _least(took: Callable[[str], float], text: str) -> float:
    """Of several times: others on the machine can only make one longer."""
    return min(took(text) for _ in range(5))


def main() -> None:
    """Of the command line."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    for pattern in json.loads(sys.stdin.buffer.read()):
        if not is_quick(pattern):
            return
        print(flush=True)


if __name__ == "__main__":
    main()
