"""Environment variables that other libraries must find before they are imported; the user's own values are kept.

The package sets them when it is imported, so that a run on the command line and in Python gives the same weights and
uses the same number of processors.
"""

from __future__ import annotations

import os

from qa_fast.parallel import bound_processors, processors

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
