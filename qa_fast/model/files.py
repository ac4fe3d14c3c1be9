"""What is opened of a model folder, and how: plain files of its own, JSON that is an object of sane depth.

A model folder comes from anybody. Its files may be links to files of the user's, pipes that never end, or JSON made to
exhaust whoever parses it; all of that is refused here, before anything is opened, for every file that is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import orjson

from qa_fast.errors import UserError, shown

# The largest tokenizer.json in use has 33 MB; config.json and the like have a few KB, indexes of weights 0.2 MB.
_MOST_BYTES = 1 << 29
_MOST_DEPTH = 64
# What is as large as a vocabulary is not walked through for its depth: the Rust library, which reads it, stops at 128.
_BY_OTHERS = ("tokenizer.json",)


def plain_file(folder: Path, name: str, below: str = "") -> Path | None:
    """A file of a folder by its bare name; None where there is none.

    A link is followed to another file of the folder, and from a snapshot in the Hub's cache to its blobs: there each
    file is a link to `../../blobs/…`, and nothing else in a folder has reason to lead out of it.

    Args:
        folder: The model folder.
        name: The file's; it may come from anybody.
        below: The folder within the model folder that the file stands in, a path of our own choice such as "training"
            (never one out of a file); it must be no link either.

    Raises:
        UserError: It is a folder, a pipe or a device, or lies elsewhere.
    """
    path = folder / below / name
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise UserError(f"a model's files must lie in its folder itself; received {shown(name)}: {_AGAIN}")
    try:
        kind = path.stat().st_mode
        real = Path(os.path.realpath(path, strict=True))
        home = Path(os.path.realpath(folder, strict=True))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise UserError(f"a model's files must be readable; {path}: {error.strerror}: check the folder") from None
    if not stat.S_ISREG(kind):
        raise UserError(f"a model's files must be plain files; {str(path)!r} is none: {_AGAIN}")
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home / below
    if real.parent not in (home / below, blobs):
        raise UserError(
            f"a model's files must lie in its folder itself; {str(path)!r} is a link to {str(real)!r}: put the "
            "file there"
        )
    return path


_AGAIN = "download the model again"


def checked_files(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Those of the names that are there, see `plain_file`."""
    found = {name: plain_file(folder, name) for name in names}
    return {name: path for name, path in found.items() if path is not None}


def folder_within(folder: Path, name: str) -> Path:
    """A folder of ours in a model folder, to write to; made if it is not there.

    Raises:
        UserError: A file or a link is there in its place: what is written would go to wherever the link leads.
    """
    path = folder / name
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(
            f"a model's {name} must be a folder in the model's own; {str(path)!r} is a link or a file: remove it"
        )
    path.mkdir(exist_ok=True)
    return path


def read_object(folder: Path, name: str) -> dict[str, Any] | None:
    """The JSON object in a folder's file; None where there is no such file.

    Raises:
        UserError: It is no plain file, no JSON, no object, or too large or deep to be meant.
    """
    path = plain_file(folder, name)
    if path is None:
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{name} must have at most {_MOST_BYTES >> 20} MB; {str(path)!r} has more: {_AGAIN}")
        # Not Python's own parser: that one takes numbers of any length and NaN, and breaks off in deep nesting.
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"a model's files must be readable; {path}: {error.strerror}: check the folder") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{name} must be JSON; {str(path)!r} is not ({error}): {_AGAIN}") from None
    if not isinstance(value, dict):
        raise UserError(f"{name} must be a JSON object; {str(path)!r} is not: {_AGAIN}")
    if name not in _BY_OTHERS and _is_deeper(value, _MOST_DEPTH):
        raise UserError(f"{name} must not be nested deeper than {_MOST_DEPTH}; {str(path)!r} is: {_AGAIN}")
    return value


def _is_deeper(value: Any, most: int) -> bool:
    """Whether values stand in values to a greater depth."""
    level = [value]
    for _ in range(most):
        inner = [part.values() if isinstance(part, dict) else part for part in level]
        level = [each for part in inner for each in part if isinstance(each, dict | list)]
        if not level:
            return False
    return True
