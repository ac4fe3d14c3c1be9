"""What Keras' backends need of a process: environment variables, and that it is not forked after they were loaded.

The package sets variables that TensorFlow must find when it is imported, so that a run on the command line and in
Python gives the same weights. The user's own values are kept.
"""

from __future__ import annotations

import os
import sys

from qa_fast.errors import UserError

_parents_with_keras: list[int] = []


def settle_tensorflow() -> None:
    """Choose TensorFlow's kernels.

    TensorFlow uses oneDNN's kernels by default only on processors with VNNI or bfloat16 instructions. On others (AMD
    EPYC of the third generation) attention's batched products take three to five times as long with Eigen's kernels.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _note_fork() -> None:
    if "keras" in sys.modules:
        _parents_with_keras.append(os.getppid())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def refuse_fork() -> None:
    """Refuse to compute with Keras where it would hang: its backends lose their threads in a forked process.

    Raises:
        UserError: This process was forked from one that had loaded Keras.
    """
    if _parents_with_keras:
        raise UserError(
            "Keras must be loaded in the process that computes with it; this one was forked from process "
            f"{_parents_with_keras[0]}, which had loaded it: answer with engine onnx or openvino, or start processes "
            "by 'spawn'"
        )
