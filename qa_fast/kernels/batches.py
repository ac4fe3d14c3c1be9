"""The kernel that copies a padded batch out of flat buffers."""

from __future__ import annotations

import numpy as np

from qa_fast.kernels.jit import njit
from qa_fast.kernels.signature import I8_IN, I8_ROWS_OUT, I32, I32_IN, I32_OUT, I32_ROWS_OUT, I64, I64_IN, VOID


@njit([VOID(I32_IN, I8_IN, I64_IN, I64_IN, I64, I32, I32_ROWS_OUT, I8_ROWS_OUT, I32_OUT)], cache=True, nogil=True)
def cut_rows(
    ids: np.ndarray,  # int32[T], tokens of one chunk's features
    types: np.ndarray,  # int8[T], or int8[0] if the features have none
    offsets: np.ndarray,  # int64[F + 1], where each feature of the chunk begins in ids
    rows: np.ndarray,  # int64[B], feature rows over all chunks; negative for a padding row
    first_row: int,  # row of the chunk's first feature
    pad_id: int,
    out_ids: np.ndarray,  # int32[B, L]
    out_types: np.ndarray,  # int8[B, L]
    out_lengths: np.ndarray,  # int32[B]
) -> None:
    """Copy the rows of a batch that are in one chunk, padded; other rows are not touched.

    Tokens beyond L are left out. The outputs must belong to this call while it runs. Cost: B * L copies.
    """
    features = len(offsets) - 1
    width = out_ids.shape[1]
    for b in range(len(rows)):
        row = rows[b] - first_row
        if rows[b] < 0 or row < 0 or row >= features:
            continue
        begin = offsets[row]
        length = min(offsets[row + 1] - begin, width)
        out_lengths[b] = length
        for position in range(length):
            out_ids[b, position] = ids[begin + position]
        for position in range(length, width):
            out_ids[b, position] = pad_id
        if len(types) > 0:
            for position in range(length):
                out_types[b, position] = types[begin + position]
        else:
            for position in range(length):
                out_types[b, position] = 0
        for position in range(length, width):
            out_types[b, position] = 0
