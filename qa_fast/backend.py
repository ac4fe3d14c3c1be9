"""Environment variables that TensorFlow must find before it is imported; the user's own values are kept.

The package sets them when it is imported, so that a run on the command line and in Python gives the same weights.
"""

from __future__ import annotations

import os


def settle_tensorflow() -> None:
    """Choose TensorFlow's kernels.

    TensorFlow uses oneDNN's kernels by default only on processors with VNNI or bfloat16 instructions. On others (AMD
    EPYC of the third generation) attention's batched products take three to five times as long with Eigen's kernels.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
