"""What stands where in a folder of shards, and whether it stands there as the index says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

INDEX = "qa_fast.json"
FORMAT_VERSION = 2
TRAIN = "train"
REJECTED = "rejected.jsonl"
CHECKSUM = "xxh3_128"


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A file's name may hold bytes that are no UTF-8; \udcff is how JSON writes them too.
    temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
    temporary.replace(path)


def damaged_file(folder: Path, manifest: dict[str, Any], contents: bool = False) -> str | None:
    """The first file that is missing or not as the index says, if there is one.

    Args:
        folder: Of the shards.
        manifest: Its index.
        contents: Compare checksums, which reads every file, and not lengths only.
    """
    if not (folder / "dataset_dict.json").is_file():
        return "dataset_dict.json"
    for split, about in manifest["splits"].items():
        for file in about["shards"]:
            path = folder / split / file["file"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                return f"{split}/{file['file']}"
            if contents and _checksum(path) != file[CHECKSUM]:
                return f"{split}/{file['file']}"
        for name in ("state.json", "dataset_info.json"):
            if not (folder / split / name).is_file():
                return f"{split}/{name}"
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
