"""Shards that lie elsewhere, for reading: each split's files are copied to the cache when it is first opened.

Training goes through the features in an order of its own, again and again, so they are fetched once, checked against
the index's checksums, and then mapped into memory like local ones: a split need not fit into memory, but on the disk.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.shards.format import INDEX, SPLITS, is_whole
from qa_fast.sources.cache import cache_folder

# Files fetched at a time: one line rarely takes all that an object store gives.
_AT_A_TIME = 4


def local_folder(place: Path) -> Path:
    """The folder in the cache where the shards of a place are kept, with their index; nothing more is fetched yet.

    Args:
        place: No local path.

    Raises:
        UserError: There is no index, or the place cannot be reached.
    """
    with store.reached(place, "SHARDS"):
        if not (place / INDEX).is_file():
            raise UserError(
                f"SHARDS must be a folder that 'qa-fast featurize' made; {place} has no {INDEX} (not made by qa-fast, "
                "or not finished): run featurize first"
            )
        index = (place / INDEX).read_bytes()
    folder = cache_folder() / "shards" / f"from-{hashlib.sha256(str(place).encode() + index).hexdigest()[:20]}"
    if not (folder / INDEX).is_file():
        store.write_whole(folder / INDEX, index)
    return folder


def fetch_split(place: Path, folder: Path, name: str, files: list[dict[str, Any]]) -> None:
    """Have a split's files in the cache.

    Args:
        place: Where the shards lie.
        folder: As `local_folder` gave it.
        name: The split.
        files: What the index says of them.

    Raises:
        UserError: A file is not there, or not as the index says, or there is no room for it.
    """

    def fetch(file: dict[str, Any]) -> None:
        local = folder / name / file["file"]
        if is_whole(local, file, contents=False):
            return  # written whole, and checked then
        with store.whole_file(local) as temporary:
            store.fetch(place / name / file["file"], temporary)
            if not is_whole(temporary, file, contents=True):
                raise UserError(
                    f"{place} must be as featurize left it; {name}/{file['file']} is damaged: featurize again"
                )

    def fetch_beside(names: tuple[str, ...]) -> None:
        for beside in names:
            if not (folder / beside).is_file():
                with store.whole_file(folder / beside) as temporary:
                    store.fetch(place / beside, temporary)

    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(fetch, files))
        fetch_beside((SPLITS, f"{name}/state.json", f"{name}/dataset_info.json"))
    except OSError as error:
        raise UserError(
            f"the cache folder must be one that can be written, with room; {folder}: {error.strerror or error}: "
            "name another in the environment variable QA_FAST_CACHE"
        ) from None
