"""The backend of Keras, known without importing Keras."""

from __future__ import annotations

import os

BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
# Tests train without XLA on TensorFlow: compiling takes longer than a few steps of a small model.
JIT = "off" if BACKEND == "tensorflow" else "auto"
