"""Optional packages: report a missing one with its install command, and silence TensorFlow's log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qa_fast.cli.stderr import hush_native_notes
from qa_fast.errors import MissingExtraError

# Modules of each extra; a failed import of another module is our bug and stays a traceback.
_MODULES = {
    "answer": ("keras", "onnx", "onnxruntime"),
    "train": ("keras", "tensorflow", "jax", "matplotlib", "tensorboard", "onnx", "onnxruntime"),
    "sweep": ("optuna",),
    "openvino": ("openvino",),
    "serve": ("fastapi", "starlette", "uvicorn", "prometheus_client"),
    "export": ("onnx", "onnxruntime", "keras"),
}


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Turn the failed import of a module of the extra into its install command.

    Args:
        extra: The extra's name in pyproject.toml.
        what: The command, as the user typed it.

    Raises:
        MissingExtraError: A module of the extra is missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    hush_native_notes()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        for name, modules in _MODULES.items():
            if missing in modules:
                raise MissingExtraError(what, extra if missing in _MODULES[extra] else name, missing) from None
        raise


def say(line: str) -> None:
    """Print a line for the user on standard error."""
    print(line, file=sys.stderr, flush=True)
