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


def is_index(value: Any) -> bool:
    """Whether a JSON value is an index, each part of its kind; a file's name is then one in its split's folder."""
    if not isinstance(value, dict) or not isinstance(value.get("splits"), dict) or not value["splits"]:
        return False
    model, config = value.get("model", {}), value.get("config", {})
    if not isinstance(model, dict) or not isinstance(config, dict):
        return False
    # What is there is of its kind; null is not what is left out. Numbers of tokens become int32.
    numbers = [(model, "pad_token_id"), (model, "cls_token_id"), (config, "max_length")]
    texts = [(model, "tokenizer_hash"), (model, "name")]
    return (
        all(_is_count(part[key], below=2**31) for part, key in numbers if key in part)
        and all(isinstance(part[key], str) for part, key in texts if key in part)
        and all(_is_split(name, about) for name, about in value["splits"].items())
    )


def _is_split(name: str, about: Any) -> bool:
    if name in ("", ".", "..") or "/" in name or "\0" in name or not isinstance(about, dict):
        return False
    files = about.get("shards")
    return isinstance(files, list) and all(
        isinstance(file, dict)
        and isinstance(file.get("file"), str)
        and is_file_name(file["file"])
        and all(_is_count(file.get(key)) for key in ("block", "rows", "bytes"))
        and isinstance(file.get(CHECKSUM), str)
        for file in files
    )


def _is_count(value: Any, below: int = 2**62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


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
        return not contents or file_checksum(path) == about[CHECKSUM]
    except FileNotFoundError:
        return False


def file_checksum(path: Path) -> str:
    """XXH3 of a file's bytes, 128 bits in hex."""
    with store.open_bytes(path) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]
