"""Finds where a first answer is whose text is not at its `answer_start`, or finds that its place is not certain.

A repair must be more likely right than the label that it replaces, so the evidence is used in this order. The text at
the start may differ only in case, white space or normal form. The starts of a context may count something other than
code points (see `_readings`). The text may occur once in the context, as whole words, near the start or shifted as
other answers are; it may be far only from a start that says nothing (-1, 0, or outside). Of several places, the answer
may be at the one that is shifted as much as its neighbours.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from qa_fast.schema import Int64s
from qa_fast.scripts import HANGUL, UNSPACED, class_of

WHITE_SPACE, NORMAL_FORM, CASE = "white_space", "normal_form", "case"
UTF16, BYTES, NFC, NFD, LINE_ENDS = "utf16_starts", "byte_starts", "nfc_starts", "nfd_starts", "line_end_starts"
SHIFTED, NO_START = "shifted", "no_start"

# An answer whose shift no other confirms may be moved by so many characters.
NEAR = 32
# Shifts of neighbours may differ by this much: starts drift in small steps.
_STEP = 2
# Occurrences in a context that are looked at; a text that occurs more often has no certain place.
_MOST_OCCURRENCES = 100
_PIECES = re.compile(r"(\s+)|([!-~]+)|[^\s!-~]")
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"\d[.,]\d")
_UNSPACED = re.compile(class_of(UNSPACED))
# A vowel or a final consonant of decomposed Korean continues its syllable, and begins no particle.
_HANGUL = re.compile(r"(?![\u1160-\u11ff\ud7b0-\ud7ff])" + class_of(HANGUL))


class Span(NamedTuple):
    """A place of an answer: its first character in the context, one past its last, and the cause of the repair."""

    begin: int
    end: int
    cause: str


class _Context:
    """A context that is searched without regard to case, kinds of white space and normal forms."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._folded, self._places = _folded(text)

    def span_at(self, start: int, answer: str) -> Span | None:
        """Return the answer's place if it begins at `start`, or behind white space there."""
        if not 0 <= start <= len(self.text):
            return None
        answer = answer.strip()
        space = _SPACE.match(self.text, start)
        assert space is not None
        begin = space.end()
        if self.text.startswith(answer, begin):
            return Span(begin, begin + len(answer), WHITE_SPACE)
        end = self._end(bisect.bisect_left(self._places, begin), _folded(answer)[0])
        return None if end is None else Span(begin, end, _difference(self.text[begin:end], answer))

    def spans_between(self, least: int, most: int, answer: str) -> list[Span]:
        """Return the places of the answer as whole words that begin at `least` to `most`; none if they are too many."""
        wanted = _folded(answer.strip())[0]
        first, last = (bisect.bisect_left(self._places, max(at, 0)) for at in (least, most + 1))
        found: list[Span] = []
        for _ in range(_MOST_OCCURRENCES):
            first = self._folded.find(wanted, first, last + len(wanted) - 1)
            if first < 0:
                return found
            begin, end = self._places[first], self._end(first, wanted)
            if end is not None and is_whole(self.text, begin, end):
                found.append(Span(begin, end, SHIFTED))
            first += 1
        return []

    def only_span(self, answer: str) -> Span | None:
        """Return the only place of the answer as whole words; if there are several, the only one that is equal."""
        spans = self.spans_between(0, len(self.text), answer)
        if len(spans) > 1:
            spans = [span for span in spans if self.text[span.begin : span.end] == answer.strip()]
        return spans[0] if len(spans) == 1 else None

    def resembles(self, start: int, answer: str) -> bool:
        """Tell whether half of the characters at `start` are the answer's: it may be that, spelled another way."""
        wanted, first = _folded(answer.strip())[0], bisect.bisect_left(self._places, start)
        there = self._folded[first : first + len(wanted)] if start >= 0 else ""
        return 2 * sum(a == b for a, b in zip(there, wanted, strict=False)) >= len(wanted)

    def _end(self, first: int, wanted: str) -> int | None:
        """Return one past the last character of the text if it is at `first`, and neither end is in a character."""
        end = first + len(wanted)
        if not self._folded.startswith(wanted, first) or (first and self._places[first - 1] == self._places[first]):
            return None
        place = self._places[end]
        inside = place == self._places[end - 1] or (place < len(self.text) and _is_mark(self.text[place]))
        return None if inside else place


def find_spans(
    context: str, misplaced: Sequence[tuple[int, str]], standing: Sequence[tuple[int, str]]
) -> list[Span | None]:
    """Find the places of the misplaced first answers of one context.

    Args:
        context: The context.
        misplaced: `answer_start` and text of the answers whose text, which is not blank, is not there.
        standing: The same of those whose text is there.

    Returns:
        For each misplaced answer its place, or None if none is certain.

    Examples:
        >>> find_spans("The Mill was old. Later a windmill came.", [(4, "mill")], [])
        [Span(begin=4, end=8, cause='case')]
    """
    searched = _Context(context)
    spans = [searched.span_at(start, text) for start, text in misplaced]
    # A start of 0 may say nothing, as a part of a word in another case shows.
    spans = [
        None if span and span.cause == CASE and not start and not is_whole(context, 0, span.end) else span
        for span, (start, _) in zip(spans, misplaced, strict=True)
    ]
    starts = [start for start, _ in misplaced]
    if not all(spans):
        standing = [*standing, *(pair for pair, span in zip(misplaced, spans, strict=True) if span)]
        left = [pair for pair, span in zip(misplaced, spans, strict=True) if not span]
        cause, places = _reading(searched, left, standing)
        for row in (row for row, span in enumerate(spans) if not span):
            starts[row] = places.get(starts[row], starts[row])
            span = searched.span_at(starts[row], misplaced[row][1])
            if span and is_whole(context, span.begin, span.end):
                spans[row] = span._replace(cause=cause)
    known = [(start, 0) for start in (*(at for at, span in zip(starts, spans, strict=True) if span), *dict(standing))]
    return _search(searched, list(zip(starts, (text for _, text in misplaced), strict=True)), spans, known)


def _search(
    context: _Context, answers: Sequence[tuple[int, str]], spans: list[Span | None], known: list[tuple[int, int]]
) -> list[Span | None]:
    """Search the answers that have no span yet; `known` are the starts and shifts of the others."""
    left = [row for row, span in enumerate(spans) if not span]
    only_of = {text: context.only_span(text) for text in {answers[row][1] for row in left}}
    only = {row: span for row in left if (span := only_of[answers[row][1]])}
    starts_of_shift: dict[int, set[int]] = defaultdict(set)
    for start, shift in (*known, *((answers[row][0], span.begin - answers[row][0]) for row, span in only.items())):
        starts_of_shift[shift].add(start)
    alone: dict[int, Span] = {}
    for row, span in only.items():
        start, shift = answers[row][0], span.begin - answers[row][0]
        others = (starts_of_shift.get(other, set()) for other in range(shift - _STEP, shift + _STEP + 1))
        is_confirmed = start > 0 and any(starts - {start} for starts in others)
        if not (is_confirmed and abs(shift) <= NEAR) and context.resembles(*answers[row]):
            continue
        if is_confirmed:
            spans[row] = span
            known.append((start, shift))
        elif not 0 < start < len(context.text):
            spans[row] = span._replace(cause=NO_START)
        elif abs(shift) <= NEAR:
            alone[row] = span
    known.sort()
    # If others are shifted, starts may drift, but not jump.
    most = 4 * _STEP if any(shift for _, shift in known) else NEAR
    for row, span in alone.items():
        start, shift = answers[row][0], span.begin - answers[row][0]
        low, high = _shifts_around(known, start)
        if low - most <= shift <= high + most:
            spans[row] = span
            bisect.insort(known, (start, shift))
    for row in left:
        start, text = answers[row]
        if spans[row] or start <= 0 or not known:
            continue
        low, high = _shifts_around(known, start)
        between = context.spans_between(start + low - _STEP, start + high + _STEP, text)
        if len(between) == 1:
            spans[row] = between[0]
    return spans


def _shifts_around(known: list[tuple[int, int]], start: int) -> tuple[int, int]:
    """Return the least and the largest shift of the answers before and behind a start; 0 if there are none."""
    after = bisect.bisect_left(known, (start,))
    shifts = [shift for _, shift in known[max(after - 1, 0) : after + 1]] or [0]
    return min(shifts), max(shifts)


def _reading(
    context: _Context, misplaced: Sequence[tuple[int, str]], standing: Sequence[tuple[int, str]]
) -> tuple[str, dict[int, int]]:
    """Return what the starts of the context count, and their places in characters; both empty if it is not certain.

    It is what puts the most, and more than half, of the misplaced answers in their places and moves none of the others.
    """
    best: list[tuple[int, str, dict[int, int]]] = []
    for cause, units, chars in _readings(context.text):
        at = np.searchsorted(units, [start for start, _ in (*misplaced, *standing)]).tolist()
        pairs = zip((*misplaced, *standing), at, strict=True)
        places = {start: int(chars[row]) for (start, _), row in pairs if row < len(units) and units[row] == start}
        spans = [context.span_at(places.get(start, -1), text) for start, text in misplaced]
        found = sum(span is not None and is_whole(context.text, span.begin, span.end) for span in spans)
        if 2 * found > len(misplaced) and all(context.span_at(places.get(start, -1), text) for start, text in standing):
            best.append((found, cause, places))
    best.sort(key=lambda reading: -reading[0])
    # Several may put the answers of a context in the same places.
    if not best or any(places != best[0][2] for found, _, places in best if found == best[0][0]):
        return "", {}
    return best[0][1:]


def _readings(text: str) -> Iterator[tuple[str, Int64s, Int64s]]:
    """Yield what else starts may count: the cause, and places in its units with the same places in characters.

    JavaScript and Java count UTF-16 code units, many C libraries and Rust bytes. Other tools count characters of the
    text before or after it was normalized, or before or after line ends were converted.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    is_return = codes == ord("\r")
    widths = {LINE_ENDS: 1 - is_return if is_return.any() else 1 + (codes == ord("\n"))}
    if not text.isascii():
        widths[UTF16] = 1 + (codes > 0xFFFF)
        widths[BYTES] = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)
        widths[NFD] = _decomposed_widths(codes)
    for cause, each in widths.items():
        if (each != 1).any():
            yield cause, _places(each), np.arange(len(text) + 1)
    composed = unicodedata.normalize("NFC", text)
    if composed != text and unicodedata.is_normalized("NFD", text):
        codes = np.frombuffer(composed.encode("utf-32-le"), np.uint32).astype(np.int64)
        yield NFC, np.arange(len(composed) + 1), _places(_decomposed_widths(codes))


def _decomposed_widths(codes: Int64s) -> Int64s:
    """Return for each character the number of characters of its canonical decomposition."""
    distinct, index = np.unique(codes, return_inverse=True)
    return np.array([len(unicodedata.normalize("NFD", chr(code))) for code in distinct.tolist()], np.int64)[index]


def _places(widths: np.ndarray) -> Int64s:
    return np.concatenate([[0], np.cumsum(widths)])


def _folded(text: str) -> tuple[str, array[int]]:
    """Return the text without differences of case, white space and normal form, and the place of each character."""
    parts, places = [], array("q")
    for piece in _PIECES.finditer(text):
        begin, end = piece.span()
        if piece[1]:
            part = " "
            places.append(begin)
        elif piece[2]:
            part = piece[2].lower()
            places.extend(range(begin, end))
        else:
            part = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", piece[0]).casefold())
            places.extend([begin] * len(part))
        parts.append(part)
    places.append(len(text))
    return "".join(parts), places


def _difference(there: str, answer: str) -> str:
    """Return in what two texts differ that are equal when folded."""
    if there.split() == answer.split():
        return WHITE_SPACE
    forms = [unicodedata.normalize("NFKC", text).split() for text in (there, answer)]
    return NORMAL_FORM if forms[0] == forms[1] else CASE


def is_whole(text: str, begin: int, end: int) -> bool:
    """Tell whether the span consists of whole words and numbers, where the script separates words.

    Korean particles follow their word without a space, so a span may end before Hangul.
    """
    if end < len(text) and _is_joined(text, end) and not _HANGUL.match(text[end]):
        return False
    return begin == 0 or not _is_joined(text, begin)


def _is_joined(text: str, at: int) -> bool:
    """Tell whether the characters on both sides of a place belong to one word or number."""
    if _is_mark(text[at]) or _NUMBER.match(text, at - 1) or (at > 1 and _NUMBER.match(text, at - 2)):
        return True
    before = text[at - 1]
    if not ((before.isalnum() or _is_mark(before)) and text[at].isalnum()):
        return False
    return not (_UNSPACED.match(before) or _UNSPACED.match(text[at]))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")
