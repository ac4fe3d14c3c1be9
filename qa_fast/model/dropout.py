"""Dropout whose masks are a pure function of (key, site, position), the same bits on every backend and device count.

Instead of a stateful generator, each element's index goes through an integer mixing function (C. Wellons' lowbias32
construction with the constants 0x21f0aaad and 0xd35a2d97). Resuming is therefore exact without a generator state, the
backward pass recomputes the mask instead of keeping it, and XLA fuses the mask into the surrounding loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

_MASK = 0xFFFFFFFF


def _mix(x: int) -> int:
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0xD35A2D97) & _MASK
    return x ^ (x >> 15)


def dropout_key(seed: int, step: int, row_start: int = 0) -> np.ndarray:
    """Return the key of all masks of one forward pass in training.

    Args:
        seed: The run's seed.
        step: Number of forward passes of the training run before this one.
        row_start: Number of batch rows on the devices before this one.

    Returns:
        uint32[2]: (mixed seed and step, row_start).
    """
    key = _mix((_mix((seed + 0x9E3779B9) & _MASK) + step * 0x85EBCA6B) & _MASK)
    return np.array([key, row_start], dtype=np.uint32)


def traced_key(seed: int, step: Any, row_start: Any = 0) -> Any:
    """Return `dropout_key` for a step that is a tensor: uint32[2], the same bits.

    Args:
        seed: The run's seed.
        step: Integer scalar.
        row_start: See `dropout_key`; a number or a tensor.
    """
    x = ops.cast(step, "uint32") * np.uint32(0x85EBCA6B) + np.uint32(_mix((seed + 0x9E3779B9) & _MASK))
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(shift))) * np.uint32(factor)
    x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(15)))
    return ops.stack([x, ops.cast(row_start, "uint32")])


def site_key(key: Any, site: int) -> Any:
    """Return the key of one dropout site of the model: uint32[2] to uint32[3]; no two sites share a mask.

    It is a tensor instead of a constant, so that all blocks of a model can run the same compiled parts.
    """
    key = ops.convert_to_tensor(key)
    first = ops.bitwise_xor(key[0], np.uint32(_mix(2 * site + 1)))
    return ops.stack([first, key[0] + np.uint32(_mix(2 * site + 2)), key[1]])


def least_bits(rate: float) -> np.uint32:
    """Return the least mixed bits of an element that stays, for a `rate` in [0, 1)."""
    return np.uint32(rate * 2**32)


def keep_mask(shape: tuple[Any, ...], key: Any, rate: float) -> Any:
    """Decide which elements stay.

    Args:
        shape: Shape of the tensor; the first axis counts batch rows.
        key: uint32[3], see `site_key`.
        rate: Probability of dropping, in [0, 1).

    Returns:
        bool tensor of `shape`.
    """
    row_size = 1
    for size in shape[1:]:
        row_size = row_size * size
    flat = ops.cast(ops.arange(shape[0] * row_size, dtype="int32"), "uint32") + key[2] * ops.cast(row_size, "uint32")
    # The key enters twice, so that the masks of two keys are not one sequence with two offsets.
    x = flat * np.uint32(0x9E3779B1) + key[0]
    x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = ops.bitwise_xor(x, key[1])
    x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(15))) * np.uint32(0xD35A2D97)
    x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(15)))
    return ops.reshape(x >= least_bits(rate), shape)


def drop(x: Any, key: Any, rate: float) -> Any:
    """Set dropped elements to 0 and divide the others by (1 - rate); return `x` itself if the rate is 0."""
    if rate == 0.0:
        return x
    return ops.where(keep_mask(ops.shape(x), key, rate), x * (1.0 / (1.0 - rate)), ops.zeros((), dtype=x.dtype))
