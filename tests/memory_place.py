"""Places that are no local paths, without a network."""

from __future__ import annotations

import uuid
from pathlib import Path

from qa_fast import store


def memory_place() -> Path:
    """A new folder of fsspec's own file system in memory."""
    return store.place(f"memory://{uuid.uuid4().hex}")
