"""Fixtures that several test files share: the real model's folder, real data where it can be had, small tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_fast.errors import UserError
from qa_fast.sources import resolve_model, resolve_source


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
