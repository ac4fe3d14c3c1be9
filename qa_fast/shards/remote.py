"""Reads remote shards: the files of a split are copied to the cache when the split is first opened.

Training reads the features repeatedly and in its own order. So they are fetched once, checked against the checksums of
the index, and then memory-mapped like local ones. A split must fit on the disk, but not into memory.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from qa_fast import store
from qa_fast.cache import cache_folder, is_intact, not_writable, seal
from qa_fast.errors import UserError
from qa_fast.shards.format import INDEX, SPLITS, is_whole

# Files fetched at a time, since a single connection rarely reaches the speed of an object store.
_AT_A_TIME = 4


def local_folder(place: Path) -> Path:
    """Return the folder in the cache for remote shards, with their index; nothing else is fetched yet.

    Args:
        place: The remote folder.

    Raises:
        UserError: There is no index, or the folder cannot be reached.
    """
    with store.reached(place, "SHARDS"):
        if not (place / INDEX).is_file():
            raise UserError(
                f"SHARDS must be a folder that 'qa-fast featurize' made; {place} has no {INDEX} (not made by qa-fast, "
                "or not finished): run featurize first"
            )
        index = (place / INDEX).read_bytes()
    folder = cache_folder() / "shards" / f"from-{hashlib.sha256(str(place).encode() + index).hexdigest()[:20]}"
    if not store.is_file(folder / INDEX) or (folder / INDEX).read_bytes() != index:
        store.write_whole(folder / INDEX, index)
    return folder


def fetch_split(place: Path, folder: Path, name: str, files: list[dict[str, Any]]) -> None:
    """Fetch the files of a split that are not in the cache yet.

    Args:
        place: The remote folder of the shards.
        folder: The folder in the cache, from `local_folder`.
        name: The split.
        files: The facts of its files in the index.

    Raises:
        UserError: A file is missing, differs from the index, or the cache cannot be written.
    """

    def fetch(file: dict[str, Any]) -> None:
        local = folder / name / file["file"]
        if is_whole(local, file, contents=True):
            return
        with store.whole_file(local) as temporary:
            store.fetch(place / name / file["file"], temporary)
            if not is_whole(temporary, file, contents=True):
                raise UserError(
                    f"{place} must be as featurize left it; {name}/{file['file']} is damaged: featurize again"
                )

    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(fetch, files))
        for beside in (SPLITS, f"{name}/state.json", f"{name}/dataset_info.json"):
            if not is_intact((folder / beside).parent, [(folder / beside).name]):
                with store.whole_file(folder / beside) as temporary:
                    store.fetch(place / beside, temporary)
                seal((folder / beside).parent, [(folder / beside).name])
    except OSError as error:
        raise not_writable(folder, error) from None
