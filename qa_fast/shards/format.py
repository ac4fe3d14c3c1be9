"""What stands where in a folder of shards, and whether it stands there as the index says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import xxhash

from qa_fast import store

INDEX = "qa_fast.json"
FORMAT_VERSION = 3
TRAIN = "train"
REJECTED = "rejected.jsonl"
SPLITS = "dataset_dict.json"
CHECKSUM = "xxh3_128"
# What dataset_info.json says in the folder of a split.
DESCRIPTION = "Made by qa-fast featurize."
# What an index says of a file: its name within the split, its block's number, rows, bytes and checksum.
FILE_FACTS = ("file", "block", "rows", "bytes", CHECKSUM)
# The kinds of files that a block makes: features, and what evaluation needs of the examples and of their contexts.
DATA, EXAMPLES, CONTEXTS = "data", "examples", "contexts"
# Of a fingerprint, enough to tell the files of one build from another's in the same folder.
_NAME_DIGITS = 8
_NAME = re.compile(rf"({DATA}|{EXAMPLES}|{CONTEXTS})-[0-9a-f]{{{_NAME_DIGITS}}}-\d{{5,}}\.arrow")


def file_name(kind: str, fingerprint: str, number: int) -> str:
    """The name of a block's file: builds that differ never write the same one."""
    return f"{kind}-{fingerprint[:_NAME_DIGITS]}-{number:05d}.arrow"


def is_file_name(name: str) -> bool:
    """Whether a name is one that `file_name` gives."""
    return _NAME.fullmatch(name) is not None


def kind_of(name: str) -> str:
    """The kind that a file's name says."""
    return name.partition("-")[0]


def number_of(name: str) -> int:
    """The block's number that a file's name says."""
    return int(name.removesuffix(".arrow").rpartition("-")[2])


def damaged_file(folder: Path, manifest: dict[str, Any], contents: bool = False) -> str | None:
    """The first file that is missing or not as the index says, if there is one.

    Args:
        folder: Of the shards.
        manifest: Its index.
        contents: Compare checksums, which reads every file, and not lengths only.
    """
    if not (folder / SPLITS).is_file():
        return SPLITS
    rejected = manifest.get("rejected")
    if contents and rejected and not is_whole(folder / REJECTED, rejected, contents):
        return REJECTED
    for split, about in manifest["splits"].items():
        for file in about["shards"]:
            if not is_whole(folder / split / file["file"], file, contents):
                return f"{split}/{file['file']}"
        for name in ("state.json", "dataset_info.json"):
            if not (folder / split / name).is_file():
                return f"{split}/{name}"
    return None


def is_whole(path: Path, about: dict[str, Any], contents: bool) -> bool:
    """Whether a file has the length, and if asked the bytes, that an index says."""
    try:
        if not path.is_file() or store.size_of(path) != about["bytes"]:
            return False
        return not contents or _checksum(path) == about[CHECKSUM]
    except FileNotFoundError:
        return False


def _checksum(path: Path) -> str:
    with store.open_bytes(path) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]
