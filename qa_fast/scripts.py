"""What spans and scores must know about a text's script: where characters must not be parted, and who writes no spaces.

A grapheme cluster is what readers see as one character, such as a letter with its marks or an emoji of several parts
(Unicode Standard Annex 29, as the package `regex` has it). Tokens may end inside one, because many tokenizers drop
marks. Most texts have no cluster of several characters, which one search finds at 30 ns a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from qa_fast.schema import Int32s, Int64s

# First and last code points of blocks whose letters do not form words separated by spaces.
UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x9FFF),  # CJK radicals, kana, Bopomofo, ideographs
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar extended
    (0xAA60, 0xAADF),  # Myanmar extended, Tai Viet
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0xFF65, 0xFF9F),  # half-width kana
    (0x1AFF0, 0x1B2FF),  # kana supplements, Nushu
    (0x20000, 0x3FFFF),  # rarer ideographs
)
# Korean has spaces, but its words include particles that do not belong to an answer.
HANGUL = (
    (0x1100, 0x11FF),
    (0x3130, 0x318F),
    (0xA960, 0xA97F),
    (0xAC00, 0xD7FF),
    (0xFFA0, 0xFFDC),
)


def class_of(ranges: Sequence[tuple[int, int]]) -> str:
    """Return the character class of a regular expression for ranges of code points."""
    return "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "]"


@cache
def _patterns() -> tuple[Any, Any]:
    """Return patterns of characters that may share a cluster with a neighbour, and of a cluster.

    White space is never in a cluster with other characters here, because answers do not begin or end with it. The
    letters of flags are taken in pairs by themselves, because `\\X` counts all that stand before, which is quadratic.
    """
    import regex  # 10 ms, which texts in ASCII need not spend

    joining = "".join(rf"\p{{GCB={name}}}" for name in ("EX", "ZWJ", "SM", "PP", "L", "V", "T", "RI"))
    flag, before_space = r"\p{GCB=RI}{2}[\p{GCB=EX}\p{GCB=ZWJ}\p{GCB=SM}]*", r"\p{GCB=PP}++(?=\s)"
    return regex.compile(f"[{joining}]"), regex.compile(rf"\s|{before_space}|{flag}|\X")


def whole_clusters(
    texts: Sequence[str], offsets: Int64s, char_start: Int32s, char_end: Int32s
) -> tuple[Int32s, Int32s]:
    r"""Widen the places of tokens to whole grapheme clusters, so that no span of tokens ends inside one.

    Args:
        texts: D texts.
        offsets: int64[D + 1], the tokens of each text.
        char_start: int32[T], first character of each token in its text.
        char_end: int32[T], one past its last character. A token without characters stays as it is.

    Returns:
        int32[T] first characters, and int32[T] one past the last characters; the arguments if nothing changes.

    Examples:
        >>> whole_clusters(["cafe\u0301"], np.array([0, 1]), np.array([0], np.int32), np.array([4], np.int32))
        (array([0], dtype=int32), array([5], dtype=int32))
    """
    starts, ends = char_start, char_end
    for row, text in enumerate(texts):
        if text.isascii() or not _patterns()[0].search(text):
            continue
        if starts is char_start:
            starts, ends = char_start.copy(), char_end.copy()
        tokens = slice(offsets[row], offsets[row + 1])
        begins, stops = char_start[tokens], char_end[tokens]
        bounds = np.array([0, *(found.end() for found in _patterns()[1].finditer(text))], np.int32)
        before = bounds.take(np.searchsorted(bounds, begins, side="right") - 1, mode="clip")
        behind = bounds.take(np.searchsorted(bounds, stops, side="left"), mode="clip")
        starts[tokens] = np.where(begins < stops, before, begins)
        ends[tokens] = np.where(begins < stops, behind, stops)
    return starts, ends


def cut_between_clusters(text: str, start: int, end: int) -> int:
    """Return the last place at or before `end` that parts no grapheme cluster of those from `start` on.

    It is `end` if one cluster is longer than that.
    """
    part = text[start : end + 1]
    if part.isascii():
        return end
    ends = [found.end() for found in _patterns()[1].finditer(part) if found.end() <= end - start]
    return start + ends[-1] if ends else end
