"""What other libraries need of a process: environment variables, and that Keras is not forked after it was loaded.

The package sets variables that libraries must find when they are imported, so that a run on the command line and in
Python gives the same weights and uses the same number of processors. The user's own values are kept.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from qa_fast.cache import cache_folder, writable
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
# What compiles for longer is kept. JAX's own limit of a second would leave out the forward pass of a small model.
KEPT_SECONDS = 0.2


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


def keep_compiled() -> None:
    """Let JAX keep in the cache what it compiles for an accelerator, unless the user has chosen a place for that.

    XLA compiles each shape of a training step for some seconds. On CPUs nothing is kept, because a cache may be copied
    to a processor with other instructions. Call this before the first computation, and after JAX has joined a job.
    """
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir or jax.default_backend() == "cpu":
        return
    config.update("jax_compilation_cache_dir", str(writable(cache_folder() / "compiled" / "jax")))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)


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
