"""Optional packages: report a missing one with its install command, and silence TensorFlow's log."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from qa_fast.cli.stderr import hush_native_notes
from qa_fast.errors import MissingExtraError, UserError, shown, without_secrets

_TRAINED_WITH = ("tensorflow", "jax")
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
        UserError: KERAS_BACKEND names a backend that cannot be used.
    """
    backend = os.environ.get("KERAS_BACKEND", "")
    usable = backend in ("", *_TRAINED_WITH)
    refused = UserError(f"KERAS_BACKEND must be {' or '.join(_TRAINED_WITH)}; received {shown(backend)}: unset it")
    if not usable and extra in ("train", "sweep", "export"):
        raise refused
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    hush_native_notes()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except (ImportError, ValueError) as error:
        if not usable and any(name.startswith("keras.") for name in sys.modules):  # the engine is Keras
            raise refused from None
        if not isinstance(error, ModuleNotFoundError):
            raise
        missing = (error.name or "").split(".")[0]
        for name, modules in _MODULES.items():
            if missing in modules:
                raise MissingExtraError(what, extra if missing in _MODULES[extra] else name, missing) from None
        raise


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, in ASCII unless the output is UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or ""
    typer.echo(json.dumps(value, ensure_ascii=encoding.lower() not in ("utf-8", "utf8")))


def say(line: str) -> None:
    """Print a line for the user on standard error."""
    print(without_secrets(line), file=sys.stderr, flush=True)
