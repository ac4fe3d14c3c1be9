"""Finds where words and sentences begin and end in a text, as character positions.

Answers are widened to whole words in scripts with spaces between words, where a word is a run of letters, digits and
marks. Answers in scripts without spaces (Chinese, Japanese, Thai, Khmer, ...) are never widened, because a run of
letters is a sentence there. Neither are Korean ones, because a Korean word includes particles that do not belong to an
answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_fast.schema import Int32s, Ragged
from qa_fast.scripts import HANGUL, UNSPACED, cut_between_clusters

_JOINERS = "\u00ad\u200c\u200d"  # soft hyphen and zero-width (non-)joiner occur inside words
_KNOWN, _IN_WORD, _SPACE = 1, 2, 4
# Flags by code point, computed on first use: asking unicodedata for all code points takes 0.2 s.
_flags = np.zeros(0x110000, np.uint8)

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|\Z)|[。！？]+[」』”’）]*|[\r\n]+")


def answer_bounds(text: str, char_start: Int32s, char_end: Int32s, align_to_words: bool) -> tuple[Int32s, Int32s]:
    """Return for each token where an answer that starts or ends with it begins or ends in the text.

    White space at the ends of a token never belongs to the answer. A token of white space only gets an end that is not
    greater than its start.

    Args:
        text: n characters.
        char_start: int32[T], first character of each token.
        char_end: int32[T], one past the last character of each token.
        align_to_words: Widen answers to whole words in scripts with spaces between words.

    Returns:
        int32[T] first characters, and int32[T] one past the last characters.
    """
    flags = _flags_of(text)
    n = len(flags)
    if n == 0:
        return char_start.copy(), char_end.copy()
    place = np.arange(n, dtype=np.int32)
    solid = (flags & _SPACE) == 0
    next_solid, solid_end = np.full(n + 1, n, np.int32), np.zeros(n + 1, np.int32)
    np.minimum.accumulate(np.where(solid, place, n)[::-1], out=next_solid[-2::-1])
    np.maximum.accumulate(np.where(solid, place + 1, 0), out=solid_end[1:])
    starts, ends = next_solid[char_start], solid_end[char_end]
    if align_to_words:
        in_word = (flags & _IN_WORD) != 0
        follows = np.zeros(n + 1, bool)  # this character continues the word before it
        np.logical_and(in_word[1:], in_word[:-1], out=follows[1:-1])
        word_start = np.maximum.accumulate(np.where(follows[:-1], 0, place))
        word_end = np.minimum.accumulate(np.where(follows[1:], n, place + 1)[::-1])[::-1]
        real = starts < ends
        starts = np.where(real, word_start[np.minimum(starts, n - 1)], starts)
        ends = np.where(real, word_end[np.maximum(ends, 1) - 1], ends)
    return starts.astype(np.int32), ends.astype(np.int32)


def bounds_of(
    texts: Sequence[str], char_start: Ragged, char_end: Ragged, align_to_words: bool, rows: Iterable[int] | None = None
) -> tuple[Int32s, Int32s]:
    """Return `answer_bounds` of the T tokens of several texts.

    Args:
        texts: The texts [U].
        char_start: int32 Ragged[U], first character of each token.
        char_end: int32 Ragged[U], one past the last character of each token, with the same offsets.
        align_to_words: See `answer_bounds`.
        rows: The texts that count; the others keep their values. None means all.

    Returns:
        int32[T] each, over the flat values.
    """
    starts, ends = char_start.values.copy(), char_end.values.copy()
    for row in range(len(texts)) if rows is None else rows:
        tokens = slice(char_start.offsets[row], char_start.offsets[row + 1])
        starts[tokens], ends[tokens] = answer_bounds(
            texts[row], char_start.values[tokens], char_end.values[tokens], align_to_words
        )
    return starts, ends


@dataclass(frozen=True)
class Excerpt:
    """A sentence with an answer, in three parts without line breaks.

    Attributes:
        before: Text before the answer; begins with "…" if it was cut.
        answer: The answer.
        after: Text after the answer; ends with "…" if it was cut.
        start: First character of what is shown, in the document.
        end: One past its last character.
    """

    before: str
    answer: str
    after: str
    start: int
    end: int


def sentence_around(text: str, start: int, end: int, longest: int = 200) -> Excerpt:
    """Return the sentence or sentences that contain characters [start, end).

    This is for display, not for analysis: a sentence ends at . ! ? … before white space, at 。！？, or at a line break,
    so that an abbreviation ends one too.

    Args:
        text: The document.
        start: First character of the answer.
        end: One past its last character.
        longest: Most characters to show on either side; where they begin inside a grapheme cluster, it is shown, too.
    """
    earliest, latest = max(0, start - longest), min(len(text), end + longest)
    earliest = cut_between_clusters(text, max(0, earliest - longest), earliest)
    latest = cut_between_clusters(text, end, latest)
    begin, cut_before = earliest, earliest > 0
    # Without an end, a long run of full stops would be searched again from each of them.
    for sentence_end in _SENTENCE_END.finditer(text, earliest, start + 1):
        if sentence_end.end() > start:
            break
        begin, cut_before = sentence_end.end(), False
    stop, cut_after = latest, latest < len(text)
    # The answer's own last character may be the full stop.
    closing = _SENTENCE_END.search(text, max(start, end - 1), latest)
    if closing is not None and (closing.end() < latest or latest == len(text)):
        stop, cut_after = max(closing.end(), end), False
    before, after = text[begin:start], text[end:stop]
    # Only whole words are shown of a sentence that was cut.
    if cut_before and (space := re.search(r"\s", before)):
        before = before[space.start() :]
    if cut_after and (spaces := list(re.finditer(r"\s", after))):
        after = after[: spaces[-1].end()]
    shown = _one_line("…" * cut_before + before).lstrip(), _one_line(after + "…" * cut_after).rstrip()
    return Excerpt(
        shown[0], _one_line(text[start:end]), shown[1], start - len(before.lstrip()), end + len(after.rstrip())
    )


def _one_line(text: str) -> str:
    return re.sub(r"\s", " ", text)


def _flags_of(text: str) -> npt.NDArray[np.uint8]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    flags = _flags[codes]
    if not flags.all():
        for code in np.unique(codes[flags == 0]).tolist():
            _flags[code] = _classify(code)
        flags = _flags[codes]
    return flags


def _classify(code: int) -> int:
    character = chr(code)
    if character.isspace():
        return _KNOWN | _SPACE
    letter = unicodedata.category(character)[0] in "LMN" or character in _JOINERS
    if letter and not any(first <= code <= last for first, last in UNSPACED + HANGUL):
        return _KNOWN | _IN_WORD
    return _KNOWN
