"""BERT's normaliser, pre-tokenizer and WordPiece over units, by tables.

A table, filled by asking the tokenizer itself, holds the normalised bytes of each character (see `encode.characters`).
WordPiece takes the longest token that matches, from the left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_OUT, I32_ROWS_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, U64_OUT, record
from qa_fast.kernels.text import char_width, code_point
from qa_fast.kernels.tokens import CHAR_END, CHAR_START, ID
from qa_fast.kernels.vocabulary import PRIME, SEED, VOCABULARY, Vocabulary, begins_a_token, find_token

_U = np.uint64
# Kinds of normalised bytes: part of a word, of a mark that is a word of its own, of white space. LEAD is added to the
# first byte of a character.
WORD, MARK, BLANK, LEAD = 0, 1, 2, 4
# Entries of characters without a row: met but not looked up yet, and left to the tokenizer.
MET, LEFT = -1, -2


class CharacterTable(NamedTuple):
    """The normalised bytes of characters.

    Attributes:
        entries: int32[code points], the row of each character; 0 if it is unknown, else MET or LEFT.
        offsets: int32[rows + 1], where each row's bytes are in the next two.
        text: uint8[.], normalised bytes.
        kinds: uint8[.], WORD, MARK or BLANK for each byte, + LEAD.
    """

    entries: np.ndarray
    offsets: np.ndarray
    text: np.ndarray
    kinds: np.ndarray


class WordRules(NamedTuple):
    """The settings of a WordPiece model.

    Attributes:
        longest_word: A word of more characters is unknown.
        unknown_id: Id of the unknown token.
        prefix: uint8[.], what the token of a continuing piece starts with.
    """

    longest_word: int
    unknown_id: int
    prefix: np.ndarray


class WordScratch(NamedTuple):
    """One normalised unit, and the hashes of one piece's lengths.

    Attributes:
        text: uint8[normalised bytes of the longest unit].
        kinds: uint8[.], of the bytes.
        chars: int32[.], the character of the unit that each byte comes from.
        hashes: uint64[bytes of the longest token + 1].
    """

    text: np.ndarray
    kinds: np.ndarray
    chars: np.ndarray
    hashes: np.ndarray


_CHARACTERS = record(CharacterTable, I32_OUT, I32_OUT, U8_OUT, U8_OUT)
_RULES = record(WordRules, I64, I64, U8_OUT)
_SCRATCH = record(WordScratch, U8_OUT, U8_OUT, I32_OUT, U64_OUT)


@njit([I64(U8_IN, I64_IN, I64_IN, I32_OUT, I32_OUT)], cache=True, nogil=True)
def find_unknown_chars(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    entries: np.ndarray,  # int32[code points], 0 for an unknown one; those that are found are set to MET
    out_codes: np.ndarray,  # int32[bytes of the units]
) -> int:
    """Write each character that the table does not know once; return how many. Cost: one pass over the bytes."""
    found = 0
    for unit in range(len(begins)):
        at = begins[unit]
        while at < ends[unit]:
            width = char_width(text[at])
            code = code_point(text, at, width)
            if entries[code] == 0:
                entries[code] = MET
                out_codes[found] = code
                found += 1
            at += width
    return found


@njit(inline="always")
def _normalize(text: np.ndarray, begin: int, end: int, characters: CharacterTable, scratch: WordScratch) -> int:
    """Write a normalised unit; return its bytes, or -1 if it holds a character that is left to the tokenizer."""
    size = np.int64(0)
    char = np.int32(0)
    at = begin
    while at < end:
        width = char_width(text[at])
        entry = characters.entries[code_point(text, at, width)]
        if entry < 0:
            size = np.int64(-1)
            break
        for i in range(characters.offsets[entry], characters.offsets[entry + 1]):
            scratch.text[size] = characters.text[i]
            scratch.kinds[size] = characters.kinds[i]
            scratch.chars[size] = char
            size += 1
        at += width
        char += 1
    return size


@njit(inline="always")
def _part_end(kinds: np.ndarray, begin: int, size: int) -> int:
    """Return where the word, mark or blank that begins at a byte ends."""
    kind = kinds[begin] & np.uint8(~LEAD & 0xFF)
    end = begin + 1
    while end < size and (kinds[end] == kind or (kind == WORD and kinds[end] == np.uint8(WORD | LEAD))):
        end += 1
    return end


@njit(inline="always")
def _is_longer(kinds: np.ndarray, begin: int, end: int, most: int) -> bool:
    """Return whether the bytes `begin:end` are more than `most` characters."""
    if end - begin <= most:
        return False
    chars = 0
    for at in range(begin, end):
        chars += kinds[at] >= LEAD
    return chars > most


@njit(inline="always")
def _longest_token(
    word: np.ndarray,  # uint8[.], normalised bytes
    kinds: np.ndarray,  # uint8[.], of the bytes
    begin: int,
    end: int,
    prefix: np.ndarray,  # uint8[.]
    lead: int,  # how much of the prefix the token begins with
    hashed: np.uint64,  # of the lead
    vocabulary: Vocabulary,
    piece_hashes: np.ndarray,  # uint64[longest token + 1], overwritten
) -> tuple[int, int]:
    """Return the row and the bytes of the longest token that `prefix[:lead] + word[begin:end]` begins with; -1 if none.

    The scratch comes as arrays: fields of a record that are read in the loops of an inlined function cost 20%.
    """
    most = min(end - begin, vocabulary.longest - lead)
    for i in range(most):
        hashed = (hashed ^ _U(word[begin + i])) * PRIME
        piece_hashes[i + 1] = hashed
        if not begins_a_token(hashed, vocabulary.beginnings):
            most = i
            break
    row = np.int64(-1)
    while most > 0:
        # A piece ends where a character does.
        if begin + most == end or kinds[begin + most] >= LEAD:
            row = find_token(vocabulary, piece_hashes[most], prefix, lead, word, begin, most)
            if row >= 0:
                break
        most -= 1
    return row, most


@njit(inline="always")
def _write(out_tokens: np.ndarray, at: int, token_id: int, chars: np.ndarray, begin: int, end: int) -> None:
    """Write the token of the normalised bytes `begin:end`."""
    out_tokens[at, ID] = token_id
    out_tokens[at, CHAR_START] = chars[begin]
    out_tokens[at, CHAR_END] = chars[end - 1] + 1


@njit(
    [I64(U8_IN, I64_IN, I64_IN, _CHARACTERS, _RULES, VOCABULARY, _SCRATCH, U8_OUT, I64_OUT, I32_ROWS_OUT)],
    cache=True,
    nogil=True,
)
def split_units(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    characters: CharacterTable,
    rules: WordRules,
    vocabulary: Vocabulary,
    scratch: WordScratch,  # overwritten
    out_done: np.ndarray,  # uint8[U], 0 for units that were left out
    out_offsets: np.ndarray,  # int64[U + 1], first token of each unit
    out_tokens: np.ndarray,  # int32[normalised bytes, 3], in characters of the unit
) -> int:
    """Normalise units, divide them into words and marks, split these into the longest tokens; return the token count.

    A word that cannot be split is one unknown token. The scratch and the outputs must belong to this call alone. Cost:
    a pass over the bytes, and a look-up for each length of a piece that is longer than its token.
    """
    word, kinds, chars, piece_hashes = scratch
    prefix_hash = SEED
    for i in range(len(rules.prefix)):
        prefix_hash = (prefix_hash ^ _U(rules.prefix[i])) * PRIME
    tokens = np.int64(0)
    out_offsets[0] = 0
    for unit in range(len(begins)):
        size = _normalize(text, begins[unit], ends[unit], characters, scratch)
        out_done[unit] = size >= 0
        end = np.int64(0)
        while end < size:
            begin = end
            end = _part_end(kinds, begin, size)
            if kinds[begin] & np.uint8(BLANK):
                continue
            first = tokens
            start = begin
            known = not _is_longer(kinds, begin, end, rules.longest_word)
            while known and start < end:
                lead = 0 if start == begin else len(rules.prefix)
                hashed = SEED if start == begin else prefix_hash
                row, piece = _longest_token(
                    word, kinds, start, end, rules.prefix, lead, hashed, vocabulary, piece_hashes
                )
                known = row >= 0
                if known:
                    _write(out_tokens, tokens, vocabulary.ids[row], chars, start, start + piece)
                    tokens += 1
                    start += piece
            if not known:
                _write(out_tokens, first, rules.unknown_id, chars, begin, end)
                tokens = first + 1
        out_offsets[unit + 1] = tokens
    return tokens
