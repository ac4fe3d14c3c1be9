"""What other libraries need of a process: environment variables, and that Keras is not forked after it was loaded.

The package sets variables that libraries must find when they are imported, so that a run on the command line and in
Python gives the same weights and uses the same number of processors. The user's own values are kept.
"""

from __future__ import annotations

import os
import sys

from qa_fast.errors import UserError
from qa_fast.parallel import bound_processors, processors

_parents_with_keras: list[int] = []

# Each sets the number of threads of a library's pool: OpenMP's (of torch, too), OpenBLAS' and Arrow's; tokenizers';
# TensorFlow's two; XLA's on JAX. ONNX Runtime and OpenVINO are told when a model is opened, and Numba's is not used.
_POOLS = (
    "OMP_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "NPROC",
)


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


def settle_onnx_runtime() -> None:
    """Let ONNX Runtime send nothing about its use, which it also writes into the user's home folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def settle_pools() -> None:
    """Give the pools of other libraries as many threads as this process may use.

    The libraries start one for each processor that they see, and see no CPU quota and no QA_FAST_PROCESSORS.
    """
    allowed = processors()
    if allowed != bound_processors():
        for name in _POOLS:
            os.environ.setdefault(name, str(allowed))
