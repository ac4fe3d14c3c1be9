"""The paths of the files in a folder of shards."""

from __future__ import annotations

from pathlib import Path


def shard_file(out: Path, split: str, kind: str = "data", number: int = 0) -> Path:
    """A block's file: "data", "examples" or "contexts"."""
    (path,) = (out / split).glob(f"{kind}-*-{number:05d}.arrow")
    return path
