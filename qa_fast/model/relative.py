"""Distances between tokens, for families whose attention uses them: their buckets, and scores over distances.

Scores over distances [..., L, 2 L] become scores over tokens [..., L, L] by two slices and a reshape, which copy memory
in order. The reference gathers them one by one, which is slower, above all in the backward pass.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from keras import ops

from qa_fast.model.weights import token_positions
from qa_fast.schema import Int32s


@cache
def bias_buckets(buckets: int, furthest: int, longest: int) -> Int32s:
    """Return MPNet's (T5's) bucket of each distance, query minus key.

    Each direction has half of the buckets: half of those hold one distance each, the others grow logarithmically.
    Source: `relative_position_bucket` of transformers' MPNet, in its float32 arithmetic.

    Returns:
        int32[2 longest], for the distances from -longest to longest - 1.
    """
    distance = np.arange(-longest, longest)
    half = buckets // 2
    exact = half // 2
    far = np.abs(distance)
    scale = np.float32(np.log(furthest / exact))
    with np.errstate(divide="ignore"):
        grown = np.log(far.astype(np.float32) / np.float32(exact)) / scale * np.float32(half - exact)
    large = np.minimum(exact + np.maximum(grown, 0).astype(np.int64), half - 1)
    return (np.where(far < exact, far, large) + half * (distance < 0)).astype(np.int32)


@cache
def disentangled_buckets(buckets: int, furthest: int, longest: int) -> Int32s:
    """Return the row of each distance, query minus key, among DeBERTa's 2 S vectors of distances.

    With buckets, distances up to half their number are exact, and the others logarithmic.
    Source: `make_log_bucket_position` of transformers' DeBERTa-v2, in its float32 arithmetic.

    Returns:
        int32[2 longest] in [0, 2 S), for the distances from -longest to longest - 1.
    """
    distance = np.arange(-longest, longest)
    span = buckets or furthest
    place = distance
    if buckets:
        middle = buckets // 2
        far = np.where(np.abs(distance) < middle, middle - 1, np.abs(distance)).astype(np.float32)
        scale = np.log(np.float32((furthest - 1) / middle))
        grown = np.ceil(np.log(far / np.float32(middle)) / scale * np.float32(middle - 1)) + np.float32(middle)
        place = np.where(far <= middle, distance, grown * np.sign(distance)).astype(np.int64)
    return np.clip(place + span, 0, 2 * span - 1).astype(np.int32)


def falling(buckets: Int32s, ids: Any) -> Any:
    """Return the buckets of the distances L - 1, L - 2, …, -L as int32[2 L], in the order that `skewed` reads."""
    length, longest = ops.shape(ids)[1], len(buckets) // 2
    return ops.convert_to_tensor(buckets[::-1].copy())[longest - length : longest + length]


def rising(buckets: Int32s, ids: Any) -> Any:
    """Return the buckets of the distances 1 - L, 2 - L, …, L as int32[2 L]; `skewed` reads them key by query."""
    length, longest = ops.shape(ids)[1], len(buckets) // 2
    return ops.convert_to_tensor(buckets)[longest - length + 1 : longest + length + 1]


def skewed(scores: Any) -> Any:
    """Turn scores over distances into scores over tokens: [B, heads, L, 2 L] to [B, heads, L, L].

    Row i of the result is row i of the scores from column L - 1 - i on.
    """
    batch, heads, length, double = ops.shape(scores)
    flat = ops.reshape(scores, (batch, heads, length * double))
    shifted = flat[:, :, length - 1 : length - 1 + length * (double - 1)]
    return ops.reshape(shifted, (batch, heads, length, double - 1))[:, :, :, :length]


def all_pairs(buckets: Int32s, ids: Any) -> Any:
    """Return the bucket of each query's distance from each key, int32[L, L], in a drawn graph that does not know L."""
    positions = token_positions(ids)
    distance = positions[:, None] - positions[None, :] + len(buckets) // 2
    return ops.take(buckets, distance, axis=0)
