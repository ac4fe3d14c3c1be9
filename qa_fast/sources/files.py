"""The data files in a folder or at a URL, the split of each, and its approximate number of rows."""

from __future__ import annotations

import json
import mmap
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from qa_fast import store
from qa_fast.errors import UserError, some_of
from qa_fast.sources.plain import COMPRESSIONS, HEAD_BYTES, layer_of, members_of

DATA_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".ipc")
NO_DATA = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
# Files that mark a folder which qa-fast made, finished or not.
_MADE = {"qa_fast.json", "qa_fast_answers.json", ".qa_fast-partial"}
# Names of skipped files that a line gives for each reason.
_NAMED = 3
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


@dataclass(frozen=True)
class FoundFiles:
    """The data files of a file or folder.

    Attributes:
        splits: Split -> files, in reading order.
        skipped: Name within the folder of each file that is not read -> the reason.
    """

    splits: dict[str, list[Path]]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """The skipped files in one line, by reason; empty if there are none."""
        names: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            names.setdefault(reason, []).append(name)
        parts = [f"{some_of(group, _NAMED)} ({reason})" for reason, group in names.items()]
        return f"{len(self.skipped):,} not read: {'; '.join(parts)}" if parts else ""


def find_files(path: Path) -> FoundFiles:
    """Find the data files of a file or folder, by split.

    The split is the word train, dev, val, validation or test in the name of the file or else of its folders, and
    "train" if there is none. A folder that `datasets` saved names its splits and files itself.

    Raises:
        UserError: The path does not exist, or has no data files.
    """
    with store.reached(path, "SOURCE"):
        if store.is_file(path):
            return FoundFiles({split_of(_full_name(path, path.name)) or "train": [path]})
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
        saved = _saved_splits(path)
        found = FoundFiles(dict(saved))
        listed = {file for files in saved.values() for file in files}
        below = sorted(path.rglob("*"), key=str)
        # Shards and answers may have been written into the folder of their source, and are not part of it.
        made = tuple(str(file.parent) + "/" for file in below if file.name in _MADE)
        for file in below:
            if file in listed:
                continue
            name = str(file.relative_to(path))
            reason = _unread(file, name, bool(saved))
            if reason != "" and str(file).startswith(made):
                reason = "made by qa-fast"
            if reason:
                found.skipped[name] = reason
            elif reason is None:
                found.splits.setdefault(split_of(_full_name(file, name)) or "train", []).append(file)
    if not found.splits:
        raise UserError(
            f"a SOURCE folder must hold JSON, JSONL, CSV, TSV, Parquet or Arrow files; found none in {path}"
            + (f" ({found.remark})" if found.skipped else "")
        )
    return found


def names_split(path: Path) -> bool:
    """Tell whether the name of a file, or of the single file in a zip file, names a split."""
    return split_of(_full_name(path, path.name)) is not None


def _unread(file: Path, name: str, is_saved: bool) -> str | None:
    """Return why a file `name` of a folder is not read; None if it is read, and "" if there is nothing to read."""
    if store.is_local(file) and file.is_symlink() and not file.is_file():
        return "a link to a folder" if file.is_dir() else "a link that leads nowhere"
    if store.is_folder(file):
        return "" if not store.is_local(file) or os.access(file, os.R_OK | os.X_OK) else "a folder without access"
    if any(part.startswith(".") for part in Path(name).parts):
        return "hidden"
    if file.name in NO_DATA:
        return "it describes the data"
    if not store.is_file(file):
        return store.special(file) or "no file"
    if is_saved:
        return "state.json does not list it"
    ending = data_ending(_full_name(file, name))
    if ending in DATA_ENDINGS:
        beside = file.with_suffix("") if file.suffix.lower() in COMPRESSIONS else file
        return f"{beside.name} is beside it" if beside != file and store.is_file(beside) else None
    if ending in COMPRESSIONS:
        if ending == ".zip":
            return "a zip file must hold one file of data"
        return f"the name must say what is compressed, as in train.json{ending}"
    return f"no data by its ending {ending}" if ending else "its name has no ending"


def data_ending(name: str) -> str:
    """Return the ending of a name in lower case, without those of compressions if one is before them."""
    ending = Path(name).suffix.lower()
    return (data_ending(Path(name).stem) or ending) if ending in COMPRESSIONS else ending


def _full_name(file: Path, name: str) -> str:
    """Return a name, followed by that of the file inside if it is a zip file with a single one."""
    members = members_of(file) if file.suffix.lower() == ".zip" else []
    return f"{name}/{members[0]}" if len(members) == 1 else name


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
        None for other, compressed and remote files, which must be read or fetched to know it, and without such a key.
    """
    if not store.is_local(path):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if head.startswith(b"PAR1"):
                import pyarrow.parquet as pq

                return int(pq.read_metadata(file).num_rows)
            if not head or layer_of(head) or head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                key = re.compile(
                    re.escape(json.dumps(question, ensure_ascii=False).encode("utf-8", "replace")) + rb"\s*:"
                )
                return sum(1 for _ in key.finditer(data)) or None
    except (OSError, ValueError, pa.ArrowException):
        return None  # reading the file reports the error
