"""Files and folders, here or elsewhere: which are data, which split each is, and about how many rows it has."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

import pyarrow as pa

from qa_fast import store
from qa_fast.errors import UserError

DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "eval": "validation",
    "test": "test",
}


def find_splits(path: Path) -> dict[str, list[Path]]:
    """The data files of a file or folder, by split.

    A name with the word train, dev, val, validation or test in it says the split; a folder's name does where the
    file's does not; a single file whose name says nothing is "train". A folder that `datasets` saved says its splits
    and files itself.

    Raises:
        UserError: No such path, or no data files in it.
    """
    with store.reached(path, "SOURCE"):
        if store.is_file(path):
            return {split_of(path.name) or "train": [path]}
        if not store.is_folder(path):
            raise UserError(
                "SOURCE must be 'squad', a dataset id on the Hub, or a local file or folder, or a URL; "
                f"received {path}, which is not there"
            )
        if store.is_file(path / "qa_fast.json"):
            raise UserError(
                f"SOURCE must hold questions and contexts; {path} holds shards, which are featurized already"
            )
        splits = _saved_splits(path)
        if splits:
            return splits
        for file in sorted(path.rglob("*"), key=str):
            if file.suffix.lower() not in DATA_ENDINGS or file.name in _NO_DATA or not file.is_file():
                continue
            name = str(file.relative_to(path))
            if not any(part.startswith(".") for part in Path(name).parts):
                splits.setdefault(split_of(name) or "train", []).append(file)
    if not splits:
        raise UserError(f"a SOURCE folder must hold JSON, JSONL, Parquet or Arrow files; found none in {path}")
    return splits


def _saved_splits(path: Path) -> dict[str, list[Path]]:
    """The splits of a folder that `datasets` saved; its caches lie beside the data and are not read."""
    splits: dict[str, list[Path]] = {}
    for state in sorted([path / "state.json", *path.glob("*/state.json")]):
        try:
            about = json.loads(state.read_text(encoding="utf-8"))
            files = [state.parent / file["filename"] for file in about["_data_files"]]
            name = state.parent.name if state.parent != path else about.get("_split") or "train"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # another tool's file of this name
        splits[str(name)] = files
    return splits


def split_of(name: str) -> str | None:
    """The split that a file's name says, or the nearest of the folders' in its relative path."""
    for part in reversed(Path(name).parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def row_count(path: Path, question: str = "question") -> int | None:
    """About how many rows a file has, for a progress bar.

    Args:
        path: Parquet, whose footer says it, or JSON, where the question's key is counted.
        question: Its key.

    Returns:
        None where that cannot be told without reading the file, or fetching it.
    """
    if not store.is_local(path):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head.startswith(b"PAR1"):
                import pyarrow.parquet as pq

                return int(pq.read_metadata(file).num_rows)
            if not head or head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                key = re.compile(
                    re.escape(json.dumps(question, ensure_ascii=False).encode("utf-8", "replace")) + rb"\s*:"
                )
                return sum(1 for _ in key.finditer(data))
    except (OSError, ValueError, pa.ArrowException):
        return None  # reading it will say what is wrong
