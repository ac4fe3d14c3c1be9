"""The best answer spans of a window, entered straight into the list of its example.

A span is a pair of context tokens (s, e) with s <= e < s + max_answer_length; its score is start_logits[s] +
end_logits[e] in float32. Two spans that cover the same characters are one candidate, with the better score, so windows
that overlap and tokens that share characters never fill a list with repeats. Order, best first: higher score, then
earlier first character, then earlier last character; among equals for one candidate the higher start logit is kept.
That order is total, so a list does not depend on the order in which windows come.

Most spans can be skipped: no span from s scores more than start_logits[s] + max(end_logits[s:s +
max_answer_length]). Once a list is full, a start whose bound is below the list's last score cannot enter it and is
skipped. The result is exact, since rounding is monotonic and the bound therefore holds in float32 too. The starts with
the highest bounds are tried first.

While windows arrive, a list is a bag without order: a new candidate replaces the worst one, and `order_spans` orders
all of them once at the end. Keeping the lists sorted took 1.7 times as long.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import (
    F32_OUT,
    F32_ROWS_IN,
    F32_ROWS_OUT,
    I32_IN,
    I32_OUT,
    I32_ROWS_OUT,
    I64,
    I64_IN,
    I64_ROWS_OUT,
    VOID,
)

# Starts that are tried best first; each costs a pass over all bounds. Measured on windows of 170 tokens: 1 and 2 are
# alike on peaked logits, 2 is a quarter faster on flat ones, and both get slower from 4 on.
BEST_FIRST = 2

_U = np.uint64


class Bag(NamedTuple):
    """The candidates of one example, in any order.

    Attributes:
        scores: float32[N].
        keys: int64[N], first character * 2**32 + one past the last character.
        start_logits: float32[N].
        end_logits: float32[N].
    """

    scores: np.ndarray
    keys: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray


# No score in a bag is NaN, and the sign of zero does not matter: with these flags LLVM compares eight at a time.
@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def lowest(scores: np.ndarray) -> float:
    """Return the lowest score of a full bag. O(N)."""
    low = scores[0]
    for slot in range(1, len(scores)):
        low = min(low, scores[slot])
    return low


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def greatest(values: np.ndarray, begin: int, end: int) -> float:
    """Return the greatest of `values[begin:end]`, none of which is NaN. O(n)."""
    high = values[begin]
    for at in range(begin, end):
        high = max(high, values[at])
    return high


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def widen(values: np.ndarray, size: int, width: int) -> None:
    """Make each of `values[:size]` the greatest of itself and of up to `width` - 1 values behind it.

    Each pass doubles the number of values that are compared. O(size * log(width)).
    """
    for at in range(size, size + width):
        values[at] = -np.inf
    seen = np.uint64(1)
    while seen < width:
        step = min(seen, width - seen)
        for at in range(size):
            other = values[at + step]
            values[at] = other if other > values[at] else values[at]
        seen += step


@njit(cache=True, nogil=True)
def last_slot(scores: np.ndarray, keys: np.ndarray) -> int:
    """Return the slot of a full bag whose candidate comes last: lowest score, among equals highest key. O(N)."""
    low = lowest(scores)
    last = np.int32(0)
    ties = np.int32(0)
    for slot in range(_U(len(scores))):  # without a branch, so that LLVM compares many slots at once
        same = scores[slot] == low
        ties += np.int32(same)
        last = np.int32(slot) if same else last
    if ties > 1:
        for slot in range(len(scores)):
            if scores[slot] == low and keys[slot] > keys[last]:
                last = np.int32(slot)
    return last


@njit(inline="always")
def _enter_spans(
    start_logit: np.float32,
    end_logits: np.ndarray,  # float32[L]
    begin: np.uint64,  # the start's position, which is the first end's
    stop: np.uint64,  # one past the last end's
    token_char_start: np.ndarray,  # int32[T]
    token_char_end: np.ndarray,  # int32[T]
    base: np.uint64,  # index in token_char_* of position 0
    bag: Bag,
    count: int,  # slots in use
    worst: int,  # of a full bag: the slot of the last candidate
    threshold: np.float32,  # of a full bag: its score
) -> tuple[int, int, float]:
    """Enter the spans from one start; return the new count, worst slot and threshold of the bag."""
    size = len(bag.scores)
    char_start = token_char_start[base + begin]
    for e in range(begin, stop):
        score = start_logit + end_logits[e]
        # False for NaN too.
        if not (score >= threshold and token_char_end[base + e] > char_start):
            continue
        key = (np.int64(char_start) << 32) | np.int64(token_char_end[base + e])
        slot = np.int32(-1)
        for other in range(_U(count)):
            slot = np.int32(other) if bag.keys[other] == key else slot
        if slot >= 0:
            better = score > bag.scores[slot]
            if not better and not (score == bag.scores[slot] and start_logit > bag.start_logits[slot]):
                continue
        elif count < size:
            slot = count
            count += 1
        elif score > threshold or key < bag.keys[worst]:
            slot = worst
        else:
            continue
        bag.scores[slot] = score
        bag.keys[slot] = key
        bag.start_logits[slot] = start_logit
        bag.end_logits[slot] = end_logits[e]
        if count == size:
            worst = last_slot(bag.scores, bag.keys)
            threshold = bag.scores[worst]
    return count, worst, threshold


@njit(
    [
        VOID(
            F32_ROWS_IN, F32_ROWS_IN, I64_IN, I64_IN, I32_IN, I32_IN, I32_IN, I32_IN, I64_IN, I32_IN, I32_IN, I64,
            F32_OUT, F32_OUT, F32_ROWS_OUT, F32_ROWS_OUT, F32_ROWS_OUT, I64_ROWS_OUT, I32_OUT, F32_ROWS_OUT, I32_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def search_spans(
    start_logits: np.ndarray,  # float32[B, L]
    end_logits: np.ndarray,  # float32[B, L]
    batch_rows: np.ndarray,  # int64[R], rows of the batch that this call searches
    features: np.ndarray,  # int64[B], feature of each row of the batch
    example: np.ndarray,  # int32[F]
    context_start: np.ndarray,  # int32[F], first context token
    context_end: np.ndarray,  # int32[F], one past the last context token, at most L
    cls_position: np.ndarray,  # int32[F]
    first_token: np.ndarray,  # int64[F], index in token_char_* of the feature's first context token
    token_char_start: np.ndarray,  # int32[T]
    token_char_end: np.ndarray,  # int32[T]
    max_answer_length: int,  # tokens
    bounds: np.ndarray,  # float32[L], scratch of this call
    reach: np.ndarray,  # float32[2 * L], scratch of this call
    out_score: np.ndarray,  # float32[E, N], of the candidates in each bag
    out_start_logit: np.ndarray,  # float32[E, N]
    out_end_logit: np.ndarray,  # float32[E, N]
    out_key: np.ndarray,  # int64[E, N], first character * 2**32 + one past the last character
    out_count: np.ndarray,  # int32[E], slots in use
    out_null_logits: np.ndarray,  # float32[E, 2], start and end logit at CLS of the window where their sum is least
    out_windows: np.ndarray,  # int32[E], windows seen
) -> None:
    """Merge the spans of R windows into their examples' bags of N, and the null score into its minimum.

    Writes the rows `example[features[batch_rows]]` of every output, which must belong to this call alone while it
    runs. Spans without a character, and scores that are NaN, are skipped. Cost: a few L for each window,
    max_answer_length for each start that is not skipped (all of them, at worst), 2 N for each candidate that enters.
    """
    size = out_score.shape[1]
    for index in range(len(batch_rows)):
        row = _U(batch_rows[index])
        feature = _U(features[row])
        target = _U(example[feature])
        first = _U(context_start[feature])
        last = _U(context_end[feature])
        # Index in token_char_* that position 0 of the feature would have (it may wrap around, and back).
        base = _U(first_token[feature]) - first

        null_start = start_logits[row, cls_position[feature]]
        null_end = end_logits[row, cls_position[feature]]
        null = null_start + null_end
        least = out_null_logits[target, 0] + out_null_logits[target, 1]
        if (
            out_windows[target] == 0
            or null < least
            or (null == least and null_start > out_null_logits[target, 0])
            or null != null  # NaN: kept, so that the caller sees it
        ):
            out_null_logits[target, 0] = null_start
            out_null_logits[target, 1] = null_end
        out_windows[target] += 1
        if first >= last:
            continue

        # No span from s scores more than bounds[s]. NaN becomes infinity, so that s is tried.
        window = last - first
        broken = False
        for at in range(window):
            reach[at] = end_logits[row, first + at]
            broken |= reach[at] != reach[at]
        if broken:
            for at in range(window):
                reach[at] = np.inf
        else:
            widen(reach, window, min(_U(max_answer_length), window))
        for at in range(window):
            bound = start_logits[row, first + at] + reach[at]
            bounds[first + at] = bound if bound == bound else np.inf

        bag = Bag(out_score[target], out_key[target], out_start_logit[target], out_end_logit[target])
        count = np.int64(out_count[target])
        worst = np.int64(last_slot(bag.scores, bag.keys)) if count == size else np.int64(0)
        threshold = bag.scores[worst] if count == size else np.float32(-np.inf)
        # The most promising starts, the best first, so that the others meet a high threshold.
        for _ in range(BEST_FIRST):
            highest = greatest(bounds, first, last)
            if highest < threshold:
                break
            s = first
            while bounds[s] != highest:
                s += _U(1)
            bounds[s] = -np.inf
            stop = min(s + _U(max_answer_length), last)
            count, worst, threshold = _enter_spans(
                start_logits[row, s], end_logits[row], s, stop, token_char_start, token_char_end, base,
                bag, count, worst, threshold,
            )  # fmt: skip
        for s in range(first, last):
            if bounds[s] >= threshold:
                stop = min(s + _U(max_answer_length), last)
                count, worst, threshold = _enter_spans(
                    start_logits[row, s], end_logits[row], s, stop, token_char_start, token_char_end, base,
                    bag, count, worst, threshold,
                )  # fmt: skip
        out_count[target] = count


@njit(
    [
        VOID(
            F32_ROWS_OUT, F32_ROWS_OUT, F32_ROWS_OUT, I64_ROWS_OUT, I32_IN, I32_OUT,
            F32_ROWS_OUT, F32_ROWS_OUT, F32_ROWS_OUT, I32_ROWS_OUT, I32_ROWS_OUT,
        )
    ],
    cache=True,
    nogil=True,
)  # fmt: skip
def order_spans(
    scores: np.ndarray,  # float32[E, N], of the candidates in each bag
    start_logits: np.ndarray,  # float32[E, N]
    end_logits: np.ndarray,  # float32[E, N]
    keys: np.ndarray,  # int64[E, N]
    counts: np.ndarray,  # int32[E]
    slots: np.ndarray,  # int32[N], scratch of this call
    out_score: np.ndarray,  # float32[E, N]
    out_start_logit: np.ndarray,  # float32[E, N]
    out_end_logit: np.ndarray,  # float32[E, N]
    out_char_start: np.ndarray,  # int32[E, N]
    out_char_end: np.ndarray,  # int32[E, N]
) -> None:
    """Write the candidates of each bag in order, best first, and the free slots behind them.

    Cost: O(E * N**2) at worst, by insertion, since bags are small.
    """
    for target in range(len(counts)):
        for slot in range(scores.shape[1]):
            place = slot
            if slot < counts[target]:
                score, key = scores[target, slot], keys[target, slot]
                while place > 0:
                    ahead = slots[place - 1]
                    before = scores[target, ahead]
                    if before > score or (before == score and keys[target, ahead] < key):
                        break
                    slots[place] = ahead
                    place -= 1
            slots[place] = slot
        for place in range(scores.shape[1]):
            slot = slots[place]
            out_score[target, place] = scores[target, slot]
            out_start_logit[target, place] = start_logits[target, slot]
            out_end_logit[target, place] = end_logits[target, slot]
            out_char_start[target, place] = keys[target, slot] >> 32
            out_char_end[target, place] = keys[target, slot] & 0xFFFFFFFF
