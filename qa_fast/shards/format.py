"""The names of files in a folder of shards, the form of the index, and checks of files against it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import xxhash

from qa_fast import store

INDEX = "qa_fast.json"
FORMAT_VERSION = 4
TRAIN = "train"
REJECTED, REPAIRED = "rejected.jsonl", "repaired.jsonl"
SPLITS = "dataset_dict.json"
CHECKSUM = "xxh3_128"
# The description in the dataset_info.json of a split.
DESCRIPTION = "Made by qa-fast featurize."
# What the index records about a file: name within the split, number of its block, rows, bytes and checksum.
FILE_FACTS = ("file", "block", "rows", "bytes", CHECKSUM)
# The kinds of files of a block: features, their further labels, and the examples and contexts that evaluation needs.
DATA, LABELS, EXAMPLES, CONTEXTS = "data", "labels", "examples", "contexts"
# Digits of a fingerprint that tell the files of different builds in the same folder apart.
_NAME_DIGITS = 8
_NAME = re.compile(rf"({DATA}|{LABELS}|{EXAMPLES}|{CONTEXTS})-[0-9a-f]{{{_NAME_DIGITS}}}-\d{{5,}}\.arrow")


def file_name(kind: str, fingerprint: str, number: int) -> str:
    """Return the name of a block's file. Different builds never write the same name."""
    return f"{kind}-{fingerprint[:_NAME_DIGITS]}-{number:05d}.arrow"


def is_file_name(name: str) -> bool:
    """Tell whether a name is one that `file_name` returns."""
    return _NAME.fullmatch(name) is not None


def kind_of(name: str) -> str:
    """Return the kind in a file's name."""
    return name.partition("-")[0]


def number_of(name: str) -> int:
    """Return the number of the block in a file's name."""
    return int(name.removesuffix(".arrow").rpartition("-")[2])


def is_index(value: Any) -> bool:
    """Tell whether a JSON value is an index whose parts have the right types, and whose file names are safe to open."""
    if not isinstance(value, dict) or not isinstance(value.get("splits"), dict) or not value["splits"]:
        return False
    model, config = value.get("model", {}), value.get("config", {})
    if not isinstance(model, dict) or not isinstance(config, dict):
        return False
    # These may be missing, but not null. Ids and lengths of tokens become int32.
    numbers = [(model, "pad_token_id"), (model, "cls_token_id"), (config, "max_length"), (config, "doc_stride")]
    texts = [(model, "tokenizer_hash"), (model, "name")]
    return (
        all(_is_count(part[key], below=2**31) for part, key in numbers if key in part)
        and all(isinstance(part[key], str) for part, key in texts if key in part)
        and all(_is_split(name, facts) for name, facts in value["splits"].items())
    )


def _is_split(name: str, facts: Any) -> bool:
    if name in ("", ".", "..") or "/" in name or "\0" in name or not isinstance(facts, dict):
        return False
    files = facts.get("shards")
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
    """Return the first file that is missing or differs from the index; None if all files are whole.

    Args:
        folder: The folder of the shards.
        manifest: Its index.
        contents: Compare checksums, which reads every file, instead of only lengths.
    """
    if not (folder / SPLITS).is_file():
        return SPLITS
    for listed, name in (("rejected", REJECTED), ("repaired", REPAIRED)):
        facts = manifest.get(listed)
        if contents and facts and not is_whole(folder / name, facts, contents):
            return name
    for split, facts in manifest["splits"].items():
        for file in facts["shards"]:
            if not is_whole(folder / split / file["file"], file, contents):
                return f"{split}/{file['file']}"
        for name in ("state.json", "dataset_info.json"):
            if not (folder / split / name).is_file():
                return f"{split}/{name}"
    return None


def is_whole(path: Path, facts: dict[str, Any], contents: bool) -> bool:
    """Tell whether a file has the length and, with `contents`, the checksum that an index records."""
    try:
        if not path.is_file() or store.size_of(path) != facts["bytes"]:
            return False
        return not contents or file_checksum(path) == facts[CHECKSUM]
    except FileNotFoundError:
        return False


def file_checksum(path: Path) -> str:
    """Return the 128-bit XXH3 of a file in hex, which finds damage as surely as SHA-256 in a seventh of the time."""
    with store.open_bytes(path) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]
