"""Graphs for ONNX Runtime and OpenVINO, made from a model folder once and kept in the user's cache.

The path of a graph contains a hash of what it was made from (weights, config.json, rounding, version of the writer), so
that a graph never has to be invalidated. It is made in a separate process with Keras on numpy, which needs no backend
and returns its memory. One process makes a graph while others wait for it, seals it and moves it into place whole. A
graph that is not as it was sealed is made again.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from qa_fast.cache import cache_folder, is_intact, not_writable, seal, writable
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.recipe import Rounding, save
from qa_fast.locks import locked
from qa_fast.model.files import plain_file
from qa_fast.model.identity import hash_of_weights
from qa_fast.temporary import temporary_folder

# Version of the graphs that `derive` writes: raise it whenever they change.
_VERSION = 3
GRAPH = "graph.onnx"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Kind:
    """The purpose of a graph.

    Attributes:
        engine: "onnx" or "openvino".
        ranges: Whether its outputs are the ranges of products' inputs instead of logits.
        rounding: How an int8 graph is rounded; None for float32.
    """

    engine: str
    ranges: bool = False
    rounding: Rounding | None = None

    @property
    def name(self) -> str:
        """Return the name of the graph's folder."""
        variant = "-ranges" if self.ranges else "" if self.rounding is None else f"-int8-{self.rounding.digest}"
        return self.engine + variant


def model_key(folder: Path) -> str:
    """Return a hash of a model folder's config.json and weights, in hex.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    return hash_of_weights(folder, plain_file(folder, "config.json") or folder / "config.json")


def graph_of(folder: Path, kind: Kind, say: Say | None = None, key: str | None = None) -> Path:
    """Return the path of a model's graph, an ONNX file; make it if it is not in the cache.

    Args:
        folder: The model folder.
        kind: The kind of graph.
        say: Called with a line for the user before a graph is made.
        key: `model_key` of the folder, if it is known.

    Raises:
        UserError: The model cannot be read, a package is missing, or the cache folder cannot be written.
    """
    place = cache_folder() / "graphs" / f"{key or model_key(folder)}-{_VERSION}" / kind.name
    if not is_intact(place):
        place = writable(place)
        with held(place):
            if not is_intact(place):
                if say is not None:
                    say(f"making a graph of the model for {kind.engine}, once")
                _make(folder, kind, place)
    return place / GRAPH


def forget(graph: Path) -> None:
    """Remove a graph of `graph_of` that is no longer needed; a process that has it open is not disturbed."""
    shutil.rmtree(graph.parent, ignore_errors=True)


def held(place: Path) -> AbstractContextManager[None]:
    """Let one process at a time make what belongs at `place`; other processes wait.

    Raises:
        UserError: The cache folder cannot be written.
    """
    return locked(place.parent / f".{place.name}-lock", not_writable, wait=True)


def _make(folder: Path, kind: Kind, place: Path) -> None:
    prefix = f".{place.name}.making-"
    try:
        for abandoned in place.parent.glob(f"{prefix}*"):  # by a killed process: this one holds the lock
            shutil.rmtree(abandoned)
        with temporary_folder(prefix, place.parent) as scratch:
            made = scratch / "made"
            made.mkdir()
            options = ["--ranges"] if kind.ranges else []
            if kind.rounding is not None:
                save(scratch / "rounding", kind.rounding, {})
                options = ["--int8", str(scratch / "rounding")]
            run_module("qa_fast.infer.derive", [str(folder), str(made / GRAPH), kind.engine, *options], backend="numpy")
            seal(made, [path.name for path in made.iterdir()])
            if place.exists():  # it is damaged, or its removal was interrupted
                shutil.rmtree(place)
            os.replace(made, place)
    except OSError as error:
        raise not_writable(place.parent, error) from None


def run_module(module: str, arguments: Sequence[str], backend: str | None = None, seconds: float | None = None) -> str:
    """Run one of our modules in a process of its own.

    Args:
        module: The module's name.
        arguments: Arguments of its command line.
        backend: Keras' backend in the process.
        seconds: Time limit; None for no limit.

    Returns:
        Its standard output.

    Raises:
        UserError: The module raised it (see `end_with`), or the time limit was exceeded.
    """
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend is not None:
        environment["KERAS_BACKEND"] = backend
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"the process must end within {seconds:g} s; it did not") from None
    except OSError as error:
        raise UserError(f"a second process must start; {error}: free some memory, or end other processes") from None
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        raise UserError(
            f"a process that works on the model must run to its end; signal {-done.returncode} ended it (9 often means "
            "that memory ran out): free some memory, or choose another --engine"
        )
    lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    if done.returncode == USER_ERROR:
        raise UserError(lines[-1])
    raise RuntimeError(f"{module} failed:\n{done.stderr}")


# Exit status of a module that ended with a `UserError`, whose message is the last line on standard error.
USER_ERROR = 3


def end_with(work: Callable[[], None]) -> None:
    """Run the work of a module that `run_module` started, and report what the user can correct by exit status."""
    try:
        work()
        return
    except ModuleNotFoundError as error:
        problem: UserError = MissingExtraError("reading with a model", "answer", error.name or "onnx")
    except UserError as error:
        problem = error
    except MemoryError as error:
        problem = UserError(f"there must be enough memory; {error or 'it ran out'}: free some, or take a smaller model")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = not_writable(cache_folder(), error)
    print(problem, file=sys.stderr)
    sys.exit(USER_ERROR)
