"""The optimizer's update in one pass over its arrays, in place except for the weights."""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.floats import quick

_F = np.float32
_BLOCK = 1024


@quick
def sum_of_squares(
    x: np.ndarray,  # float32[n]
    begin: int,
    end: int,
) -> float:
    """Return the sum of squares of x[begin:end]: float32 sums of `_BLOCK` numbers each, added in float64."""
    total = 0.0
    for first in range(begin, end, _BLOCK):
        block, part = x[first : min(first + _BLOCK, end)], _F(0.0)
        for i in range(len(block)):
            part += block[i] * block[i]
        total += np.float64(part)
    return total


@quick
def adam(
    weights: np.ndarray,  # float32[n]
    gradients: np.ndarray,  # float32[n]
    firsts: np.ndarray,  # float32[n], running means of the gradients; updated
    seconds: np.ndarray,  # float32[n], running means of their squares; updated
    factor: np.float32,  # multiplies the gradients: clipping, and 1 / loss scale
    rate: np.float32,
    decay: np.float32,  # 0 for weights that do not decay
    betas: np.ndarray,  # float32[3, 2]: both betas, 1 - beta of each, 1 - beta^count of each
    epsilon: np.float32,
    out: np.ndarray,  # float32[n], the new weights
    begin: int,
    end: int,
) -> None:
    """Do one step of AdamW for the numbers [begin, end), which belong to this call; see `train.optimizer.update`."""
    beta_1, beta_2 = betas[0, 0], betas[0, 1]
    rest_1, rest_2 = betas[1, 0], betas[1, 1]
    correct_1, correct_2 = betas[2, 0], betas[2, 1]
    # Two loops over blocks that fit into the first cache. Each uses few arrays, which LLVM must prove to be disjoint
    # before it makes vector instructions, and slices, whose indices are never negative.
    for at in range(begin, end, _BLOCK):
        last = min(at + _BLOCK, end)
        w, g, m, v, new = weights[at:last], gradients[at:last], firsts[at:last], seconds[at:last], out[at:last]
        for i in range(len(g)):
            gradient = g[i] * factor
            m[i] = beta_1 * m[i] + rest_1 * gradient
            v[i] = beta_2 * v[i] + rest_2 * (gradient * gradient)
        for i in range(len(g)):
            change = (m[i] / correct_1) / (np.sqrt(v[i] / correct_2) + epsilon)
            new[i] = w[i] - rate * (change + decay * w[i])
