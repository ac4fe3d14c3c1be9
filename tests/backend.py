"""The backend of Keras, known without importing Keras."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
# Tests train without XLA on TensorFlow: compiling takes longer than a few steps of a small model.
JIT = "off" if BACKEND == "tensorflow" else "auto"


@contextmanager
def untraced() -> Iterator[None]:
    """Let TensorFlow run steps operation by operation: to trace a graph takes longer than a few steps of a tiny model.

    For tests of what happens around the steps. tests/train/test_steps.py traces, and test_train.py in part.
    """
    if BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
