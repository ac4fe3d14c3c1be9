"""The graphs that ONNX Runtime and OpenVINO read, made from a model folder once and kept in the user's cache.

A graph's place is named after what it was made from (the weights, config.json, how it is quantized, the version of its
writer), so that a model trained anew gets a new one and nothing has to be thrown away in time. It is made in a process
of its own, in which Keras runs on numpy: drawing needs no backend, and the memory goes back. One process makes a graph
while others wait for it; it is moved into place whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.quantization import Rounding, save
from qa_fast.locks import locked
from qa_fast.model.files import plain_file
from qa_fast.model.folder import weight_files
from qa_fast.sources.cache import cache_folder

# Of the graphs that `derive` writes: raise it with any change of them.
_VERSION = 1
GRAPH = "graph.onnx"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Kind:
    """What a graph is made for.

    Attributes:
        engine: "onnx" or "openvino".
        ranges: Whether it gives the ranges of products' inputs in place of logits.
        rounding: For an int8 graph; None for one in float32.
    """

    engine: str
    ranges: bool = False
    rounding: Rounding | None = None

    @property
    def name(self) -> str:
        """Of the folder that holds the graph, within those of one model."""
        variant = "-ranges" if self.ranges else "" if self.rounding is None else f"-int8-{self.rounding.digest}"
        return self.engine + variant


def model_key(folder: Path) -> str:
    """A hash of a model folder's config.json and weights, in hex.

    Raises:
        UserError: They are not there.
    """
    state = xxhash.xxh3_128()
    config = plain_file(folder, "config.json") or folder / "config.json"
    for path in [config, *weight_files(folder)]:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    state.update(block)
        except OSError as error:
            raise UserError(f"a model's files must be readable; {path}: {error.strerror}: check the folder") from None
    return state.hexdigest()


def graph_of(folder: Path, kind: Kind, say: Say | None = None, key: str | None = None) -> Path:
    """The graph of a model, made if need be.

    Args:
        folder: The model folder.
        kind: What for.
        say: Told in a line where there is something to wait for.
        key: `model_key` of the folder, where it is known.

    Returns:
        An ONNX file.

    Raises:
        UserError: The model cannot be read, a package that making it needs is missing, or the cache folder cannot be
            written.
    """
    place = cache_folder() / "graphs" / f"{key or model_key(folder)}-{_VERSION}" / kind.name
    if not (place / GRAPH).is_file():
        with held(place):
            if not (place / GRAPH).is_file():
                if say is not None:
                    say(f"making a graph of the model for {kind.engine}, once")
                _make(folder, kind, place)
    return place / GRAPH


def forget(graph: Path) -> None:
    """Remove a graph that `graph_of` gave and that nobody will ask for again; whoever reads it now is not disturbed."""
    shutil.rmtree(graph.parent, ignore_errors=True)


def held(place: Path) -> AbstractContextManager[None]:
    """Let one process at a time make what belongs at `place`; other processes wait.

    Raises:
        UserError: The cache folder cannot be written.
    """
    return locked(place.parent / f".{place.name}-lock", cannot_write, wait=True)


def cannot_write(place: Path, error: OSError) -> UserError:
    """What an unwritable cache folder is told as."""
    return UserError(
        f"the cache folder must be one that can be written, with room; {place.parent}: {error.strerror}: name another "
        "in the environment variable QA_FAST_CACHE"
    )


def _make(folder: Path, kind: Kind, place: Path) -> None:
    prefix = f".{place.name}.making-"
    try:
        for left in place.parent.glob(f"{prefix}*"):  # by a run that was killed: who makes this holds its lock
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            options = ["--ranges"] if kind.ranges else []
            if kind.rounding is not None:
                save(Path(scratch) / "rounding", kind.rounding, {})
                options = ["--int8", str(Path(scratch) / "rounding")]
            run_module("qa_fast.infer.derive", [str(folder), str(made / GRAPH), kind.engine, *options], backend="numpy")
            if place.exists():  # without its graph: of somebody who stopped half-way through removing it
                shutil.rmtree(place)
            os.replace(made, place)
    except OSError as error:
        raise cannot_write(place, error) from None


def run_module(module: str, arguments: Sequence[str], backend: str | None = None, seconds: float | None = None) -> str:
    """Run one of our modules in a process of its own.

    Args:
        module: Its name.
        arguments: Of its command line.
        backend: Keras' backend there.
        seconds: How long it may take; None is as long as it likes.

    Returns:
        Its standard output.

    Raises:
        UserError: As it raised there; in its last line on standard error. Or it took too long.
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
        raise UserError(f"it must be done in {seconds:g} s; it was not") from None
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    if done.returncode == USER_ERROR:
        raise UserError(lines[-1])
    raise RuntimeError(f"{module} failed:\n{done.stderr}")


# Exit status of a module that ended in a user's error, told in its last line on standard error.
USER_ERROR = 3


def end_with(work: Callable[[], None]) -> None:
    """Run a module's work; see `run_module` for how errors leave the process."""
    try:
        work()
    except ModuleNotFoundError as error:
        print(MissingExtraError("reading with a model", "answer", error.name or "onnx"), file=sys.stderr)
        sys.exit(USER_ERROR)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(USER_ERROR)
