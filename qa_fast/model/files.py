"""Open files of a model folder safely: only plain files of its own, and JSON objects of bounded size and depth.

A model folder may come from anybody. Its files may be links to the user's own files, endless pipes, or JSON that
exhausts the parser. They are refused here before they are opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import orjson

from qa_fast.errors import UserError, shown

# The largest tokenizer.json in use has 33 MB.
_MOST_BYTES = 1 << 29
_MOST_DEPTH = 64
# Too large to be searched for its depth in Python; the tokenizers library, which reads it, stops at a depth of 128.
_DEPTH_UNCHECKED = ("tokenizer.json",)
_AGAIN = "download the model again"


def plain_file(folder: Path, name: str, below: str = "") -> Path | None:
    """Return the path of a file of a folder, or None if there is no such file.

    A link may lead to another file of the folder, or from a snapshot in the Hub's cache to its blobs, where each file
    is a link to `../../blobs/…`.

    Args:
        folder: The model folder.
        name: The file's name, which may come from anybody.
        below: Path of the file's folder within the model folder, such as "training"; never taken from a file.

    Raises:
        UserError: It is a folder, a pipe or a device, or a link to another place.
    """
    path = folder / below / name
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise UserError(f"a model's files must be in its folder; received {shown(name)}: {_AGAIN}")
    try:
        kind = path.stat().st_mode
        real = Path(os.path.realpath(path, strict=True))
        home = Path(os.path.realpath(folder, strict=True))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"a model's files must be readable; {path}: {error.strerror}: check the folder") from None
    if not stat.S_ISREG(kind):
        raise UserError(f"a model's files must be plain files; {str(path)!r} is not: {_AGAIN}")
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home / below
    if real.parent not in (home / below, blobs):
        raise UserError(
            f"a model's files must be in its folder; {str(path)!r} is a link to {str(real)!r}: put the file there"
        )
    return path


def checked_files(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the paths of the files that exist, by name; see `plain_file`."""
    paths = {name: plain_file(folder, name) for name in names}
    return {name: path for name, path in paths.items() if path is not None}


def folder_within(folder: Path, name: str) -> Path:
    """Return a folder within a model folder, to write to; make it if it does not exist.

    Raises:
        UserError: It is a file, or a link, which might lead to any place.
    """
    path = folder / name
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(
            f"a model's {name} must be a folder within the model's; {str(path)!r} is a link or a file: remove it"
        )
    path.mkdir(exist_ok=True)
    return path


def read_object(folder: Path, name: str) -> dict[str, Any] | None:
    """Read the JSON object in a folder's file; return None if there is no such file.

    Raises:
        UserError: It is not a plain file, not JSON, not an object, or too large or too deep.
    """
    path = plain_file(folder, name)
    if path is None:
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{name} must have at most {_MOST_BYTES >> 20} MB; {str(path)!r} has more: {_AGAIN}")
        # Python's own parser accepts NaN and numbers of any length, and fails on deep nesting.
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"a model's files must be readable; {path}: {error.strerror}: check the folder") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{name} must be JSON; {str(path)!r} is not ({error}): {_AGAIN}") from None
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a JSON object; {str(path)!r} is not: {_AGAIN}")
    if name not in _DEPTH_UNCHECKED and _is_deeper(value, _MOST_DEPTH):
        raise UserError(f"{name} must not be nested deeper than {_MOST_DEPTH}; {str(path)!r} is: {_AGAIN}")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    """Return whether values are nested more than `most` deep."""
    level = [value]
    for _ in range(most):
        children = [part.values() if isinstance(part, dict) else part for part in level]
        level = [child for part in children for child in part if isinstance(child, dict | list)]
        if not level:
            return False
    return True
