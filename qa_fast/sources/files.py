"""The data files in a folder or at a URL, the split of each, and its approximate number of rows."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

import pyarrow as pa

from qa_fast import store
from qa_fast.errors import UserError

DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
NO_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
# Files that mark a folder which qa-fast made, finished or not.
_MADE = {"qa_fast.json", "qa_fast_answers.json", ".qa_fast-partial"}
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
    """Return the data files of a file or folder, by split.

    The split is the word train, dev, val, validation or test in the name of the file or else of its folders, and
    "train" if there is none. A folder that `datasets` saved names its splits and files itself.

    Raises:
        UserError: The path does not exist, or has no data files.
    """
    with store.reached(path, "SOURCE"):
        if store.is_file(path):
            return {split_of(path.name) or "train": [path]}
        kind = store.special(path)
        if kind is not None:
            raise UserError(
                f"SOURCE must be a file or folder, since it is read several times; {path} is {kind}: save what it "
                "holds to a file first"
            )
        if not store.is_folder(path):
            raise UserError(
                "SOURCE must be 'squad', a dataset id on the Hub, or a local file or folder, or a URL; "
                f"received {path}, which does not exist"
            )
        if store.is_file(path / "qa_fast.json"):
            raise UserError(
                f"SOURCE must hold questions and contexts; {path} holds shards, which are already featurized"
            )
        splits = _saved_splits(path)
        if splits:
            return splits
        below = sorted(path.rglob("*"), key=str)
        # Shards and answers may have been written into the folder of their source, and are not part of it.
        made = [str(file.parent) + "/" for file in below if file.name in _MADE]
        for file in below:
            if file.suffix.lower() not in DATA_ENDINGS or file.name in NO_DATA or not file.is_file():
                continue
            name = str(file.relative_to(path))
            if not any(part.startswith(".") for part in Path(name).parts) and not str(file).startswith(tuple(made)):
                splits.setdefault(split_of(name) or "train", []).append(file)
    if not splits:
        raise UserError(f"a SOURCE folder must hold JSON, JSONL, Parquet or Arrow files; found none in {path}")
    return splits


def _saved_splits(path: Path) -> dict[str, list[Path]]:
    """Return the splits of a folder that `datasets` saved; caches beside the data are not read."""
    splits: dict[str, list[Path]] = {}
    for state in sorted([path / "state.json", *path.glob("*/state.json")]):
        try:
            saved = json.loads(state.read_text(encoding="utf-8"))
            files = [state.parent / file["filename"] for file in saved["_data_files"]]
            name = state.parent.name if state.parent != path else saved.get("_split") or "train"
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a file of this name by another tool
        splits[str(name)] = files
    return splits


def split_of(name: str) -> str | None:
    """Return the split named in a relative path: by the file's name, or else by the nearest folder; None if neither."""
    for part in reversed(Path(name).parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def row_count(path: Path, question: str = "question") -> int | None:
    """Return the approximate number of rows of a file, for a progress bar.

    Args:
        path: A Parquet file, whose footer holds it, or a JSON file, in which the key of questions is counted.
        question: The key of questions.

    Returns:
        None for other files and remote files, which must be read or fetched to know it.
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
        return None  # reading the file reports the error
