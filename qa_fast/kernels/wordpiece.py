"""BERT's normaliser, pre-tokenizer and WordPiece over units, by tables.

What a character becomes is read from a table that the tokenizer itself has filled (see `encode.characters`);
WordPiece is the greedy longest match from the left.
"""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I32_IN, I32_OUT, I64, I64_IN, I64_OUT, U8_IN, U8_OUT, U64_IN, U64_OUT
from qa_fast.kernels.text import char_width, code_point
from qa_fast.kernels.vocabulary import PRIME, SEED, begins_a_token, home, tag

_U = np.uint64
# Of a normalised byte: part of a word, of a mark that stands alone, of white space; LEAD is added to a first byte.
WORD, MARK, BLANK, LEAD = 0, 1, 2, 4
# Entries of characters that are not in the table: met but not looked up yet, and left to the tokenizer.
MET, LEFT = -1, -2


@njit([I64(U8_IN, I64_IN, I64_IN, I32_OUT, I32_OUT)], cache=True, nogil=True)
def find_unknown_chars(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    entries: np.ndarray,  # int32[code points], 0 for an unknown one; those found are set to MET
    out_codes: np.ndarray,  # int32[bytes of the units]
) -> int:
    """Find the characters that the table does not know, each once; their number. Cost: one pass over the bytes."""
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


@njit(
    [
        I64(
            U8_IN, I64_IN, I64_IN, I32_IN, I32_IN, U8_IN, U8_IN, I64, I64, I64, U8_IN, U8_IN, I64_IN, I32_IN,
            U8_IN, U64_IN, I32_IN, U64_IN, U8_OUT, U8_OUT, I32_OUT, U64_OUT, U8_OUT, I64_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def split_units(
    text: np.ndarray,  # uint8[bytes]
    begins: np.ndarray,  # int64[U], first byte of each unit
    ends: np.ndarray,  # int64[U], one past its last
    entries: np.ndarray,  # int32[code points], row of each character in the next; below 0: the unit is left out
    norm_offsets: np.ndarray,  # int32[entries + 1]
    norm_text: np.ndarray,  # uint8[.], what the characters are normalised to
    norm_kinds: np.ndarray,  # uint8[.], WORD, MARK or BLANK for each byte, + LEAD where a character begins
    longest_word: int,  # characters; a longer word is unknown
    longest_token: int,  # bytes, prefix included
    unknown_id: int,
    prefix: np.ndarray,  # uint8[.], what a continuing piece's token starts with
    token_text: np.ndarray,  # uint8[bytes]
    token_offsets: np.ndarray,  # int64[V + 1]
    token_ids: np.ndarray,  # int32[V]
    slot_tag: np.ndarray,  # uint8[capacity]
    slot_hash: np.ndarray,  # uint64[capacity]
    slot_token: np.ndarray,  # int32[capacity]
    beginnings: np.ndarray,  # uint64[.], see kernels.vocabulary
    scratch_text: np.ndarray,  # uint8[normalised bytes of the longest unit], overwritten, like the next three
    scratch_kind: np.ndarray,  # uint8[.]
    scratch_char: np.ndarray,  # int32[.]
    scratch_hash: np.ndarray,  # uint64[longest_token + 1]
    out_done: np.ndarray,  # uint8[U], 0 for units that were left out
    out_offsets: np.ndarray,  # int64[U + 1], first token of each unit
    out_tokens: np.ndarray,  # int32[3 * normalised bytes]: id, first character and one past the last, in the unit
) -> int:
    """Normalise units character by character, part them into words and marks, and split those into the longest tokens.

    A word that cannot be split is one unknown token. Returns the number of tokens. Cost: a pass over the bytes, and a
    look-up for each length of a piece that is longer than its token.
    """
    mask = _U(len(slot_hash) - 1)
    prefix_hash = SEED
    for i in range(len(prefix)):
        prefix_hash = (prefix_hash ^ _U(prefix[i])) * PRIME
    tokens = np.int64(0)
    out_offsets[0] = 0
    for unit in range(len(begins)):
        size = 0
        char = np.int32(0)
        done = np.uint8(1)
        at = begins[unit]
        while at < ends[unit]:
            width = char_width(text[at])
            entry = entries[code_point(text, at, width)]
            if entry < 0:
                done = np.uint8(0)
                size = 0
                break
            for i in range(norm_offsets[entry], norm_offsets[entry + 1]):
                scratch_text[size] = norm_text[i]
                scratch_kind[size] = norm_kinds[i]
                scratch_char[size] = char
                size += 1
            at += width
            char += 1
        out_done[unit] = done
        end = 0
        while end < size:
            # The next word, or mark, or blank.
            begin = end
            kind = scratch_kind[begin] & np.uint8(~LEAD & 0xFF)
            chars = 1
            end += 1
            while end < size and (
                scratch_kind[end] == kind or (kind == WORD and scratch_kind[end] == np.uint8(WORD | LEAD))
            ):
                chars += scratch_kind[end] >= LEAD
                end += 1
            if kind == BLANK:
                continue
            first = tokens
            start = begin
            known = chars <= longest_word
            while known and start < end:
                lead = 0 if start == begin else len(prefix)
                hashed = SEED if start == begin else prefix_hash
                most = min(end - start, longest_token - lead)
                for i in range(most):
                    hashed = (hashed ^ _U(scratch_text[start + i])) * PRIME
                    scratch_hash[i + 1] = hashed
                    if not begins_a_token(hashed, beginnings):
                        most = i
                        break
                known = False
                while most > 0 and not known:
                    # A piece ends where a character does.
                    if start + most == end or scratch_kind[start + most] >= LEAD:
                        hashed = scratch_hash[most]
                        slot = home(hashed, mask)
                        while slot_tag[slot] != 0 and not known:
                            if slot_tag[slot] == tag(hashed) and slot_hash[slot] == hashed:
                                token = slot_token[slot]
                                place = token_offsets[token]
                                if token_offsets[token + 1] - place == lead + most:
                                    known = True
                                    for i in range(lead):
                                        known &= token_text[place + i] == prefix[i]
                                    for i in range(most):
                                        known &= token_text[place + lead + i] == scratch_text[start + i]
                                    if known:
                                        out_tokens[3 * tokens] = token_ids[token]
                                        out_tokens[3 * tokens + 1] = scratch_char[start]
                                        out_tokens[3 * tokens + 2] = scratch_char[start + most - 1] + 1
                                        tokens += 1
                                        start += most
                            slot = (slot + _U(1)) & mask
                    most -= 1
            if not known:
                tokens = first
                out_tokens[3 * tokens] = unknown_id
                out_tokens[3 * tokens + 1] = scratch_char[begin]
                out_tokens[3 * tokens + 2] = scratch_char[end - 1] + 1
                tokens += 1
        out_offsets[unit + 1] = tokens
    return tokens
